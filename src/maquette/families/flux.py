"""FLUX.1 (Black Forest Labs 2024): rectified flow, T5 XXL's states, CLIP ViT-L's pooled state, guidance distilled."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.prediction import VELOCITY
from maquette.diffusion.process import RectifiedFlow
from maquette.errors import MaquetteError
from maquette.families.family import Defaults, Encoding, Family, Latent, Reading, Told
from maquette.models.flux import FluxSpec
from maquette.models.published import FLUX_CONTROL, FLUX_DEV, FLUX_FILL, FLUX_SCHNELL


def condition(texts: Sequence[Encoding | None], told: Told) -> Conditioning:
    """T5's states, CLIP's pooled state, and the guidance for which the network was distilled, if it was."""
    clip, t5 = texts
    if clip is None or t5 is None:
        raise MaquetteError("FLUX reads both CLIP and T5; open it with text=[CLIP, T5]")
    strength = torch.full((len(told.prompts),), told.guidance, device=clip.pooled.device)
    return Conditioning(t5.tokens, clip.pooled, guidance=strength if told.spec.guidance else None)


def matches(spec: Any, *, guidance: bool, further: int) -> bool:
    """By guidance, and by the channels read `further` than those painted, in multiples of them."""
    return (
        isinstance(spec, FluxSpec)
        and spec.guidance is guidance
        and spec.in_channels - spec.out_channels == further * spec.out_channels
    )


CLIP = Reading(prefix="text_encoders.clip_l.transformer.")
T5_XXL = Reading(part="text_encoder_2", kind="t5", pad=0, length=512, prefix="text_encoders.t5xxl.transformer.")
DEV = Family(
    name="flux-dev",
    pipeline="FluxPipeline",
    process=RectifiedFlow(shift=3.1582),  # exp(1.15), that of 1024 x 1024; see `shift_by_size`
    prediction=VELOCITY,
    matches=lambda spec: matches(spec, guidance=True, further=0),
    published={"FLUX.1 dev": FLUX_DEV},
    latent=Latent(scale=0.3611, shift=0.1159),
    readings=(CLIP, T5_XXL),
    condition=condition,
    defaults=Defaults(steps=28, guidance=3.5, sampler="euler", schedule="flow", width=1024, height=1024),
    emphasis=False,
    distilled=True,
    shift_by_size=True,
    half=torch.bfloat16,
    prefixes=("model.diffusion_model.", "vae."),
)
SCHNELL = replace(
    DEV,
    name="flux-schnell",
    process=RectifiedFlow(),
    matches=lambda spec: matches(spec, guidance=False, further=0),
    published={"FLUX.1 schnell": FLUX_SCHNELL},
    readings=(CLIP, replace(T5_XXL, length=256)),
    defaults=replace(DEV.defaults, steps=4, guidance=1.0),
    shift_by_size=False,
)
FILL = replace(
    DEV,
    name="flux-fill",
    pipeline="FluxFillPipeline",
    matches=lambda spec: matches(spec, guidance=True, further=5),
    published={"FLUX.1 fill": FLUX_FILL},
    beside=("masked picture", "folded mask"),
    defaults=replace(DEV.defaults, steps=50, guidance=30.0),
)
CONTROL = replace(
    DEV,
    name="flux-control",
    pipeline="FluxControlPipeline",
    matches=lambda spec: matches(spec, guidance=True, further=1),
    published={"FLUX.1 canny or depth": FLUX_CONTROL},
    beside=("picture",),
    defaults=replace(DEV.defaults, steps=50, guidance=30.0, strength=1.0),
)
