"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): rectified flow, an MM-DiT, two CLIP towers and T5 XXL."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.prediction import VELOCITY
from maquette.diffusion.process import RectifiedFlow
from maquette.families.family import Defaults, Encoding, Family, Latent, Reading, Told
from maquette.models.mmdit import MMDiTSpec
from maquette.models.published import SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM

LONGEST = 256  # tokens of T5, as diffusers reads them; Stability's code takes 77 and more where a text needs them


def condition(texts: Sequence[Encoding | None], told: Told) -> Conditioning:
    """Both CLIP towers' states side by side, filled up with zeros to T5's width, then T5's states (figure 2)."""
    width = told.spec.context
    clip = [text for text in texts[:2] if text is not None]
    pair = torch.cat([text.tokens for text in clip], dim=-1)
    long = texts[2].tokens if texts[2] is not None else pair.new_zeros(len(pair), LONGEST, width)
    tokens = torch.cat([F.pad(pair, (0, width - pair.shape[-1])), long.to(pair)], dim=1)
    return Conditioning(tokens=tokens, vector=torch.cat([text.pooled for text in clip], dim=-1))


def matches(spec: Any, *, qk_norm: bool, dual: bool) -> bool:
    return isinstance(spec, MMDiTSpec) and spec.qk_norm is qk_norm and bool(spec.dual) is dual


SD3 = Family(
    name="sd3",
    pipeline="StableDiffusion3Pipeline",
    process=RectifiedFlow(shift=3.0),
    prediction=VELOCITY,
    matches=lambda spec: matches(spec, qk_norm=False, dual=False),
    published={"SD3 medium": SD3_MEDIUM},
    latent=Latent(scale=1.5305, shift=0.0609),
    readings=(
        Reading(
            skip=1,
            norm=False,
            pooled="projected",
            pooled_in_files="pooled",  # Stability's code leaves this projection out; a folder's tower has it
            prefix="text_encoders.clip_l.transformer.",
        ),
        Reading(
            part="text_encoder_2",
            activation="gelu",
            skip=1,
            norm=False,
            pooled="projected",
            pad=0,
            prefix="text_encoders.clip_g.transformer.",
        ),
        Reading(
            part="text_encoder_3",
            kind="t5",
            pad=0,
            length=LONGEST,
            prefix="text_encoders.t5xxl.transformer.",
            optional=True,
        ),
    ),
    condition=condition,
    defaults=Defaults(steps=28, guidance=7.0, sampler="euler", schedule="sd3", width=1024, height=1024),
    emphasis=False,
)
SD35_M = replace(
    SD3,
    name="sd3.5-medium",
    matches=lambda spec: matches(spec, qk_norm=True, dual=True),
    published={"SD3.5 medium": SD35_MEDIUM},
    defaults=replace(SD3.defaults, steps=40, guidance=4.5),
    half=torch.bfloat16,
)
SD35_L = replace(
    SD35_M,
    name="sd3.5-large",
    matches=lambda spec: matches(spec, qk_norm=True, dual=False),
    published={"SD3.5 large": SD35_LARGE},
)
# The same shapes; asked for by name.
SD35_L_TURBO = replace(
    SD35_L,
    name="sd3.5-large-turbo",
    by_name=True,
    named=r"sd3\.?5[-_]large[-_]turbo|stable-diffusion-3\.5-large-turbo",
    defaults=replace(SD3.defaults, steps=4, guidance=1.0),
)
