"""The spec of a ControlNet as diffusers writes it down: the `config.json` of a ControlNetModel.

Its options are those of the U-Net that it is half a copy of, without the way up, and a few of its own.
"""

from collections.abc import Mapping
from typing import Any

from maquette.models import unet_config
from maquette.models.config import Config
from maquette.models.controlnet import ControlNetSpec
from maquette.models.unet_config import ATTENDING, PLAIN

FIXED: Mapping[str, Any] = {"controlnet_conditioning_channel_order": "rgb"}
HINT_WIDTHS = "conditioning_embedding_out_channels"
OWN = (*FIXED, HINT_WIDTHS, "conditioning_channels", "global_pool_conditions")
UPWARDS = dict((PLAIN, ATTENDING))


def from_config(options: Mapping[str, Any], where: str = "config.json") -> ControlNetSpec:
    """The spec that a ControlNetModel's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config = Config(options, where)
    config.expect(FIXED)
    widths = ControlNetSpec.hint_widths if config.get(HINT_WIDTHS) is None else config.integers(HINT_WIDTHS)
    blocks = options.get("down_block_types")
    up = [UPWARDS.get(str(block), block) for block in reversed(blocks)] if isinstance(blocks, list) else blocks
    unet = {name: value for name, value in options.items() if name not in OWN}
    return ControlNetSpec(
        unet=unet_config.from_config({**unet, "up_block_types": up, "out_channels": options.get("in_channels")}, where),
        channels=config.integer("conditioning_channels", 3),
        hint_widths=widths,
        pooled=config.flag("global_pool_conditions", False),
    )


def to_config(spec: ControlNetSpec) -> dict[str, Any]:
    """The options with which diffusers' ControlNetModel computes the same.

    Raises:
        MaquetteError: diffusers has no options for such a network.
    """
    options = unet_config.to_config(spec.unet)
    for name in ("up_block_types", "out_channels"):
        del options[name]
    return {
        **options,
        "_class_name": "ControlNetModel",
        "conditioning_channels": spec.channels,
        HINT_WIDTHS: list(spec.hint_widths),
        "global_pool_conditions": spec.pooled,
    }
