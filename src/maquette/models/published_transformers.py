"""The specs of published diffusion transformers and T5 encoders, each said as its difference from another one."""

from dataclasses import replace

from maquette.models.dit import DiTSpec
from maquette.models.flux import FluxSpec
from maquette.models.mmdit import MMDiTSpec
from maquette.models.t5 import T5Spec

SD3_MEDIUM = MMDiTSpec()
SD35_MEDIUM = replace(SD3_MEDIUM, grid=384, qk_norm=True, dual=tuple(range(13)))
SD35_LARGE = replace(SD3_MEDIUM, width=2432, layers=38, heads=38, qk_norm=True)  # and its turbo

FLUX_DEV = FluxSpec()  # Krea and Kontext too
FLUX_SCHNELL = replace(FLUX_DEV, guidance=False)
FLUX_FILL = replace(FLUX_DEV, in_channels=16 + 16 + 64)  # masked picture's latent, mask
FLUX_CONTROL = replace(FLUX_DEV, in_channels=16 + 16)  # canny and depth: the hint's latent

DIT = {
    f"DiT-{size}/{patch}": DiTSpec(patch=patch, width=width, layers=layers, heads=heads)
    for size, width, layers, heads in (("S", 384, 12, 6), ("B", 768, 12, 12), ("L", 1024, 24, 16), ("XL", 1152, 28, 16))
    for patch in (2, 4, 8)
}
"""Peebles & Xie 2023, table 1; for pictures of 256. XL/2 was also trained for 512, at size 64."""

T5_XXL = T5Spec()
