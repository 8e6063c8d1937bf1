"""Diffusion of pixels (Ho et al. 2020): no first stage, no words."""

from dataclasses import replace
from typing import Any

from maquette.diffusion.process import Discrete
from maquette.families.family import Latent
from maquette.families.ldm import LDM
from maquette.models.published import DDPM_256_UNET, DDPM_CIFAR_UNET
from maquette.models.unet import UNetSpec


def matches(spec: Any) -> bool:
    """A U-Net without a context that paints what can be seen."""
    return isinstance(spec, UNetSpec) and spec.context is None and spec.in_channels == spec.out_channels in (1, 3)


DDPM = replace(
    LDM,
    name="ddpm",
    pipeline="DDPMPipeline",
    process=Discrete.linear(),
    matches=matches,
    published={"DDPM, CIFAR-10": DDPM_CIFAR_UNET, "DDPM, CelebA-HQ or LSUN": DDPM_256_UNET},
    latent=Latent(scale=1.0),
    pixels=True,
    defaults=replace(LDM.defaults, steps=100, schedule="trailing", width=32, height=32),
)
