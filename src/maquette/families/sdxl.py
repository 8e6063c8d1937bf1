"""SDXL (Podell et al. 2023): two towers' penultimate states, and a vector of pooled text and the picture's sizes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.prediction import PRECONDITIONED, V
from maquette.diffusion.process import EDM
from maquette.families.family import Encoding, Latent, Reading, Told
from maquette.families.sd1 import GUIDANCE_WIDTH, LCM, SD1, inpainting, instructed, with_guidance
from maquette.models.published import SDXL_REFINER_UNET, SDXL_UNET, SSD_1B_UNET
from maquette.models.unet import UNetSpec
from maquette.nn.embed import sinusoids

NUMBER_WIDTH = 256  # sinusoids of each number in the vector


def condition_base(texts: Sequence[Encoding | None], told: Told) -> Conditioning:
    """Both towers' states side by side; sizes as (height, width): original, crop, target (section 2.2)."""
    original, target = told.original[::-1], (told.height, told.width)
    return _condition(texts, (*original, *told.crop, *target))


def condition_refiner(texts: Sequence[Encoding | None], told: Told) -> Conditioning:
    """The aesthetic score stands in the target size's place."""
    return _condition(texts, (*told.original[::-1], *told.crop, told.aesthetic))


def _condition(texts: Sequence[Encoding | None], numbers: Sequence[float]) -> Conditioning:
    there = [text for text in texts if text is not None]
    tokens, pooled = torch.cat([text.tokens for text in there], dim=-1), there[-1].pooled
    return Conditioning(tokens=tokens, vector=torch.cat([pooled, _embed(numbers, pooled)], dim=-1))


def _embed(numbers: Sequence[float], like: Tensor) -> Tensor:
    """The numbers' sinusoids one after the other, a row for each of `like`."""
    values = torch.tensor(numbers, dtype=torch.float32, device=like.device)
    return sinusoids(values, NUMBER_WIDTH).flatten().expand(len(like), -1).to(like.dtype)


def is_refiner(spec: UNetSpec) -> bool:
    """One tower, whose width is context and pooled text alike, five numbers; the lowest level does not attend."""
    return spec.vector == (spec.context or 0) + 5 * NUMBER_WIDTH and not any(spec.down[-1])


UNCLIP = {(1024, 2048), (1024, 1536)}
"""Context and vector of stable unCLIP, SD 2.1 told of an image, which is not supported."""


def matches_sdxl(spec: Any, channels: int, *, refiner: bool = False, guidance: int | None = None) -> bool:
    """A U-Net with a vector, and with `guidance` where it was distilled for it."""
    return (
        isinstance(spec, UNetSpec)
        and spec.vector is not None
        and (spec.context, spec.vector) not in UNCLIP
        and (spec.in_channels, spec.guidance) == (channels, guidance)
        and is_refiner(spec) is refiner
    )


LARGE = Reading(
    part="text_encoder_2",
    activation="gelu",
    skip=1,
    norm=False,
    pooled="projected",
    pad=0,
    prefix="conditioner.embedders.1.model.",
    layout="OpenCLIP",
)
SDXL = replace(
    SD1,
    name="sdxl",
    pipeline="StableDiffusionXLPipeline",
    matches=lambda spec: matches_sdxl(spec, 4),
    published={"SDXL base": SDXL_UNET, "SSD-1B": SSD_1B_UNET},
    latent=Latent(scale=0.13025, overflows=True),
    readings=(Reading(skip=1, norm=False, prefix="conditioner.embedders.0.transformer."), LARGE),
    condition=condition_base,
    defaults=replace(SD1.defaults, guidance=5.0, width=1024, height=1024),
    zero_empty_negative=True,
)
SDXL_INPAINT = inpainting(SDXL, "SDXL", SDXL_UNET, matches_sdxl)
SDXL_EDIT = instructed(SDXL, "SDXL", SDXL_UNET, matches_sdxl)
SDXL_REFINER = replace(
    SDXL,
    name="sdxl-refiner",
    pipeline="StableDiffusionXLImg2ImgPipeline",
    matches=lambda spec: matches_sdxl(spec, 4, refiner=True),
    published={"SDXL refiner": SDXL_REFINER_UNET},
    readings=(replace(LARGE, prefix="conditioner.embedders.0.model."),),
    condition=condition_refiner,
    zero_empty_negative=False,
)
# Distilled relatives: SDXL's shapes, other settings; nothing in their files tells them but how they are named.
SDXL_TURBO = replace(
    SDXL,
    name="sdxl-turbo",
    by_name=True,
    named=r"sd_?xl[-_]turbo",
    defaults=replace(
        SDXL.defaults, steps=1, guidance=1.0, sampler="euler_a", schedule="trailing", width=512, height=512
    ),
)
SDXL_LIGHTNING = replace(
    SDXL,
    name="sdxl-lightning",
    by_name=True,
    named=r"sdxl[-_]lightning",
    defaults=replace(SDXL.defaults, steps=4, guidance=1.0, sampler="euler", schedule="trailing"),
)
SDXL_LCM = replace(
    SDXL,
    name="sdxl-lcm",
    matches=lambda spec: matches_sdxl(spec, 4, guidance=GUIDANCE_WIDTH),
    published={"SDXL LCM": replace(SDXL_UNET, guidance=GUIDANCE_WIDTH)},
    condition=lambda texts, told: with_guidance(condition_base(texts, told), told),
    defaults=replace(LCM.defaults, guidance=8.0, width=1024, height=1024),
    distilled=True,
)
# SDXL's shapes, trained with EDM's noise; marks in their files or their schedulers tell them.
COSXL = replace(SDXL, name="cosxl", by_name=True, process=EDM(sigma_max=120.0, sigma_data=1.0), prediction=V)
COSXL_EDIT = replace(instructed(COSXL, "CosXL", SDXL_UNET, matches_sdxl, "picture"), published={})
PLAYGROUND = replace(
    SDXL,
    name="playground-2.5",
    by_name=True,
    process=EDM(),
    prediction=PRECONDITIONED,
    latent=Latent(
        scale=tuple(1.0 / spread for spread in (8.4927, 5.9022, 6.5498, 5.2299)),
        shift=(-1.6574, 1.886, -1.383, 2.5155),
        overflows=True,
    ),
    defaults=replace(SDXL.defaults, steps=50, guidance=3.0),
)
