"""The published layouts of T2I-Adapter: the original one, which counts a full adapter's blocks through, diffusers'."""

from collections.abc import Iterator
from typing import Literal

from maquette.errors import MaquetteError
from maquette.models.t2i_adapter import AdapterLevel, T2IAdapter, T2IAdapterSpec
from maquette.weights.dialect import Dialect, Names, Table, counted, layers, size
from maquette.weights.view import Weights, describe

BLOCK: Names = {"conv1": "block1", "conv2": "block2"}


def original(network: T2IAdapter) -> Table:
    """The sources in the original layout."""
    spec, table = network.spec, layers(network, "", "", {"conv_in": "conv_in"})
    for number, (ours, level) in enumerate(_levels(network)):
        first = number if spec.form == "light" else number * spec.blocks
        table |= layers(level, ours, f"body.{first}", {"conv_in": "in_conv", "conv_out": "out_conv"})
        for index, block in enumerate(level.blocks):
            theirs = f"body.{first}.body.{index}" if spec.form == "light" else f"body.{first + index}"
            table |= layers(block, f"{ours}.blocks.{index}", theirs, BLOCK)
    return table


def diffusers(network: T2IAdapter) -> Table:
    """The sources in diffusers' layout."""
    table = layers(network, "", "adapter", {"conv_in": "conv_in"})
    for number, (ours, level) in enumerate(_levels(network)):
        table |= layers(level, ours, f"adapter.body.{number}", {"conv_in": "in_conv", "conv_out": "out_conv"})
        for index, block in enumerate(level.blocks):
            table |= layers(block, f"{ours}.blocks.{index}", f"adapter.body.{number}.resnets.{index}", BLOCK)
    return table


def _levels(network: T2IAdapter) -> Iterator[tuple[str, AdapterLevel]]:
    for number, level in enumerate(network.levels):
        assert isinstance(level, AdapterLevel)
        yield f"levels.{number}", level


def spec_from_original(view: Weights) -> T2IAdapterSpec:
    """Read the spec off an adapter in the original layout; of a full one every level has two blocks, as published."""
    if "body.0.out_conv.weight" in view:
        return _light(view, "body.{}", "body.0.body.{}.block1.weight")
    blocks = counted(view, "body.{}.block1.weight")[:: T2IAdapterSpec.blocks]
    return _full(view, "conv_in", [f"body.{index}" for index in blocks], T2IAdapterSpec.blocks)


def spec_from_diffusers(view: Weights) -> T2IAdapterSpec:
    """Read the spec off an adapter in diffusers' layout."""
    if "adapter.body.0.out_conv.weight" in view:
        return _light(view, "adapter.body.{}", "adapter.body.0.resnets.{}.block1.weight")
    levels = counted(view, "adapter.body.{}.resnets.0.block1.weight")
    blocks = counted(view, "adapter.body.0.resnets.{}.block1.weight")
    return _full(view, "adapter.conv_in", [f"adapter.body.{level}.resnets.0" for level in levels], len(blocks))


def _full(view: Weights, conv_in: str, first_blocks: list[str], blocks: int) -> T2IAdapterSpec:
    """Patches of 16 pixels belong to SDXL's adapters, of 8 to the others'."""
    inputs = size(view, f"{conv_in}.weight", 1)
    form: Literal["full", "xl"] = "full" if inputs % 16**2 else "xl"
    factor = 8 if form == "full" else 16
    widths = tuple(size(view, f"{block}.block1.weight", 0) for block in first_blocks)
    return T2IAdapterSpec(
        channels=_channels(view, inputs, factor), widths=widths, blocks=blocks, factor=factor, form=form
    )


def _light(view: Weights, level: str, block: str) -> T2IAdapterSpec:
    levels = counted(view, f"{level}.out_conv.weight")
    return T2IAdapterSpec(
        channels=_channels(view, size(view, f"{level.format(0)}.in_conv.weight", 1), 8),
        widths=tuple(size(view, f"{level.format(index)}.out_conv.weight", 0) for index in levels),
        blocks=len(counted(view, block)),
        form="light",
    )


def _channels(view: Weights, inputs: int, factor: int) -> int:
    channels, rest = divmod(inputs, factor**2)
    if rest or channels not in (1, 3):
        raise MaquetteError(
            f"{describe(view)}: the adapter reads {inputs} channels, which are no patches of {factor} x {factor} "
            "pixels; give its config.json"
        )
    return channels


ORIGINAL = Dialect("original", ("conv_in.weight", "body.0.block1.weight"), original, spec_from_original)
ORIGINAL_LIGHT = Dialect(
    "original light", ("body.0.in_conv.weight", "body.0.body.0.block1.weight"), original, spec_from_original
)
DIFFUSERS = Dialect("diffusers", ("adapter.body.0.resnets.0.block1.weight",), diffusers, spec_from_diffusers)
DIALECTS = (ORIGINAL, ORIGINAL_LIGHT, DIFFUSERS)
