"""The published layouts of ControlNet: the original one (Zhang et al.'s code, and SDXL's in sgm's names), diffusers'.

Its half of a U-Net is named as in a U-Net.
"""

from maquette.models import unet_names
from maquette.models.controlnet import ControlNet, ControlNetSpec
from maquette.models.unet import UNetSpec
from maquette.weights.dialect import Dialect, Names, Table, counted, layers, size
from maquette.weights.view import Weights


def original(network: ControlNet) -> Table:
    """The sources in the original layout, without `control_model.` before the names."""
    hint = {f"hint.layers.{index}": f"input_hint_block.{2 * index}" for index in range(len(network.hint.layers))}
    skips = {f"skips.{index}": f"zero_convs.{index}.0" for index in range(len(network.skips))}
    own = layers(network, "", "", {**hint, **skips, "middle": "middle_block_out.0"})
    return _encoder(unet_names.original(network.encoder)) | own


def diffusers(network: ControlNet) -> Table:
    """The sources in diffusers' layout."""
    root, last = "controlnet_cond_embedding", len(network.hint.layers) - 1
    hint: Names = {f"hint.layers.{index}": f"{root}.blocks.{index - 1}" for index in range(1, last)}
    hint = {"hint.layers.0": f"{root}.conv_in", **hint, f"hint.layers.{last}": f"{root}.conv_out"}
    skips = {f"skips.{index}": f"controlnet_down_blocks.{index}" for index in range(len(network.skips))}
    own = layers(network, "", "", {**hint, **skips, "middle": "controlnet_mid_block"})
    return _encoder(unet_names.diffusers(network.encoder)) | own


def _encoder(table: Table) -> Table:
    return {f"encoder.{name}": source for name, source in table.items()}


def spec_from_original(view: Weights) -> ControlNetSpec:
    """Read the spec off a network in the original layout; heads and groups as in `unet_names.spec_from_weights`."""
    count = len([name for name in view if name.startswith("input_hint_block.") and name.endswith(".weight")])
    widening = [f"input_hint_block.{2 * index}.weight" for index in range(0, count - 1, 2)]
    return _spec(view, unet_names.encoder_spec_from_original(view), widening)


def spec_from_diffusers(view: Weights) -> ControlNetSpec:
    """Read the spec off a network in diffusers' layout; heads and groups as in `unet_names.spec_from_weights`."""
    blocks = "controlnet_cond_embedding.blocks.{}.weight"
    widening = [blocks.format(index) for index in counted(view, blocks)[1::2]]
    return _spec(
        view,
        unet_names.encoder_spec_from_diffusers(view),
        ["controlnet_cond_embedding.conv_in.weight", *widening],
    )


def _spec(view: Weights, unet: UNetSpec, widening: list[str]) -> ControlNetSpec:
    """`widening` are the layers of the hint's network that change its width."""
    widths = tuple(size(view, name, 0) for name in widening)
    return ControlNetSpec(unet=unet, channels=size(view, widening[0], 1), hint_widths=widths)


ORIGINAL = Dialect("original", ("input_hint_block.0.weight", "middle_block_out.0.weight"), original, spec_from_original)
DIFFUSERS = Dialect(
    "diffusers",
    ("controlnet_cond_embedding.conv_in.weight", "controlnet_mid_block.weight"),
    diffusers,
    spec_from_diffusers,
)
DIALECTS = (ORIGINAL, DIFFUSERS)
