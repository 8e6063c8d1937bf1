"""The shape of a first stage's pyramids in diffusers' `config.json`, common to AutoencoderKL and VQModel."""

from collections.abc import Mapping
from typing import Any

from maquette.models.config import BUILT, Config
from maquette.nn.pyramid import PyramidSpec

KINDS = {
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
}
"""What diffusers calls levels without attention and with it; those of the decoder are given from the lowest."""
FIXED: Mapping[str, Any] = {"act_fn": "silu"}


def numbers(config: Config) -> dict[str, Any]:
    """The fields of a `PyramidSpec`.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    widths, in_channels = config.integers("block_out_channels"), config.integer("in_channels", 3)
    config.expect({**FIXED, "out_channels": in_channels})
    levels = len(widths)
    attention, upwards = (_attention(config, f"{way}_block_types", levels) for way in ("down", "up"))
    if attention != tuple(levels - 1 - index for index in reversed(upwards)):
        raise config.refuse("up_block_types", "this decoder attends where its encoder does")
    return {
        "channels": config.integer("latent_channels", PyramidSpec.channels),
        "widths": widths,
        "res_blocks": config.integer("layers_per_block", 1, BUILT // levels),
        "groups": config.integer("norm_num_groups", 32),
        "in_channels": in_channels,
        "attention": attention,
        "middle_attention": config.flag("mid_block_add_attention", True),
    }


def _attention(config: Config, name: str, levels: int) -> tuple[int, ...]:
    """The levels that attend, counted as the option counts; without it, none."""
    known = KINDS[name]
    kinds = config.get(name, [known[0]] * levels)
    if not isinstance(kinds, list | tuple) or len(kinds) != levels or not all(kind in known for kind in kinds):
        raise config.refuse(name, f"expected {levels} of {', '.join(known)}")
    return tuple(index for index, kind in enumerate(kinds) if kind == known[1])


def options(spec: PyramidSpec) -> dict[str, Any]:
    """The options that say the same as `spec`."""
    attends = [index in spec.attention for index in range(len(spec.widths))]
    return {
        **FIXED,
        "in_channels": spec.in_channels,
        "out_channels": spec.in_channels,
        "latent_channels": spec.channels,
        "block_out_channels": list(spec.widths),
        "layers_per_block": spec.res_blocks,
        "norm_num_groups": spec.groups,
        "down_block_types": [KINDS["down_block_types"][each] for each in attends],
        "up_block_types": [KINDS["up_block_types"][each] for each in reversed(attends)],
        "mid_block_add_attention": spec.middle_attention,
    }
