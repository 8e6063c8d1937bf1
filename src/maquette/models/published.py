"""The specs of published networks, each said as its difference from another one."""

from dataclasses import replace

from maquette.models.clip import CLIPImageSpec, CLIPTextSpec
from maquette.models.unet import UNetSpec
from maquette.models.vae import VAESpec

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

SD_VAE = VAESpec()  # of SD 1.x, SD 2.x and SDXL
SD3_VAE = replace(SD_VAE, channels=16, quant_conv=False)  # of SD3 and FLUX

CLIP_L_TEXT = CLIPTextSpec()
OPEN_CLIP_H_TEXT = CLIPTextSpec(width=1024, layers=24, heads=16, hidden=4096, activation="gelu", projection=1024)
OPEN_CLIP_G_TEXT = CLIPTextSpec(width=1280, layers=32, heads=20, hidden=5120, activation="gelu", projection=1280)

CLIP_L_IMAGE = CLIPImageSpec()
OPEN_CLIP_H_IMAGE = CLIPImageSpec(width=1280, layers=32, heads=16, hidden=5120, activation="gelu", projection=1024)
OPEN_CLIP_G_IMAGE = CLIPImageSpec(width=1664, layers=48, heads=16, hidden=8192, activation="gelu", projection=1280)
