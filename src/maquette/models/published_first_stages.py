"""The specs of latent-diffusion's and taming-transformers' autoencoders, each as its difference from another one."""

from dataclasses import replace

from maquette.models.vae import VAESpec
from maquette.models.vq import VQSpec

VQ_F4 = VQSpec()
VQ_F4_NOATTN = replace(VQ_F4, middle_attention=False)
VQ_F8 = replace(VQ_F4, channels=4, widths=(128, 256, 256, 512), attention=(3,), codes=16384)
VQ_F8_N256 = replace(VQ_F8, codes=256)
VQ_F16 = replace(VQ_F4, channels=8, widths=(128, 128, 256, 256, 512), attention=(4,), codes=16384)
VQGAN_F16 = replace(VQ_F16, channels=256)  # ImageNet; also with 1024 codes

KL_F4 = VAESpec(channels=3, widths=(128, 256, 512))
KL_F16 = VAESpec(channels=16, widths=(128, 128, 256, 256, 512), attention=(4,))
KL_F32 = VAESpec(channels=64, widths=(128, 128, 256, 256, 512, 512), attention=(4, 5))
