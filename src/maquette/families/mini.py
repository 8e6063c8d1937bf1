"""The model that the package ships: SD 1's shape, small, trained here on drawn scenes to predict v from pure noise.

Zero terminal SNR lets it paint plain backgrounds of any colour (Lin et al. 2024, "Common diffusion noise schedules").
"""

from dataclasses import replace

from maquette.diffusion.prediction import V
from maquette.diffusion.process import Discrete
from maquette.families.family import Defaults
from maquette.families.sd1 import SD1

MINI = replace(
    SD1,
    name="mini",
    process=Discrete.scaled_linear(zero_terminal_snr=True),
    prediction=V,
    by_name=True,
    published={},
    latent=replace(SD1.latent, overflows=True),
    defaults=Defaults(steps=20, guidance=3.0, sampler="dpmpp_2m", schedule="trailing", width=128, height=128),
)
