"""The spec of an autoencoder as diffusers writes it down, the `config.json` of an AutoencoderKL.

It also says what no shape tells: how a family scales the latents, and whether half precision overflows.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from maquette.models import pyramid_config
from maquette.models.config import Config
from maquette.models.vae import VAESpec

IRRELEVANT = ("sample_size",)


class VAEConfig(NamedTuple):
    """An autoencoder, and the latents it gives the denoiser: (z - shift) * scale, perhaps by channel."""

    spec: VAESpec
    scale: float | tuple[float, ...] = 0.18215
    shift: float | tuple[float, ...] = 0.0
    force_upcast: bool = True
    """Half precision overflows (SDXL's autoencoder but for its mended version)."""


def from_config(options: Mapping[str, Any], where: str = "config.json") -> VAEConfig:
    """What an AutoencoderKL's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config = Config(options, where)
    quant_conv = config.flag("use_quant_conv", True)
    config.expect({"use_post_quant_conv": quant_conv})
    spec = VAESpec(**pyramid_config.numbers(config), quant_conv=quant_conv)
    scale = config.number("scaling_factor", VAEConfig._field_defaults["scale"])
    shift = config.number("shift_factor", VAEConfig._field_defaults["shift"])
    mean, spread = (config.numbers(name, spec.channels) for name in ("latents_mean", "latents_std"))
    found = VAEConfig(spec, scale, shift, config.flag("force_upcast", True))
    if mean is not None and spread is not None:
        if not all(spread) or shift:
            raise config.refuse("latents_std", "expected numbers other than 0, and no shift_factor beside them")
        found = found._replace(scale=tuple(scale / each for each in spread), shift=mean)
    elif mean is not spread:
        given = "latents_mean" if spread is None else "latents_std"
        raise config.refuse(given, "expected both latents_mean and latents_std")
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
        **_scaling(config),
        "force_upcast": config.force_upcast,
    }
    return options if sample_size is None else {**options, "sample_size": sample_size}


def _scaling(config: VAEConfig) -> dict[str, Any]:
    if isinstance(config.scale, tuple) and isinstance(config.shift, tuple):
        spread = [1.0 / each for each in config.scale]
        return {"scaling_factor": 1.0, "latents_mean": list(config.shift), "latents_std": spread}
    return {"scaling_factor": config.scale, "shift_factor": config.shift or None}
