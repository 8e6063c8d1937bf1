"""The published layouts of the U-Net: the original one (CompVis, Stability's sgm) and diffusers'.

Names follow from the network's blocks, so any number of levels, residual blocks and transformers comes out right,
and the spec can be read back from names and shapes.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import accumulate, count
from typing import NamedTuple

from torch import Tensor

from maquette.errors import MaquetteError
from maquette.models import published, pyramid_names
from maquette.models.unet import SpatialTransformer, UNet, UNetEncoder, UNetSpec
from maquette.nn.pyramid import SpatialAttention
from maquette.nn.resnet import ResBlock
from maquette.weights.dialect import (
    CONV_1,
    CONV_1X1,
    LINEAR,
    Change,
    Dialect,
    Names,
    Source,
    Table,
    counted,
    layers,
    recognise,
    size,
    targets,
)
from maquette.weights.lora import Target
from maquette.weights.view import Weights, describe

# Layers outside the blocks, and layers of a residual block, in both layouts.
OUTER_ORIGINAL: Names = {
    "conv_in": "input_blocks.0.0",
    "time_embed.up": "time_embed.0",
    "time_embed.down": "time_embed.2",
    "guidance_embed": "time_embed.cond_proj",  # only diffusers' layout has published ones
    "vector_embed.up": "label_emb.0.0",
    "vector_embed.down": "label_emb.0.2",
    "norm_out": "out.0",
    "conv_out": "out.2",
}
OUTER_DIFFUSERS: Names = {
    "conv_in": "conv_in",
    "time_embed.up": "time_embedding.linear_1",
    "time_embed.down": "time_embedding.linear_2",
    "guidance_embed": "time_embedding.cond_proj",
    "vector_embed.up": "add_embedding.linear_1",
    "vector_embed.down": "add_embedding.linear_2",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
RES_ORIGINAL: Names = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
}
RES_DIFFUSERS: Names = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
}
# Both layouts name the insides of a transformer alike.
TRANSFORMER_BLOCK: Names = {
    "norm1": "norm1",
    "attn1.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn1.out": "attn1.to_out.0",
    "norm2": "norm2",
    "attn2.q": "attn2.to_q",
    "attn2.kv": ("attn2.to_k", "attn2.to_v"),
    "attn2.out": "attn2.to_out.0",
    "norm3": "norm3",
    "ff.up": "ff.net.0.proj",
    "ff.down": "ff.net.2",
}


class Place(NamedTuple):
    """Where a stage of ours lies in a layout: the prefixes of its residual block, transformer and resampler."""

    stage: str
    res: str
    transformer: str
    resample: str


def places_original(network: UNetEncoder) -> Iterator[Place]:
    """One numbered list each for input, middle and output; a stage's parts are counted from 0."""
    for index in range(len(network.down)):
        block = f"input_blocks.{index + 1}"
        yield Place(f"down.{index}", f"{block}.0", f"{block}.1", f"{block}.0.op")
    for index in range(len(network.middle)):
        yield Place(f"middle.{index}", f"middle_block.{2 * index}", f"middle_block.{2 * index + 1}", "")
    for index, stage in enumerate(network.up):
        block = f"output_blocks.{index}"
        yield Place(f"up.{index}", f"{block}.0", f"{block}.1", f"{block}.{1 if stage.transformer is None else 2}.conv")


def places_diffusers(network: UNetEncoder) -> Iterator[Place]:
    """Blocks are levels; each has its lists of residual blocks, transformers and resamplers."""
    level = position = 0
    for index, stage in enumerate(network.down):
        block = f"down_blocks.{level}"
        yield Place(
            f"down.{index}",
            f"{block}.resnets.{position}",
            f"{block}.attentions.{position}",
            f"{block}.downsamplers.0.conv",
        )
        level, position = (level, position + 1) if stage.resample is None else (level + 1, 0)
    for index in range(len(network.middle)):
        yield Place(f"middle.{index}", f"mid_block.resnets.{index}", f"mid_block.attentions.{index}", "")
    level = position = 0
    for index, stage in enumerate(network.up):
        block = f"up_blocks.{level}"
        yield Place(
            f"up.{index}", f"{block}.resnets.{position}", f"{block}.attentions.{position}", f"{block}.upsamplers.0.conv"
        )
        level, position = (level, position + 1) if stage.resample is None else (level + 1, 0)


Attention = Callable[[SpatialAttention, str, str], Table]


def original(network: UNetEncoder) -> Table:
    """The sources of the network's tensors in the original layout."""
    return _table(network, OUTER_ORIGINAL, RES_ORIGINAL, places_original(network), _attention_original)


def diffusers(network: UNetEncoder, layout: pyramid_names.Layout = pyramid_names.DIFFUSERS) -> Table:
    """The sources of the network's tensors in diffusers' layout; `layout` is that of attention without a context."""
    attention = partial(pyramid_names.attention, layout)
    return _table(network, OUTER_DIFFUSERS, RES_DIFFUSERS, places_diffusers(network), attention)


def _attention_original(attention: SpatialAttention, ours: str, theirs: str) -> Table:
    """One tensor holds, for each head in turn, the rows of its q, k and v, with a kernel of one."""
    heads = attention.attention.heads

    def read(tensor: Tensor) -> Tensor:
        return tensor.flatten(1 if tensor.ndim > 1 else 0).unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)

    def write(tensor: Tensor) -> Tensor:
        rows = tensor.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
        return rows[..., None] if rows.ndim > 1 else rows

    table = layers(attention, ours, theirs, {"norm": "norm"})
    table |= layers(attention, ours, theirs, {"attention.out": "proj_out"}, CONV_1)
    for leaf in ("weight", "bias"):
        table[f"{ours}.attention.qkv.{leaf}"] = Source((f"{theirs}.qkv.{leaf}",), Change(read, write))
    return table


def _table(network: UNetEncoder, outer: Names, res: Names, places: Iterator[Place], attention: Attention) -> Table:
    table = layers(network, "", "", outer)
    for place in places:
        stage = network.get_submodule(place.stage)
        if isinstance(stage.res, ResBlock):
            table |= layers(stage.res, f"{place.stage}.res", place.res, res)
        if isinstance(stage.transformer, SpatialTransformer):
            table |= _transformer(stage.transformer, f"{place.stage}.transformer", place.transformer, network.spec)
        elif isinstance(stage.transformer, SpatialAttention):
            table |= attention(stage.transformer, f"{place.stage}.transformer", place.transformer)
        if isinstance(stage.resample, ResBlock):
            table |= layers(stage.resample, f"{place.stage}.resample", place.resample.rpartition(".")[0], res)
        elif stage.resample is not None:
            table |= layers(stage, place.stage, "", {"resample.conv": place.resample})
    return table


def _transformer(transformer: SpatialTransformer, ours: str, theirs: str, spec: UNetSpec) -> Table:
    projection = LINEAR if spec.linear_projection else CONV_1X1
    table = layers(transformer, ours, theirs, {"norm": "norm"})
    table |= layers(transformer, ours, theirs, {"proj_in": "proj_in", "proj_out": "proj_out"}, projection)
    for index, block in enumerate(transformer.blocks):
        table |= layers(block, f"{ours}.blocks.{index}", f"{theirs}.transformer_blocks.{index}", TRANSFORMER_BLOCK)
    return table


def lora_targets(network: UNet) -> list[Target]:
    """Where LoRA files may speak of the network: in both layouts' names, dotted or joined by underscores."""
    tables = (diffusers(network),) if network.spec.context is None else (original(network), diffusers(network))
    return targets(network, tables, roots=("unet", "diffusion_model", ""), kohya=("lora_unet", "lycoris"))


SD2_CONTEXT = published.SD2_UNET.context
# Published networks whose heads are not as in others of their kind.
HEADS_OF_THEIR_OWN = (published.LDM_IMAGENET_F4_UNET, published.LDM_IMAGENET_F8_UNET)


class Level(NamedTuple):
    """One resolution, as names and shapes tell it: its width and the depth of each of its transformers."""

    width: int
    depths: tuple[int, ...]


def spec_from_original(view: Weights) -> UNetSpec:
    """Read the spec off a network in the original layout; see `spec_from_weights`."""
    ends = (".1.conv.weight", ".2.conv.weight", ".1.in_layers.0.weight", ".2.in_layers.0.weight")
    up = _levels(view, "output_blocks.{}", 0, lambda at: any(at + end in view for end in ends))
    # Where residual blocks change the resolution, only the way up tells which: it has one block more on each level.
    apart = {f"input_blocks.{end}" for end in accumulate(len(level.depths) for level in reversed(up[1:]))}
    adaptive = _is_adaptive(view, RES_ORIGINAL, "middle_block.0")
    down = _levels(view, "input_blocks.{}", 1, lambda at: at in apart if adaptive else f"{at}.0.op.weight" in view)
    middle = _middle(view, "middle_block.0.in_layers.0.weight", "middle_block.1")
    return _spec(view, down, middle, up, OUTER_ORIGINAL, adaptive)


def encoder_spec_from_original(view: Weights) -> UNetSpec:
    """The spec of the U-Net whose way down and middle a view holds; the way up mirrors the way down."""
    down = _levels(view, "input_blocks.{}", 1, lambda at: f"{at}.0.op.weight" in view)
    middle = _middle(view, "middle_block.0.in_layers.0.weight", "middle_block.1")
    return _spec(view, down, middle, _mirrored(down), OUTER_ORIGINAL, adaptive=False)


def encoder_spec_from_diffusers(view: Weights) -> UNetSpec:
    """As `encoder_spec_from_original`, in diffusers' layout."""
    down = _levels_diffusers(view, "down_blocks")
    middle = _middle(view, "mid_block.resnets.0.conv2.weight", "mid_block.attentions.0")
    return _spec(view, down, middle, _mirrored(down), OUTER_DIFFUSERS, adaptive=False)


def _mirrored(down: list[Level]) -> list[Level]:
    return [Level(level.width, (*level.depths, *level.depths[-1:])) for level in reversed(down)]


def _levels(view: Weights, pattern: str, first: int, ends_level: Callable[[str], bool]) -> list[Level]:
    """The levels of a numbered list; a new one starts behind each block that changes the resolution."""
    levels: list[Level] = []
    width, depths = 0, []
    for index in count(first):
        at = pattern.format(index)
        res = f"{at}.0.out_layers.3.weight" in view
        if res and not (first and ends_level(at)):
            width = size(view, f"{at}.0.out_layers.3.weight", 0)
            depths.append(_depth(view, f"{at}.1"))
        if ends_level(at):
            levels.append(Level(width, tuple(depths)))
            depths = []
        elif not res:
            return [*levels, Level(width, tuple(depths))]
    raise AssertionError("unreachable")


def spec_from_diffusers(view: Weights) -> UNetSpec:
    """Read the spec off a network in diffusers' layout; see `spec_from_weights`."""
    down, up = (_levels_diffusers(view, side) for side in ("down_blocks", "up_blocks"))
    middle = _middle(view, "mid_block.resnets.0.conv2.weight", "mid_block.attentions.0")
    return _spec(view, down, middle, up, OUTER_DIFFUSERS, _is_adaptive(view, RES_DIFFUSERS, "mid_block.resnets.0"))


def _levels_diffusers(view: Weights, side: str) -> list[Level]:
    return [_level(view, f"{side}.{level}") for level in counted(view, f"{side}.{{}}.resnets.0.conv2.weight")]


def _level(view: Weights, block: str) -> Level:
    indices = counted(view, f"{block}.resnets.{{}}.conv2.weight")
    depths = tuple(_depth(view, f"{block}.attentions.{index}") for index in indices)
    return Level(size(view, f"{block}.resnets.0.conv2.weight", 0), depths)


def _depth(view: Weights, transformer: str) -> int:
    if f"{transformer}.norm.weight" in view and f"{transformer}.qkv.weight" in view:
        return 1
    if f"{transformer}.group_norm.weight" in view:
        return 1
    return len(counted(view, f"{transformer}.transformer_blocks.{{}}.norm1.weight"))


def _middle(view: Weights, res: str, transformer: str) -> int | None:
    return _depth(view, transformer) if res in view else None


def _is_adaptive(view: Weights, res: Names, block: str) -> bool:
    """Whether time gives a residual block two numbers for each channel, a scale and a shift."""
    time, conv = f"{block}.{res['time']}.weight", f"{block}.{res['conv2']}.weight"
    return time in view and size(view, time, 0) == 2 * size(view, conv, 0)


def _spec(
    view: Weights, down: list[Level], middle: int | None, up: list[Level], outer: Names, adaptive: bool
) -> UNetSpec:
    if len(down) != len(up) or not all(level.depths for level in (*down, *up)):
        raise MaquetteError(
            f"{describe(view)}: a U-Net goes down over {len(down)} resolutions and up over {len(up)}; "
            "the file is cut short or of another kind: use another file"
        )
    first_vector, guidance = (f"{outer[name]}.weight" for name in ("vector_embed.up", "guidance_embed"))
    cross = next((name for name in view if name.endswith(".attn2.to_k.weight")), None)
    in_channels = size(view, f"{outer['conv_in']}.weight", 1)
    context, vector = (size(view, name, 1) if name in view else None for name in (cross or "", first_vector))
    linear = _has_linear_projection(view, context, vector)
    conv_out = f"{outer['conv_out']}.weight"  # half a U-Net has none
    # SD 1.x has 8 heads everywhere and convolutions for proj_in; heads of 64 came together with linear layers. Of the
    # public exceptions the x4 upscaler takes 7 channels, and those without a context have heads of 32, or 8 in "adm".
    eight_heads = adaptive or (cross is not None and (not linear or in_channels == 7))
    spec = UNetSpec(
        in_channels=in_channels,
        out_channels=size(view, conv_out, 0) if conv_out in view else in_channels,
        widths=tuple(level.width for level in down),
        down=tuple(level.depths for level in down),
        middle=middle,
        up=tuple(level.depths for level in up),
        context=context,
        heads=8 if eight_heads else None,
        head_width=None if eight_heads else 64 if cross else 32,
        vector=vector,
        guidance=size(view, guidance, 1) if guidance in view else None,
        linear_projection=linear,
        details="adm" if adaptive else "ldm",
    )
    spec = next((each for each in HEADS_OF_THEIR_OWN if replace(each, heads=8, head_width=None) == spec), spec)
    _check_divisible(view, spec)
    return spec


def _check_divisible(view: Weights, spec: UNetSpec) -> None:
    """Refuse widths that the published groups and heads do not divide: the network was made otherwise."""
    attended = [
        width for width, *depths in zip(spec.widths, spec.down, reversed(spec.up), strict=True) if any(map(any, depths))
    ]
    if any(width % spec.groups for width in spec.widths) or any(
        width % (spec.heads or spec.head_width or 1) for width in attended
    ):
        heads = f"{spec.heads} heads" if spec.heads else f"heads of {spec.head_width}"
        raise MaquetteError(
            f"{describe(view)}: widths {spec.widths} do not divide into {spec.groups} groups and {heads} as in "
            "published networks; give its config.json"
        )


def _has_linear_projection(view: Weights, context: int | None, vector: int | None) -> bool:
    """By the shape, but for stable-diffusion.cpp, which writes all as convolutions: SD 2's context, SDXL's vector."""
    projection = next((name for name in view if name.endswith(".proj_in.weight")), None)
    told = context is not None and (context == SD2_CONTEXT or vector is not None)
    return projection is not None and (told or len(view.shape(projection)) == 2)


def spec_from_weights(view: Weights) -> UNetSpec:
    """Read every number of the spec off names and shapes, in either layout.

    Shapes cannot tell heads, groups and details: heads are 8 where proj_in is a convolution, otherwise 64 wide (32
    without a context), as in every published network but those known by all their shapes; groups are 32; details are
    those of latent diffusion.

    Raises:
        MaquetteError: the layout is unknown, or heads and groups cannot be the published ones.
    """
    return recognise(view, DIALECTS).spec(view)


ORIGINAL = Dialect("original", ("input_blocks.0.0.weight", "out.2.weight"), original, spec_from_original)
DIFFUSERS = Dialect(
    "diffusers",
    ("conv_in.weight", "time_embedding.linear_1.weight", "conv_out.weight"),
    diffusers,
    spec_from_diffusers,
)
DIALECTS = (ORIGINAL, DIFFUSERS)
# Networks without a context, as diffusers 0.17 and before wrote their attention; they bear the new marks too.
DIFFUSERS_OLD = Dialect(
    "old diffusers",
    (*DIFFUSERS.marks, "mid_block.attentions.0.query.weight"),
    partial(diffusers, layout=pyramid_names.DIFFUSERS_OLD),
    spec_from_diffusers,
)
