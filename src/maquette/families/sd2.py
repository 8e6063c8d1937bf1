"""Stable Diffusion 2.x: OpenCLIP ViT-H's penultimate states, normed; epsilon at 512, v at 768 (Salimans & Ho 2022).

Shapes do not tell epsilon from v. Where nothing else does and the spread of a bias cannot be measured, v is assumed:
that of the 768 models.
"""

from dataclasses import replace
from typing import Any

from maquette.diffusion.prediction import EPSILON, V
from maquette.families.family import Reading
from maquette.families.sd1 import SD1, inpainting, instructed
from maquette.models.published import SD2_UNET
from maquette.models.unet import UNetSpec

DEPTH_CHANNELS = 5  # latent, depth


def matches_sd2(spec: Any, channels: int) -> bool:
    """A U-Net without a vector whose transformers begin with a linear layer."""
    return isinstance(spec, UNetSpec) and (spec.in_channels, spec.vector, spec.linear_projection) == (
        channels,
        None,
        True,
    )


SD2_V = replace(
    SD1,
    name="sd2-v",
    prediction=V,
    matches=lambda spec: matches_sd2(spec, 4),
    published={"Stable Diffusion 2.x": SD2_UNET},
    readings=(
        Reading(activation="gelu", skip=1, cut=True, pad=0, prefix="cond_stage_model.model.", layout="OpenCLIP"),
    ),
    defaults=replace(SD1.defaults, width=768, height=768),
)
SD2 = replace(SD2_V, name="sd2", prediction=EPSILON, defaults=SD1.defaults)
SD_TURBO = replace(
    SD2,
    name="sd-turbo",
    by_name=True,
    named=r"\bsd[-_]turbo",
    defaults=replace(SD1.defaults, steps=1, guidance=1.0, sampler="euler", schedule="trailing"),
)
SD2_INPAINT = inpainting(SD2, "Stable Diffusion 2", SD2_UNET, matches_sd2)
SD2_EDIT = instructed(SD2, "Stable Diffusion 2", SD2_UNET, matches_sd2)
SD2_DEPTH = replace(
    SD2,
    name="sd2-depth",
    pipeline="StableDiffusionDepth2ImgPipeline",
    matches=lambda spec: matches_sd2(spec, DEPTH_CHANNELS),
    published={"Stable Diffusion 2 depth": replace(SD2_UNET, in_channels=DEPTH_CHANNELS)},
    beside=("depth",),
)
