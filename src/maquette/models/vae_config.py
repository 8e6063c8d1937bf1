"""The spec of an autoencoder as diffusers writes it down, the `config.json` of an AutoencoderKL.

It also says what no shape tells: how a family scales the latents, and whether half precision overflows.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from maquette.models import pyramid_config
from maquette.models.config import Config
from maquette.models.vae import VAESpec

FIXED: Mapping[str, Any] = {"latents_mean": None, "latents_std": None}
IRRELEVANT = ("sample_size",)


class VAEConfig(NamedTuple):
    """An autoencoder, and the latents it gives the denoiser: (z - shift) * scale."""

    spec: VAESpec
    scale: float = 0.18215
    shift: float = 0.0
    force_upcast: bool = True
    """Half precision overflows (SDXL's autoencoder but for its mended version)."""


def from_config(options: Mapping[str, Any], where: str = "config.json") -> VAEConfig:
    """What an AutoencoderKL's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config = Config(options, where)
    config.expect(FIXED)
    quant_conv = config.flag("use_quant_conv", True)
    config.expect({"use_post_quant_conv": quant_conv})
    spec = VAESpec(**pyramid_config.numbers(config), quant_conv=quant_conv)
    found = VAEConfig(
        spec,
        config.number("scaling_factor", VAEConfig._field_defaults["scale"]),
        config.number("shift_factor", VAEConfig._field_defaults["shift"]),
        config.flag("force_upcast", True),
    )
    config.finish(IRRELEVANT)
    return found


def to_config(config: VAEConfig, *, sample_size: int | None = None) -> dict[str, Any]:
    """The options with which diffusers' AutoencoderKL computes the same.

    `sample_size` is the side of the pictures it was trained on, from which diffusers takes the size of its tiles.
    """
    spec = config.spec
    options: dict[str, Any] = {
        "_class_name": "AutoencoderKL",
        **pyramid_config.options(spec),
        "use_quant_conv": spec.quant_conv,
        "use_post_quant_conv": spec.quant_conv,
        "scaling_factor": config.scale,
        "shift_factor": config.shift or None,
        "force_upcast": config.force_upcast,
    }
    return options if sample_size is None else {**options, "sample_size": sample_size}
