"""Stable Diffusion 1.x (Rombach et al. 2022): CLIP ViT-L's last states steer a U-Net that predicts the noise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.prediction import EPSILON
from maquette.diffusion.process import Discrete
from maquette.families.family import Beside, Defaults, Encoding, Family, Reading, Told
from maquette.models.published import SD1_UNET
from maquette.models.unet import UNetSpec

INPAINT_CHANNELS = 9  # latent, mask, masked picture's latent
EDIT_CHANNELS = 8  # latent, picture's latent
GUIDANCE_WIDTH = 256  # sinusoids of the guidance that latent consistency models were distilled for


def last_states(texts: Sequence[Encoding | None], told: Told) -> Conditioning:
    """The one encoder's states."""
    return Conditioning(tokens=None if texts[0] is None else texts[0].tokens)


def with_guidance(said: Conditioning, told: Told) -> Conditioning:
    """What is said, and the guidance that the network was distilled for."""
    return replace(said, guidance=torch.full((len(told.prompts),), told.guidance))


def matches_sd1(spec: Any, channels: int, guidance: int | None = None) -> bool:
    """A U-Net without a vector whose transformers begin with a convolution, as all of SD 1's did."""
    return (
        isinstance(spec, UNetSpec)
        and spec.context is not None
        and (spec.in_channels, spec.vector, spec.linear_projection) == (channels, None, False)
        and spec.guidance == guidance
    )


def inpainting(base: Family, title: str, unet: UNetSpec, matches: Callable[[Any, int], bool]) -> Family:
    """The family whose network also reads the mask and what is left of the picture."""
    unet = replace(unet, in_channels=INPAINT_CHANNELS)
    found = _reading_more(base, "Inpaint", {f"{title} inpainting": unet}, matches, ("mask", "masked picture"))
    return replace(found, name=f"{base.name}-inpaint")


def instructed(
    base: Family, title: str, unet: UNetSpec, matches: Callable[[Any, int], bool], picture: Beside = "unscaled picture"
) -> Family:
    """The family whose network also reads a picture, and changes it as the words say (Brooks et al. 2023)."""
    unet = replace(unet, in_channels=EDIT_CHANNELS)
    found = _reading_more(base, "InstructPix2Pix", {f"{title} InstructPix2Pix": unet}, matches, (picture,))
    defaults = replace(base.defaults, strength=1.0, image_guidance=1.5)
    return replace(found, name=f"{base.name}-edit", instructed=True, defaults=defaults)


def _reading_more(
    base: Family,
    pipeline: str,
    published: Mapping[str, UNetSpec],
    matches: Callable[[Any, int], bool],
    beside: tuple[Beside, ...],
) -> Family:
    """The family whose network reads more than the latent; how many channels, its one published spec says."""
    (spec,) = published.values()
    return replace(
        base,
        pipeline=base.pipeline.replace("Pipeline", f"{pipeline}Pipeline"),
        matches=lambda other: matches(other, spec.in_channels),
        published=published,
        beside=beside,
    )


SD1 = Family(
    name="sd1",
    pipeline="StableDiffusionPipeline",
    process=Discrete.scaled_linear(),
    prediction=EPSILON,
    matches=lambda spec: matches_sd1(spec, 4),
    published={"Stable Diffusion 1.x": SD1_UNET},
    readings=(Reading(prefix="cond_stage_model.transformer."),),
    condition=last_states,
    defaults=Defaults(steps=30, guidance=7.5, sampler="dpmpp_2m", schedule="karras", width=512, height=512),
)
LCM = replace(
    SD1,
    name="sd1-lcm",
    matches=lambda spec: matches_sd1(spec, 4, GUIDANCE_WIDTH),
    published={"Stable Diffusion 1.x LCM": replace(SD1_UNET, guidance=GUIDANCE_WIDTH)},
    condition=lambda texts, told: with_guidance(last_states(texts, told), told),
    defaults=replace(SD1.defaults, steps=4, guidance=8.5, sampler="lcm", schedule="lcm"),
    distilled=True,
)
"""Distilled to answer consistently along the way (Luo et al. 2023, 2310.04378)."""
SD1_INPAINT = inpainting(SD1, "Stable Diffusion 1.x", SD1_UNET, matches_sd1)
SD1_EDIT = instructed(SD1, "Stable Diffusion 1.x", SD1_UNET, matches_sd1)
