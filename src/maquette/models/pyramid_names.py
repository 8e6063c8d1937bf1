"""What published first stages call the layers of their pyramids: originally, in diffusers (new and old), or mixed.

They differ in the order of the decoder's levels, in the names of layers, and in whether the attention's weights are
stored as matrices or as 1 x 1 convolutions, which changes nothing; files of both kinds are read in every layout.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from maquette.errors import MaquetteError
from maquette.nn.pyramid import Decoder, Encoder, PyramidSpec, SpatialAttention
from maquette.nn.resnet import ResBlock
from maquette.weights.dialect import CONV_1X1, LINEAR, Change, Names, Table, counted, layers, size
from maquette.weights.view import Weights, describe

QUANT: Names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
ENDS: Names = {"conv_in": "conv_in", "conv_out": "conv_out"}
RES: Names = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a layout calls each part; a `{}` stands for a number."""

    name: str
    level: str
    """A level by its way, down or up, and its number."""
    up_from: Literal["lowest", "highest"]
    """The resolution at which the decoder's levels are counted from 0; it computes from the lowest."""
    res: str
    attention: str
    middle: tuple[str, str, str]
    """The blocks at the lowest resolution: a residual one, the attention, which may be missing, a residual one."""
    resample: str
    norm_out: str
    skip: str
    attention_norm: str
    attention_layers: Names
    change: Change

    def levels(self, spec: PyramidSpec) -> dict[str, list[str]]:
        """The names of the levels on the way down and up, in the order of computation."""
        numbers = range(len(spec.widths))
        upwards = numbers if self.up_from == "lowest" else numbers[::-1]
        return {way: [self.level.format(way, n) for n in order] for way, order in (("down", numbers), ("up", upwards))}


ORIGINAL = Layout(
    name="original",
    level="{}.{}",
    up_from="highest",
    res="block.{}",
    attention="attn.{}",
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    resample="{}sample.conv",
    norm_out="norm_out",
    skip="nin_shortcut",
    attention_norm="norm",
    attention_layers={"attention.qkv": ("q", "k", "v"), "attention.out": "proj_out"},
    change=CONV_1X1,
)
MIXED = replace(
    ORIGINAL,
    name="original, attention as diffusers",  # by conversions that did not know its new names
    attention_layers={"attention.qkv": ("to_q", "to_k", "to_v"), "attention.out": "to_out.0"},
)
DIFFUSERS = Layout(
    name="diffusers",
    level="{}_blocks.{}",
    up_from="lowest",
    res="resnets.{}",
    attention="attentions.{}",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    resample="{}samplers.0.conv",
    norm_out="conv_norm_out",
    skip="conv_shortcut",
    attention_norm="group_norm",
    attention_layers={"attention.qkv": ("to_q", "to_k", "to_v"), "attention.out": "to_out.0"},
    change=LINEAR,
)
DIFFUSERS_OLD = replace(
    DIFFUSERS,
    name="old diffusers",
    attention_layers={"attention.qkv": ("query", "key", "value"), "attention.out": "proj_attn"},
)
LAYOUTS = (MIXED, ORIGINAL, DIFFUSERS_OLD, DIFFUSERS)  # those first whose files bear another one's marks too


def table(layout: Layout, spec: PyramidSpec, encoder: Encoder, decoder: Decoder) -> Table:
    """The sources of both halves' tensors in a layout, under `encoder` and `decoder`."""
    levels = layout.levels(spec)
    return _half(layout, encoder, "encoder", "down", levels["down"]) | _half(
        layout, decoder, "decoder", "up", levels["up"]
    )


def _half(layout: Layout, network: Encoder | Decoder, half: str, path: str, levels: list[str]) -> Table:
    """One half's sources; `levels` are its levels' names in the order of computation."""
    sources = layers(network, half, half, {**ENDS, "norm_out": layout.norm_out})
    middle = layout.middle if len(network.middle) == 3 else layout.middle[::2]
    for index, (block, theirs) in enumerate(zip(network.middle, middle, strict=True)):
        sources |= _block(layout, block, f"{half}.middle.{index}", f"{half}.{theirs}")
    level, position = 0, -1
    for index, block in enumerate(network.get_submodule(path).children()):
        ours, theirs = f"{half}.{path}.{index}", f"{half}.{levels[level]}"
        if isinstance(block, ResBlock):
            position += 1
            sources |= _block(layout, block, ours, f"{theirs}.{layout.res.format(position)}")
        elif isinstance(block, SpatialAttention):
            sources |= _block(layout, block, ours, f"{theirs}.{layout.attention.format(position)}")
        else:
            sources |= layers(block, ours, theirs, {"conv": layout.resample.format(path)})
            level, position = level + 1, -1
    return sources


def _block(layout: Layout, block: nn.Module, ours: str, theirs: str) -> Table:
    if not isinstance(block, SpatialAttention):
        return layers(block, ours, theirs, {**RES, "skip": layout.skip})
    return attention(layout, block, ours, theirs)


def attention(layout: Layout, block: SpatialAttention, ours: str, theirs: str) -> Table:
    """The sources of one attention over positions."""
    norm = layers(block, ours, theirs, {"norm": layout.attention_norm})
    return norm | layers(block, ours, theirs, layout.attention_layers, layout.change)


def marks(layout: Layout) -> tuple[str, ...]:
    """Names that files in the layout hold; what is in one of other names for attention holds another's marks too."""
    first = f"encoder.{layout.level.format('down', 0)}.{layout.res.format(0)}.conv2.weight"
    if layout not in (MIXED, DIFFUSERS_OLD):
        return (first,)
    return first, f"encoder.{layout.middle[1]}.{layout.attention_layers['attention.qkv'][0]}.weight"


def numbers(layout: Layout, view: Weights) -> dict[str, Any]:
    """The fields of a `PyramidSpec` but the groups, which are 32 in every published first stage, read off the shapes.

    Raises:
        MaquetteError: a tensor is missing, or 32 groups are impossible.
    """
    down = layout.level.format("down", "{}")
    res, attention, norm = (
        f"encoder.{name}.weight"
        for name in (
            f"{down}.{layout.res}.conv2",
            f"{down}.{layout.attention}.{layout.attention_norm}",
            f"{layout.middle[1]}.{layout.attention_norm}",
        )
    )
    levels = counted(view, f"encoder.{down}.{layout.res.format(0)}.conv2.weight")
    widths = tuple(size(view, res.format(level, 0), 0) for level in levels)
    if any(width % PyramidSpec.groups for width in widths):
        raise MaquetteError(
            f"{describe(view)}: widths {widths} do not divide into {PyramidSpec.groups} groups as in published "
            "autoencoders; give the config.json it was made with"
        )
    return {
        "channels": size(view, "decoder.conv_in.weight", 1),
        "widths": widths,
        "res_blocks": len(counted(view, res.replace("{}", "0", 1))),
        "in_channels": size(view, "encoder.conv_in.weight", 1),
        "attention": tuple(level for level in levels if attention.format(level, 0) in view),
        "middle_attention": norm in view,
    }
