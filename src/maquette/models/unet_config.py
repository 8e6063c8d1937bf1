"""The spec of a U-Net as diffusers writes it down: the `config.json` of a UNet2DConditionModel.

There `attention_head_dim` is the number of heads, whatever its name says; depths of transformers are given for each
level, the middle has the last level's, and the way up mirrors the way down unless `reverse_...` says otherwise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from maquette.errors import MaquetteError
from maquette.models.config import BUILT, Config
from maquette.models.unet import RES_EPS, UNetSpec

PLAIN, ATTENDING = ("DownBlock2D", "UpBlock2D"), ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
MIDDLE_ATTENDING, MIDDLE_PLAIN = "UNetMidBlock2DCrossAttn", "UNetMidBlock2D"

FIXED: Mapping[str, Any] = {
    "act_fn": "silu",
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "norm_eps": RES_EPS,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
"""What the network computes with; diffusers can do otherwise, and no published Stable Diffusion does."""
IRRELEVANT = ("sample_size", "dropout", "upcast_attention", "addition_embed_type_num_heads")
VECTOR_SINUSOIDS = 256  # width of the embedding of each number in SDXL's vector


def from_config(options: Mapping[str, Any], where: str = "config.json") -> UNetSpec:
    """The spec that a UNet2DConditionModel's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config = Config(options, where)
    config.expect(FIXED)
    widths = config.integers("block_out_channels")
    levels = len(widths)
    blocks = config.integers("layers_per_block", levels, 2, BUILT // levels)
    attends_down = attends(config, "down_block_types", levels, {PLAIN[0]: False, ATTENDING[0]: True})
    attends_up = attends(config, "up_block_types", levels, {PLAIN[1]: False, ATTENDING[1]: True})
    depths = _depths(config, "transformer_layers_per_block", [1] * levels)
    depths_up = _depths(config, "reverse_transformer_layers_per_block", depths[::-1])
    contexts = config.integers("cross_attention_dim", levels, 1280)
    if len(set(contexts)) > 1:
        raise config.refuse("cross_attention_dim", "this network has one context for all levels")
    middle = _middle(config, depths[-1])
    attended = [there or back for there, back in zip(attends_down, reversed(attends_up), strict=True)]
    heads, head_width = _heads(config, widths, [*attended[:-1], attended[-1] or bool(middle)])
    spec = UNetSpec(
        in_channels=config.integer("in_channels", 4),
        out_channels=config.integer("out_channels", 4),
        widths=widths,
        down=_levels(config, attends_down, depths, blocks),
        middle=middle,
        up=_levels(config, attends_up, depths_up, tuple(number + 1 for number in reversed(blocks))),
        context=contexts[0],
        heads=heads,
        head_width=head_width,
        vector=_vector(config),
        guidance=None if config.get("time_cond_proj_dim") is None else config.integer("time_cond_proj_dim"),
        linear_projection=config.flag("use_linear_projection", False),
        groups=config.integer("norm_num_groups", 32),
    )
    config.finish(IRRELEVANT)
    return spec


def attends(config: Config, name: str, levels: int, known: Mapping[str, bool]) -> list[bool]:
    """Which levels have attention, by the names of their kinds."""
    kinds = config.get(name)
    if not isinstance(kinds, list | tuple) or len(kinds) != levels or not all(kind in known for kind in kinds):
        raise config.refuse(name, f"expected {levels} of {', '.join(known)}")
    return [known[kind] for kind in kinds]


Depth = int | tuple[int, ...]


def _depths(config: Config, name: str, default: Sequence[Depth]) -> list[Depth]:
    """The depth of the transformers of each level: a number, or one for each residual block."""
    value = config.get(name, list(default))
    if type(value) is int:
        value = [value] * len(default)
    if not isinstance(value, list | tuple) or len(value) != len(default):
        raise config.refuse(name, f"expected a depth for each of {len(default)} levels")
    depths: list[Depth] = [tuple(depth) if isinstance(depth, list | tuple) else depth for depth in value]
    flat = [depth for level in depths for depth in (level if isinstance(level, tuple) else (level,))]
    if not all(type(depth) is int and 0 <= depth <= BUILT for depth in flat):
        raise config.refuse(name, f"expected depths from 0 to {BUILT:,}")
    return depths


def _levels(
    config: Config, attends: list[bool], depths: list[Depth], blocks: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """The depth of the transformer behind each residual block, level by level."""
    levels = []
    for attending, depth, number in zip(attends, depths, blocks, strict=True):
        level = (depth,) * number if isinstance(depth, int) else depth
        if not attending:
            level = (0,) * number
        elif len(level) != number or 0 in level:
            raise config.refuse("transformer_layers_per_block", f"expected depths above 0 for {number} blocks")
        levels.append(level)
    if sum(map(sum, levels)) > BUILT:
        raise config.refuse("transformer_layers_per_block", f"expected up to {BUILT:,} layers together")
    return tuple(levels)


def _middle(config: Config, depth: Depth) -> int | None:
    kind = config.get("mid_block_type", None if "mid_block_type" in config else MIDDLE_ATTENDING)
    if kind not in (None, MIDDLE_ATTENDING, MIDDLE_PLAIN):
        raise config.refuse("mid_block_type", f"expected {MIDDLE_ATTENDING}, {MIDDLE_PLAIN} or null")
    if kind != MIDDLE_ATTENDING:
        return None if kind is None else 0
    return depth if isinstance(depth, int) else depth[0]


def _heads(config: Config, widths: tuple[int, ...], attended: list[bool]) -> tuple[int | None, int | None]:
    """(heads, width of a head), one of them None: one number is heads everywhere, a list of them heads of one width."""
    numbers = config.integers("attention_head_dim", len(widths), 8)
    if isinstance(config.get("attention_head_dim", 8), int):
        return numbers[0], None
    levels = [(width, number) for width, number, attends in zip(widths, numbers, attended, strict=True) if attends]
    head_widths = {width // number for width, number in levels}
    if len(head_widths) <= 1:
        return None, head_widths.pop() if head_widths else widths[0] // numbers[0]
    if len({number for _, number in levels}) == 1:
        return levels[0][1], None
    raise config.refuse("attention_head_dim", "neither the number of heads nor their width is the same at all levels")


def _vector(config: Config) -> int | None:
    if config.get("addition_embed_type") is None:
        return None
    config.expect({"addition_embed_type": "text_time", "addition_time_embed_dim": VECTOR_SINUSOIDS})
    return config.integer("projection_class_embeddings_input_dim")


def to_config(spec: UNetSpec, *, sample_size: int | None = None) -> dict[str, Any]:
    """The options with which diffusers' UNet2DConditionModel computes the same.

    `sample_size` is the side of the latents that pipelines paint when nobody says otherwise.

    Raises:
        MaquetteError: diffusers has no options for such a network.
    """
    options: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "block_out_channels": list(spec.widths),
        "layers_per_block": same([len(level) for level in spec.down]),
        "down_block_types": [_kind(level, 0) for level in spec.down],
        "up_block_types": [_kind(level, 1) for level in spec.up],
        "mid_block_type": {None: None, 0: MIDDLE_PLAIN}.get(spec.middle, MIDDLE_ATTENDING),
        "cross_attention_dim": spec.context,
        "attention_head_dim": spec.heads if spec.heads else [max(1, spec.heads_at(width)) for width in spec.widths],
        "use_linear_projection": spec.linear_projection,
        "norm_num_groups": spec.groups,
        "norm_eps": RES_EPS,
        "act_fn": "silu",
        **_depth_options(spec),
    }
    if sample_size is not None:
        options["sample_size"] = sample_size
    if spec.vector is not None:
        options["addition_embed_type"] = "text_time"
        options["addition_time_embed_dim"] = VECTOR_SINUSOIDS
        options["projection_class_embeddings_input_dim"] = spec.vector
    if spec.guidance is not None:
        options["time_cond_proj_dim"] = spec.guidance
    if from_config(options) != spec:
        raise MaquetteError(f"diffusers has no options for {spec}; save the model in the original layout")
    return options


def _kind(level: tuple[int, ...], side: int) -> str:
    return (ATTENDING if any(level) else PLAIN)[side]


def same(numbers: Sequence[int]) -> int | list[int]:
    """The one number that all are, or else the list."""
    return numbers[0] if len(set(numbers)) == 1 else list(numbers)


def _depth_options(spec: UNetSpec) -> dict[str, Any]:
    """Depths on the way down, and on the way up where they do not mirror those; 1 where nothing attends."""
    down = [same(level) or 1 for level in spec.down]
    up = [same(level) or 1 for level in spec.up]
    if not any(spec.down[-1]):
        down[-1] = spec.middle or 1
    mirrored = all(not any(level) or there == back for level, there, back in zip(spec.up, down[::-1], up, strict=True))
    if mirrored and not any(isinstance(depth, list) for depth in down):
        return {"transformer_layers_per_block": down}
    return {"transformer_layers_per_block": down, "reverse_transformer_layers_per_block": up}
