"""The spec of a VQ autoencoder as diffusers writes it down: the `config.json` of a VQModel.

It also says what no shape tells: how a family scales the latents.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from maquette.models import pyramid_config
from maquette.models.config import Config
from maquette.models.vq import VQSpec

FIXED: Mapping[str, Any] = {"lookup_from_codebook": False, "norm_type": "group"}
IRRELEVANT = ("sample_size", "force_upcast")


class VQConfig(NamedTuple):
    """An autoencoder, and the latents it gives the denoiser: z * scale, with 1 in latent-diffusion."""

    spec: VQSpec
    scale: float = 1.0


def from_config(options: Mapping[str, Any], where: str = "config.json") -> VQConfig:
    """What a VQModel's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config = Config(options, where)
    config.expect(FIXED)
    numbers = pyramid_config.numbers(config)
    spec = VQSpec(**numbers, codes=config.integer("num_vq_embeddings", 256))
    if config.integer("vq_embed_dim", spec.channels) != spec.channels:
        raise config.refuse("vq_embed_dim", f"codes have as many channels as the latents here, {spec.channels}")
    found = VQConfig(spec, config.number("scaling_factor", VQConfig._field_defaults["scale"]))
    config.finish(IRRELEVANT)
    return found


def to_config(config: VQConfig) -> dict[str, Any]:
    """The options with which diffusers' VQModel computes the same."""
    return {
        "_class_name": "VQModel",
        **pyramid_config.options(config.spec),
        **FIXED,
        "num_vq_embeddings": config.spec.codes,
        "vq_embed_dim": config.spec.channels,
        "scaling_factor": config.scale,
    }
