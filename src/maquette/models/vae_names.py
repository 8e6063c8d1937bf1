"""The published layouts of the KL autoencoder: the original one (latent-diffusion) and diffusers', new and old.

They differ in the order of the decoder's levels, in the names of layers, and in whether the attention's weights are
stored as matrices or as 1 x 1 convolutions, which changes nothing; files of both kinds are read in every layout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import nn

from maquette.errors import MaquetteError
from maquette.models.vae import VAE, Decoder, Encoder, SpatialAttention, VAESpec
from maquette.nn.resnet import ResBlock
from maquette.weights.dialect import CONV_1X1, LINEAR, Change, Dialect, Table, counted, layers, recognise, size
from maquette.weights.view import Weights, describe

Names = Mapping[str, str | Sequence[str]]

QUANT: Names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
RES: Names = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a layout calls each part; a `{}` stands for a number."""

    down: str
    up: str
    up_from: Literal["lowest", "highest"]
    """The resolution at which the decoder's levels are counted from 0; it computes from the lowest."""
    res: str
    middle: tuple[str, str, str]
    resample: Mapping[str, str]
    ends: Names
    res_layers: Names
    norm: Names
    attention: Names
    change: Change


ORIGINAL_LAYOUT = Layout(
    down="down.{}",
    up="up.{}",
    up_from="highest",
    res="block.{}",
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    resample={"down": "downsample.conv", "up": "upsample.conv"},
    ends={"conv_in": "conv_in", "norm_out": "norm_out", "conv_out": "conv_out"},
    res_layers={**RES, "skip": "nin_shortcut"},
    norm={"norm": "norm"},
    attention={"attention.qkv": ("q", "k", "v"), "attention.out": "proj_out"},
    change=CONV_1X1,
)
DIFFUSERS_LAYOUT = Layout(
    down="down_blocks.{}",
    up="up_blocks.{}",
    up_from="lowest",
    res="resnets.{}",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    resample={"down": "downsamplers.0.conv", "up": "upsamplers.0.conv"},
    ends={"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"},
    res_layers={**RES, "skip": "conv_shortcut"},
    norm={"norm": "group_norm"},
    attention={"attention.qkv": ("to_q", "to_k", "to_v"), "attention.out": "to_out.0"},
    change=LINEAR,
)


def table(layout: Layout, vae: VAE) -> Table:
    """The sources of the autoencoder's tensors in a layout."""
    levels = range(len(vae.spec.widths))
    down = [layout.down.format(level) for level in levels]
    up = [layout.up.format(level) for level in (levels if layout.up_from == "lowest" else reversed(levels))]
    return (
        layers(vae, "", "", QUANT)
        | _half(layout, vae.encoder, "encoder", "down", down)
        | _half(layout, vae.decoder, "decoder", "up", up)
    )


def _half(layout: Layout, network: Encoder | Decoder, half: str, path: str, levels: list[str]) -> Table:
    """The encoder's or the decoder's sources; `levels` are their levels' names in the order of computation."""
    table = layers(network, half, half, layout.ends)
    for index, (block, theirs) in enumerate(zip(network.middle, layout.middle, strict=True)):
        table |= _block(layout, block, f"{half}.middle.{index}", f"{half}.{theirs}")
    level = position = 0
    for index, block in enumerate(network.get_submodule(path).children()):
        ours, theirs = f"{half}.{path}.{index}", f"{half}.{levels[level]}"
        if isinstance(block, ResBlock):
            table |= _block(layout, block, ours, f"{theirs}.{layout.res.format(position)}")
            position += 1
        else:
            table |= layers(block, ours, theirs, {"conv": layout.resample[path]})
            level, position = level + 1, 0
    return table


def _block(layout: Layout, block: nn.Module, ours: str, theirs: str) -> Table:
    if not isinstance(block, SpatialAttention):
        return layers(block, ours, theirs, layout.res_layers)
    return layers(block, ours, theirs, layout.norm) | layers(block, ours, theirs, layout.attention, layout.change)


def spec(layout: Layout, view: Weights) -> VAESpec:
    """Read the spec off an autoencoder in a layout; see `spec_from_weights`."""
    first = f"encoder.{layout.down}.{layout.res.format(0)}.conv2.weight"
    blocks = f"encoder.{layout.down.format(0)}.{layout.res}.conv2.weight"
    found = VAESpec(
        channels=size(view, "decoder.conv_in.weight", 1),
        widths=tuple(size(view, first.format(level), 0) for level in counted(view, first)),
        res_blocks=len(counted(view, blocks)),
        in_channels=size(view, "encoder.conv_in.weight", 1),
        quant_conv="quant_conv.weight" in view,
    )
    if any(width % found.groups for width in found.widths):
        raise MaquetteError(
            f"{describe(view)}: widths {found.widths} do not divide into {found.groups} groups as in published "
            "autoencoders; give the config.json it was made with"
        )
    return found


def spec_from_weights(view: Weights) -> VAESpec:
    """Read every number of the spec off names and shapes, in any layout; groups, invisible there, are 32.

    The factor that scales the latents is invisible too: it belongs to the family (`maquette.models.vae_config`).

    Raises:
        MaquetteError: the layout is unknown, or 32 groups are impossible.
    """
    return recognise(view, DIALECTS).spec(view)


def _dialect(name: str, layout: Layout) -> Dialect[VAE, VAESpec]:
    query = layout.attention["attention.qkv"][0]
    marks = ("encoder.conv_in.weight", "decoder.conv_in.weight", f"encoder.{layout.middle[1]}.{query}.weight")
    return Dialect(name, marks, partial(table, layout), partial(spec, layout), (r"loss\..*",))


ORIGINAL = _dialect("original", ORIGINAL_LAYOUT)
DIFFUSERS = _dialect("diffusers", DIFFUSERS_LAYOUT)
DIFFUSERS_OLD = _dialect(
    "old diffusers",
    replace(DIFFUSERS_LAYOUT, attention={"attention.qkv": ("query", "key", "value"), "attention.out": "proj_attn"}),
)
DIALECTS = (ORIGINAL, DIFFUSERS, DIFFUSERS_OLD)
