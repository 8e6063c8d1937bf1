"""The KL autoencoder, the first stage of latent diffusion (Rombach et al. 2022, section 3.1; Kingma & Welling 2014).

x (B, 3, H, W) in [-1, 1] -> z (B, channels, H/f, W/f) -> x, with f = 2^(levels - 1).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.attention import SelfAttention
from maquette.nn.network import Network
from maquette.nn.norm import GroupNorm
from maquette.nn.resnet import Downsample, ResBlock, Upsample

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class VAESpec:
    """Shape of the autoencoder; the defaults are those of SD 1.x, SD 2.x and SDXL (ldm, autoencoder_kl_32x32x4)."""

    channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    res_blocks: int = 2
    groups: int = 32
    in_channels: int = 3
    quant_conv: bool = True

    @property
    def factor(self) -> int:
        """f, the side of a picture over the side of its latent."""
        return 1 << (len(self.widths) - 1)


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


class SpatialAttention(nn.Module):
    """Single-head self-attention over the positions of a feature map, added to it."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, width, eps=EPS)
        self.attention = SelfAttention(width, heads=1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(tokens).transpose(1, 2).unflatten(2, x.shape[2:])


def middle(width: int, groups: int) -> nn.ModuleList:
    """res, attention, res at the lowest resolution."""
    return nn.ModuleList([
        ResBlock(width, width, groups=groups, eps=EPS),
        SpatialAttention(width, groups),
        ResBlock(width, width, groups=groups, eps=EPS),
    ])


class Encoder(Network):
    """x (B, 3, H, W) -> the moments (B, 2 * channels, H/f, W/f)."""

    def __init__(self, spec: VAESpec) -> None:
        super().__init__()
        widths, groups = spec.widths, spec.groups
        self.conv_in = nn.Conv2d(spec.in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        previous = widths[0]
        for level, width in enumerate(widths):
            for _ in range(spec.res_blocks):
                self.down.append(ResBlock(previous, width, groups=groups, eps=EPS))
                previous = width
            if level + 1 < len(widths):
                self.down.append(Downsample(width, symmetric=False))
        self.middle = middle(previous, groups)
        self.norm_out = GroupNorm(groups, previous, eps=EPS)
        self.conv_out = nn.Conv2d(previous, 2 * spec.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in (*self.down, *self.middle):
            x = self.run(block, x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(Network):
    """z (B, channels, h, w) -> the picture (B, 3, f h, f w); one residual block more per level than the encoder."""

    def __init__(self, spec: VAESpec) -> None:
        super().__init__()
        widths, groups = spec.widths[::-1], spec.groups
        self.conv_in = nn.Conv2d(spec.channels, widths[0], 3, padding=1)
        self.middle = middle(widths[0], groups)
        self.up = nn.ModuleList()
        previous = widths[0]
        for level, width in enumerate(widths):
            for _ in range(spec.res_blocks + 1):
                self.up.append(ResBlock(previous, width, groups=groups, eps=EPS))
                previous = width
            if level + 1 < len(widths):
                self.up.append(Upsample(width))
        self.norm_out = GroupNorm(groups, previous, eps=EPS)
        self.conv_out = nn.Conv2d(previous, spec.in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for block in (*self.middle, *self.up):
            x = self.run(block, x)
        return self.conv_out(F.silu(self.norm_out(x)))


class VAE(nn.Module):
    """Encoder, diagonal Gaussian posterior, decoder."""

    def __init__(self, spec: VAESpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec)
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
