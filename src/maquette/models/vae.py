"""The KL autoencoder, the first stage of latent diffusion (Rombach et al. 2022, section 3.1; Kingma & Welling 2014).

x (B, 3, H, W) in [-1, 1] -> z (B, channels, H/f, W/f) -> x, with f = 2^(levels - 1).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maquette.nn.pyramid import Decoder, Encoder, PyramidSpec


@dataclass(frozen=True, kw_only=True)
class VAESpec(PyramidSpec):
    """Shape of the autoencoder; the defaults are those of SD 1.x, SD 2.x and SDXL (ldm, autoencoder_kl_32x32x4)."""

    quant_conv: bool = True


class Posterior(NamedTuple):
    """q(z | x) = N(mean, exp(logvar)), each (B, channels, h, w)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise: the reparametrisation (Kingma & Welling 2014, eq. 4)."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """KL(q || N(0, 1)) in nats per picture, (B,) (Kingma & Welling 2014, appendix B)."""
        mean, logvar = self.mean.float(), self.logvar.float()
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(dim=(1, 2, 3))


class VAE(nn.Module):
    """Encoder, diagonal Gaussian posterior, decoder."""

    def __init__(self, spec: VAESpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec, 2 * spec.channels)
        self.decoder = Decoder(spec)
        c = spec.channels
        self.quant_conv = nn.Conv2d(2 * c, 2 * c, 1) if spec.quant_conv else None
        self.post_quant_conv = nn.Conv2d(c, c, 1) if spec.quant_conv else None

    def encode(self, x: Tensor) -> Posterior:
        """The posterior of pictures (B, 3, H, W) in [-1, 1]."""
        moments = self.encoder(self.encoder.to_input(x))
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z: Tensor) -> Tensor:
        """The pictures (B, 3, H, W), about [-1, 1], of unscaled latents."""
        z = self.decoder.to_input(z)
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        decoded: Tensor = self.decoder(z)
        return decoded

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Posterior]:
        """Reconstruct: decode a sample of the posterior (its mean without noise)."""
        posterior = self.encode(x)
        z = posterior.mean if noise is None else posterior.sample(noise)
        return self.decode(z), posterior
