"""The spec of a U-Net without a context as diffusers writes it down: the `config.json` of a UNet2DModel.

There `attention_head_dim` is the width of a head, null for one head; attention is a kind of block.
"""

from collections.abc import Mapping
from typing import Any, Literal

from maquette.errors import MaquetteError
from maquette.models.config import BUILT, Config
from maquette.models.unet import DDPM_EPS, RES_EPS, UNetSpec
from maquette.models.unet_config import MIDDLE_PLAIN, attends, same

ATTENDING = {"down": "AttnDownBlock2D", "up": "AttnUpBlock2D"}
PLAIN = {"down": "DownBlock2D", "up": "UpBlock2D"}
PLAIN_ADM = {"down": "ResnetDownsampleBlock2D", "up": "ResnetUpsampleBlock2D"}
FIXED: Mapping[str, Any] = {
    "act_fn": "silu",
    "add_attention": True,
    "center_input_sample": False,
    "class_embed_type": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": MIDDLE_PLAIN,
    "num_class_embeds": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
}
IRRELEVANT = ("sample_size", "dropout", "num_train_timesteps")
DETAILS: Mapping[Literal["ldm", "ddpm", "adm"], Mapping[str, Any]] = {
    "ldm": {
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
        "norm_eps": RES_EPS,
        "resnet_time_scale_shift": "default",
        "downsample_type": "conv",
        "upsample_type": "conv",
    },
    "ddpm": {
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "norm_eps": DDPM_EPS,
        "resnet_time_scale_shift": "default",
        "downsample_type": "conv",
        "upsample_type": "conv",
    },
    "adm": {
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
        "norm_eps": RES_EPS,
        "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    },
}
"""What diffusers' options say of each paper's code; other mixtures are refused."""


def from_config(options: Mapping[str, Any], where: str = "config.json") -> UNetSpec:
    """The spec that a UNet2DModel's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config = Config(options, where)
    config.expect(FIXED)
    widths = config.integers("block_out_channels")
    levels, blocks = len(widths), config.integer("layers_per_block", 2, BUILT // len(widths))
    groups, width = config.integer("norm_num_groups", 32), _head_width(config)
    details = _details(config)
    if config.get("attn_norm_num_groups", None if details == "adm" else groups) != groups:
        raise config.refuse("attn_norm_num_groups", f"this network norms by the same {groups} groups everywhere")
    spec = UNetSpec(
        in_channels=config.integer("in_channels", 3),
        out_channels=config.integer("out_channels", 3),
        widths=widths,
        down=tuple((int(each),) * blocks for each in _attends(config, "down", levels, details)),
        middle=1,
        up=tuple((int(each),) * (blocks + 1) for each in _attends(config, "up", levels, details)),
        context=None,
        heads=1 if width is None else None,
        head_width=width,
        groups=groups,
        details=details,
    )
    config.finish(IRRELEVANT)
    return spec


def _attends(config: Config, way: str, levels: int, details: str) -> list[bool]:
    plain = PLAIN_ADM if details == "adm" else PLAIN
    return attends(config, f"{way}_block_types", levels, {plain[way]: False, ATTENDING[way]: True})


def _head_width(config: Config) -> int | None:
    """The width of a head, 8 where the option is left out; None for one head, which null means."""
    if "attention_head_dim" in config and config.get("attention_head_dim") is None:
        return None
    return config.integer("attention_head_dim", 8)


def _details(config: Config) -> Literal["ldm", "ddpm", "adm"]:
    asked = {name: config.get(name, default) for name, default in DETAILS["ldm"].items()}
    found = next((name for name, options in DETAILS.items() if options == asked), None)
    if found is None:
        odd = next(name for name, value in asked.items() if value != DETAILS["ldm"][name])
        raise config.refuse(odd, f"together with the other options it is none of {', '.join(DETAILS)}")
    return found


def to_config(spec: UNetSpec, *, sample_size: int | None = None) -> dict[str, Any]:
    """The options with which diffusers' UNet2DModel computes the same.

    Raises:
        MaquetteError: diffusers has no options for such a network.
    """
    plain = PLAIN_ADM if spec.details == "adm" else PLAIN
    options: dict[str, Any] = {
        "_class_name": "UNet2DModel",
        **FIXED,
        **DETAILS[spec.details],
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "block_out_channels": list(spec.widths),
        "layers_per_block": same([len(level) for level in spec.down]),
        "down_block_types": [(ATTENDING if any(level) else plain)["down"] for level in spec.down],
        "up_block_types": [(ATTENDING if any(level) else plain)["up"] for level in spec.up],
        "attention_head_dim": None if spec.heads == 1 else spec.head_width,
        "norm_num_groups": spec.groups,
    }
    if spec.details == "adm":
        options["attn_norm_num_groups"] = spec.groups
    if sample_size is not None:
        options["sample_size"] = sample_size
    if (spec.heads or 1) > 1 or from_config(options) != spec:
        raise MaquetteError(f"diffusers has no options for {spec}; save the model in the original layout")
    return options
