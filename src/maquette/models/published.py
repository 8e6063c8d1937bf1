"""The specs of published networks, each said as its difference from another one."""

from dataclasses import replace

from maquette.models.clip import CLIPImageSpec, CLIPTextSpec
from maquette.models.dit import DiTSpec
from maquette.models.flux import FluxSpec
from maquette.models.mmdit import MMDiTSpec
from maquette.models.t5 import T5Spec
from maquette.models.unet import UNetSpec
from maquette.models.vae import VAESpec
from maquette.models.vq import VQSpec

SD1_UNET = UNetSpec()
SD2_UNET = replace(SD1_UNET, context=1024, heads=None, head_width=64, linear_projection=True)
SDXL_UNET = replace(
    SD2_UNET,
    widths=(320, 640, 1280),
    down=((0, 0), (2, 2), (10, 10)),
    middle=10,
    up=((10, 10, 10), (2, 2, 2), (0, 0, 0)),
    context=2048,
    vector=1280 + 6 * 256,  # pooled text; original size, crop, target size
)
SDXL_REFINER_UNET = replace(
    SD2_UNET,
    widths=(384, 768, 1536, 1536),
    down=((0, 0), (4, 4), (4, 4), (0, 0)),
    middle=4,
    up=((0, 0, 0), (4, 4, 4), (4, 4, 4), (0, 0, 0)),
    context=1280,
    vector=1280 + 5 * 256,  # pooled text; original size, crop, aesthetic score
)
SSD_1B_UNET = replace(SDXL_UNET, down=((0, 0), (2, 2), (4, 4)), middle=0, up=((4, 4, 10), (2, 1, 1), (0, 0, 0)))

# Latent diffusion (Rombach et al. 2022), Table 12 and on, and pixels (Ho et al. 2020, appendix B)
LDM_UNET = UNetSpec(
    in_channels=3,
    out_channels=3,
    widths=(224, 448, 672, 896),
    down=((0, 0), (1, 1), (1, 1), (1, 1)),
    up=((1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0)),
    context=None,
    head_width=32,
)  # CelebA-HQ, FFHQ, LSUN bedrooms
LDM_CHURCHES_UNET = UNetSpec(
    widths=(192, 384, 384, 768, 768),
    down=((1, 1), (1, 1), (1, 1), (1, 1), (0, 0)),
    up=((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    context=None,
    details="adm",
)
LDM_IMAGENET_F4_UNET = replace(LDM_UNET, widths=(192, 384, 576, 960), context=512, heads=1, head_width=None)
LDM_IMAGENET_F8_UNET = UNetSpec(
    widths=(256, 512, 1024), down=((1, 1),) * 3, up=((1, 1, 1),) * 3, context=512, head_width=32
)
LDM_TEXT_UNET = replace(SD1_UNET, context=1280)
DDPM_CIFAR_UNET = UNetSpec(
    in_channels=3,
    out_channels=3,
    widths=(128, 256, 256, 256),
    down=((0, 0), (1, 1), (0, 0), (0, 0)),
    up=((0, 0, 0), (0, 0, 0), (1, 1, 1), (0, 0, 0)),
    context=None,
    heads=1,
    details="ddpm",
)
DDPM_256_UNET = replace(
    DDPM_CIFAR_UNET,
    widths=(128, 128, 256, 256, 512, 512),
    down=(*((0, 0),) * 4, (1, 1), (0, 0)),
    up=((0, 0, 0), (1, 1, 1), *((0, 0, 0),) * 4),
)  # CelebA-HQ and LSUN

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

SD_VAE = VAESpec()  # of SD 1.x, SD 2.x and SDXL
SD3_VAE = replace(SD_VAE, channels=16, quant_conv=False)  # of SD3 and FLUX

# Of latent diffusion and of taming transformers
VQ_F4 = VQSpec()
VQ_F4_NOATTN = replace(VQ_F4, middle_attention=False)
VQ_F8 = replace(VQ_F4, channels=4, widths=(128, 256, 256, 512), attention=(3,), codes=16384)
VQ_F8_N256 = replace(VQ_F8, codes=256)
VQ_F16 = replace(VQ_F4, channels=8, widths=(128, 128, 256, 256, 512), attention=(4,), codes=16384)
VQGAN_F16 = replace(VQ_F16, channels=256)  # ImageNet; also with 1024 codes

KL_F4 = VAESpec(channels=3, widths=(128, 256, 512))
KL_F16 = VAESpec(channels=16, widths=(128, 128, 256, 256, 512), attention=(4,))
KL_F32 = VAESpec(channels=64, widths=(128, 128, 256, 256, 512, 512), attention=(4, 5))

CLIP_L_TEXT = CLIPTextSpec()
OPEN_CLIP_H_TEXT = CLIPTextSpec(width=1024, layers=24, heads=16, hidden=4096, activation="gelu", projection=1024)
OPEN_CLIP_G_TEXT = CLIPTextSpec(width=1280, layers=32, heads=20, hidden=5120, activation="gelu", projection=1280)

CLIP_L_IMAGE = CLIPImageSpec()
OPEN_CLIP_H_IMAGE = CLIPImageSpec(width=1280, layers=32, heads=16, hidden=5120, activation="gelu", projection=1024)
OPEN_CLIP_G_IMAGE = CLIPImageSpec(width=1664, layers=48, heads=16, hidden=8192, activation="gelu", projection=1280)

T5_XXL = T5Spec()
