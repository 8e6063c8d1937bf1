"""The vector-quantised autoencoder (van den Oord et al. 2017; Esser et al. 2021; Rombach et al. 2022, appendix G).

x (B, 3, H, W) in [-1, 1] -> z (B, channels, H/f, W/f) -> the nearest of the codes at each position -> x. Diffusion
works on z before the codes are looked up: that is the decoder's first act (Rombach et al. 2022, section 3.1).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from maquette.nn.pyramid import Decoder, Encoder, PyramidSpec

BETA = 0.25  # weight of the commitment (van den Oord et al. 2017, section 3.2)


@dataclass(frozen=True, kw_only=True)
class VQSpec(PyramidSpec):
    """Shape of the autoencoder; the defaults are those of ldm's vq-f4."""

    channels: int = 3
    widths: tuple[int, ...] = (128, 256, 512)
    codes: int = 8192


class Quantised(NamedTuple):
    """What became of z (B, channels, h, w)."""

    z: Tensor
    """The codes; the gradient goes straight through to the encoder's output."""
    indices: Tensor
    """(B, h, w) int64."""
    loss: Tensor
    """(B,): the codes drawn to the encoder's output, and, weighted, the encoder's output to the codes."""


class Usage(NamedTuple):
    """How evenly a codebook is used."""

    perplexity: float
    """exp of the entropy: the number of codes that an even use would need."""
    used: float
    """The share of codes that occur at all."""


def usage(indices: Tensor, codes: int) -> Usage:
    """The use that indices of any shape make of a codebook."""
    share = torch.bincount(indices.flatten(), minlength=codes).double() / indices.numel()
    entropy = -torch.special.xlogy(share, share).sum()
    return Usage(float(entropy.exp()), float((share > 0).double().mean()))


class Quantiser(nn.Module):
    """z (B, channels, h, w) -> the nearest code at each position."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codes, channels)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)

    def lookup(self, indices: Tensor) -> Tensor:
        """The codes (B, channels, h, w) of indices (B, h, w)."""
        return self.codebook(indices).permute(0, 3, 1, 2)

    def nearest(self, z: Tensor) -> Tensor:
        """The indices (B, h, w) of the nearest codes, by |z - e|^2 = |z|^2 - 2 z e + |e|^2 in float32 at least."""
        dtype = torch.promote_types(z.dtype, torch.float32)
        table = self.codebook.weight.to(dtype)
        rows = z.permute(0, 2, 3, 1).to(dtype)
        return (table.square().sum(dim=1) - 2 * rows @ table.T).argmin(dim=-1)

    def forward(self, z: Tensor) -> Quantised:
        """Quantise; the loss is that of van den Oord et al. 2017, equation 3, without the reconstruction."""
        with torch.no_grad():
            indices = self.nearest(z)
        code = self.lookup(indices)
        towards_code = (code.detach() - z).float().square().mean(dim=(1, 2, 3))
        towards_z = (code - z.detach()).float().square().mean(dim=(1, 2, 3))
        return Quantised(z + (code - z).detach(), indices, towards_z + BETA * towards_code)


class VQ(nn.Module):
    """Encoder, codebook, decoder."""

    def __init__(self, spec: VQSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec, spec.channels)
        self.quant_conv = nn.Conv2d(spec.channels, spec.channels, 1)
        self.quantiser = Quantiser(spec.codes, spec.channels)
        self.post_quant_conv = nn.Conv2d(spec.channels, spec.channels, 1)
        self.decoder = Decoder(spec)

    def encode(self, x: Tensor) -> Tensor:
        """z (B, channels, h, w) of pictures (B, 3, H, W) in [-1, 1], not yet quantised."""
        return self.quant_conv(self.encoder(self.encoder.to_input(x)))

    def decode(self, z: Tensor) -> Tensor:
        """The pictures (B, 3, H, W), about [-1, 1], of the codes nearest to z."""
        return self.decode_codes(self.quantiser(self.decoder.to_input(z)).z)

    def decode_codes(self, z: Tensor) -> Tensor:
        """The pictures of codes (B, channels, h, w), as `Quantiser.lookup` gives them."""
        decoded: Tensor = self.decoder(self.post_quant_conv(self.decoder.to_input(z)))
        return decoded

    def forward(self, x: Tensor) -> tuple[Tensor, Quantised]:
        """Reconstruct, and tell what the codebook did."""
        quantised = self.quantiser(self.encode(x))
        return self.decode_codes(quantised.z), quantised
