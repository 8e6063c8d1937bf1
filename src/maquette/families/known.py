"""Every family by name; the order is that in which a file is compared with them."""

from maquette.families import dit, flux, ldm, pixel, sd1, sd2, sd3, sdxl
from maquette.families.family import Family
from maquette.families.mini import MINI

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *(sd1.SD1, sd1.SD1_INPAINT, sd1.LCM, sd2.SD2_V, sd2.SD2, sd2.SD2_INPAINT, sd2.SD2_DEPTH, sd2.SD_TURBO),
        *(sdxl.SDXL, sdxl.SDXL_INPAINT, sdxl.SDXL_REFINER, sdxl.SDXL_TURBO, sdxl.SDXL_LIGHTNING, sdxl.SDXL_LCM),
        *(sdxl.COSXL, sdxl.PLAYGROUND),
        *(sd1.SD1_EDIT, sd2.SD2_EDIT, sdxl.SDXL_EDIT, sdxl.COSXL_EDIT),
        *(sd3.SD3, sd3.SD35_M, sd3.SD35_L, sd3.SD35_L_TURBO),
        *(flux.DEV, flux.SCHNELL, flux.FILL, flux.CONTROL),
        *(ldm.LDM, ldm.CHURCHES, ldm.CLASSES, ldm.TEXT, pixel.DDPM),
        *(dit.DIT_256, dit.DIT_512, MINI),
    )
}
