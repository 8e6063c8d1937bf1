"""The specs of transformers' ControlNets as diffusers writes them down: an SD3ControlNetModel's `config.json`, and
a FluxControlNetModel's. Their options are those of the transformer, and a few of their own.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from maquette.models import flux_config, mmdit_config
from maquette.models.config import BUILT, Config
from maquette.models.transformer_controlnet import FluxControlNetSpec, MMDiTControlNetSpec

MMDIT_FIXED: Mapping[str, Any] = {"pos_embed_type": "sincos", "use_pos_embed": True}
MMDIT_OWN = (*MMDIT_FIXED, "extra_conditioning_channels", "force_zeros_for_pooled_projection")
FLUX_FIXED: Mapping[str, Any] = {"conditioning_embedding_channels": None}
FLUX_OWN = (*FLUX_FIXED, "num_mode", "num_single_layers")


def mmdit_from_config(options: Mapping[str, Any], where: str = "config.json") -> MMDiTControlNetSpec:
    """The spec that an SD3ControlNetModel's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config = Config(options, where)
    if config.get("use_pos_embed", True) is not True:
        raise config.refuse("use_pos_embed", "ControlNets without positions are not supported")
    config.expect({"pos_embed_type": "sincos"})
    body = mmdit_config.from_config({key: options[key] for key in options if key not in MMDIT_OWN}, where)
    further = config.integer("extra_conditioning_channels") if config.get("extra_conditioning_channels") else 0
    unpooled = config.flag("force_zeros_for_pooled_projection", True)
    return MMDiTControlNetSpec(body=body, channels=body.in_channels + further, unpooled=unpooled)


def mmdit_to_config(spec: MMDiTControlNetSpec) -> dict[str, Any]:
    """The options with which diffusers' SD3ControlNetModel computes the same."""
    return {
        **mmdit_config.to_config(spec.body),
        "_class_name": "SD3ControlNetModel",
        "extra_conditioning_channels": spec.channels - spec.body.in_channels,
        "force_zeros_for_pooled_projection": spec.unpooled,
    }


def flux_from_config(options: Mapping[str, Any], where: str = "config.json") -> FluxControlNetSpec:
    """The spec that a FluxControlNetModel's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config = Config(options, where)
    config.expect(FLUX_FIXED)
    body = flux_config.from_config({key: options[key] for key in options if key not in FLUX_OWN}, where)
    single = options.get("num_single_layers", 38)
    if type(single) is not int or not 0 <= single <= BUILT:
        raise config.refuse("num_single_layers", f"expected a whole number from 0 to {BUILT:,}")
    modes = None if config.get("num_mode") is None else config.integer("num_mode")
    return FluxControlNetSpec(body=replace(body, single=single), modes=modes)


def flux_to_config(spec: FluxControlNetSpec) -> dict[str, Any]:
    """The options with which diffusers' FluxControlNetModel computes the same."""
    options = flux_config.to_config(spec.body)
    del options["out_channels"]
    return {**options, "_class_name": "FluxControlNetModel", "num_mode": spec.modes}
