"""The convolutional encoder and decoder of the first stages (Esser et al. 2021; Rombach et al. 2022, appendix G).

A pyramid of residual blocks: the encoder halves the resolution after each level but the last, the decoder climbs back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maquette.nn.attention import SelfAttention
from maquette.nn.conv import Conv2d
from maquette.nn.network import Network
from maquette.nn.norm import GroupNorm
from maquette.nn.resnet import Downsample, ResBlock, Upsample, silu

EPS = 1e-6
MANY = 1 << 14  # positions, of a picture of a megapixel, that attend at a time


@dataclass(frozen=True, kw_only=True)
class PyramidSpec:
    """Shape of the pyramid; the defaults are those of SD's first stage (ldm, autoencoder_kl_32x32x4)."""

    channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    res_blocks: int = 2
    groups: int = 32
    in_channels: int = 3
    attention: tuple[int, ...] = ()
    """The levels, 0 the highest resolution, with attention after each residual block."""
    middle_attention: bool = True

    @property
    def factor(self) -> int:
        """f, the side of a picture over the side of its latent."""
        return 1 << (len(self.widths) - 1)


class SpatialAttention(nn.Module):
    """Self-attention over the positions of a feature map, added to it."""

    def __init__(self, width: int, groups: int, *, heads: int = 1, eps: float = EPS) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, width, eps=eps)
        self.attention = SelfAttention(width, heads, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        if tokens.shape[1] > MANY and not torch.is_grad_enabled():
            rows = x.flatten(2).transpose(1, 2).clone(memory_format=torch.contiguous_format)
            for into, strip in zip(rows.split(MANY, dim=1), self.attention.by_strips(tokens, MANY), strict=True):
                into += strip
            return rows.transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.attention(tokens).transpose(1, 2).unflatten(2, x.shape[2:])


def level(spec: PyramidSpec, index: int, width_in: int, res_blocks: int) -> list[nn.Module]:
    """The blocks of one level: residual ones, each followed by attention where the level has it."""
    width = spec.widths[index]
    blocks: list[nn.Module] = []
    for block in range(res_blocks):
        blocks.append(ResBlock(width if block else width_in, width, groups=spec.groups, eps=EPS))
        if index in spec.attention:
            blocks.append(SpatialAttention(width, spec.groups))
    return blocks


def middle(spec: PyramidSpec) -> nn.ModuleList:
    """res, attention, res at the lowest resolution."""
    width, groups = spec.widths[-1], spec.groups
    attention = [SpatialAttention(width, groups)] if spec.middle_attention else []
    first, last = (ResBlock(width, width, groups=groups, eps=EPS) for _ in range(2))
    return nn.ModuleList([first, *attention, last])


class Encoder(Network):
    """x (B, in_channels, H, W) -> (B, out, H/f, W/f)."""

    def __init__(self, spec: PyramidSpec, out: int) -> None:
        super().__init__()
        self.conv_in = Conv2d(spec.in_channels, spec.widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        previous = spec.widths[0]
        for index, width in enumerate(spec.widths):
            self.down.extend(level(spec, index, previous, spec.res_blocks))
            if index + 1 < len(spec.widths):
                self.down.append(Downsample(width, symmetric=False))
            previous = width
        self.middle = middle(spec)
        self.norm_out = GroupNorm(spec.groups, previous, eps=EPS)
        self.conv_out = Conv2d(previous, out, 3, padding=1)

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """What is run between the first convolution and `leave`, in order."""
        return (*self.down, *self.middle)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.blocks:
            x = self.run(block, x)
        return self.leave(x)

    def leave(self, x: Tensor) -> Tensor:
        """What comes behind the blocks."""
        return self.conv_out(silu(self.norm_out(x)))


class Decoder(Network):
    """z (B, channels, h, w) -> (B, in_channels, f h, f w); one residual block more per level than the encoder."""

    def __init__(self, spec: PyramidSpec) -> None:
        super().__init__()
        previous = spec.widths[-1]
        self.conv_in = Conv2d(spec.channels, previous, 3, padding=1)
        self.middle = middle(spec)
        self.up = nn.ModuleList()
        for index, width in reversed(list(enumerate(spec.widths))):
            self.up.extend(level(spec, index, previous, spec.res_blocks + 1))
            if index > 0:
                self.up.append(Upsample(width))
            previous = width
        self.norm_out = GroupNorm(spec.groups, previous, eps=EPS)
        self.conv_out = Conv2d(previous, spec.in_channels, 3, padding=1)

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """What is run between the first convolution and `leave`, in order."""
        return (*self.middle, *self.up)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for block in self.blocks:
            x = self.run(block, x)
        return self.leave(x)

    def leave(self, x: Tensor) -> Tensor:
        """What comes behind the blocks."""
        return self.conv_out(silu(self.norm_out(x)))
