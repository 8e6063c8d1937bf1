"""Latent diffusion before Stable Diffusion (Rombach et al. 2022): without words, by class, by words through BERT."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.prediction import EPSILON
from maquette.diffusion.process import Discrete
from maquette.errors import MaquetteError
from maquette.families.family import Defaults, Encoding, Family, Latent, Reading, Told
from maquette.families.sd1 import SD1, last_states
from maquette.models.published import (
    LDM_CHURCHES_UNET,
    LDM_IMAGENET_F4_UNET,
    LDM_IMAGENET_F8_UNET,
    LDM_TEXT_UNET,
    LDM_UNET,
)
from maquette.models.unet import UNetSpec


def without_words(texts: Sequence[Encoding | None], told: Told) -> Conditioning:
    """Nothing.

    Raises:
        MaquetteError: there are words.
    """
    words = next((prompt for prompt in told.prompts if prompt.strip()), None)
    if words is not None:
        raise MaquetteError(f"this model paints without words: got {words!r:.60}; give an empty prompt")
    return Conditioning()


def matches(spec: Any, *, context: bool, details: str = "ldm") -> bool:
    """A U-Net with or without a context, of these details, that reads the latent alone; as SD 1's transformers."""
    return (
        isinstance(spec, UNetSpec)
        and (spec.context is not None) is context
        and spec.in_channels == spec.out_channels
        and (spec.vector, spec.linear_projection, spec.details) == (None, False, details)
    )


DEFAULTS = Defaults(steps=50, guidance=1.0, sampler="ddim", schedule="leading", width=256, height=256)
LDM = Family(
    name="ldm",
    pipeline="LDMPipeline",
    process=Discrete.scaled_linear(0.0015, 0.0195),
    prediction=EPSILON,
    matches=lambda spec: matches(spec, context=False),
    published={"latent diffusion, CelebA-HQ, FFHQ or LSUN bedrooms": LDM_UNET},
    latent=Latent(scale=1.0, measured=True),
    readings=(),
    condition=without_words,
    defaults=DEFAULTS,
    emphasis=False,
)
CHURCHES = replace(
    LDM,
    name="ldm-churches",
    process=Discrete.scaled_linear(0.0015, 0.0155),
    matches=lambda spec: matches(spec, context=False, details="adm"),
    published={"latent diffusion, LSUN churches": LDM_CHURCHES_UNET},
    latent=Latent(scale=0.22765929, measured=True),
)
CLASSES = replace(
    LDM,
    name="ldm-class",
    pipeline="",  # diffusers has none
    matches=lambda spec: matches(spec, context=True),
    published={
        "latent diffusion, ImageNet f4": LDM_IMAGENET_F4_UNET,
        "latent diffusion, ImageNet f8": LDM_IMAGENET_F8_UNET,
    },
    readings=(Reading(part="class_embedder", kind="class", prefix="cond_stage_model.", layout="original"),),
    condition=last_states,
    defaults=replace(DEFAULTS, guidance=3.0),
)
BERT = Reading(part="bert", kind="bert", pad=0, prefix="cond_stage_model.transformer.", layout="original")
TEXT = replace(
    CLASSES,
    name="ldm-text",
    pipeline="LDMTextToImagePipeline",
    process=SD1.process,
    published={"latent diffusion, text": LDM_TEXT_UNET},
    latent=SD1.latent,
    readings=(BERT,),
    defaults=replace(DEFAULTS, guidance=5.0),
)
