"""ESRGAN's enlarging network (Wang et al. 2018, 1809.00219), which Real-ESRGAN keeps (Wang et al. 2021, 2107.10833).

Residual blocks of dense blocks at the picture's own resolution, without norms, then convolutions behind doublings.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.conv import Conv2d, convolve_doubled
from maquette.nn.network import Network

RESIDUE = 0.2  # how much of what a block says is added
SLOPE = 0.2  # of the leaky ReLU


@dataclass(frozen=True, kw_only=True)
class RRDBSpec:
    """Shape of a network; the defaults are those of the four times larger pictures of ESRGAN and Real-ESRGAN."""

    channels: int = 3
    width: int = 64
    growth: int = 32
    """What each convolution of a dense block adds to what the next one reads."""
    blocks: int = 23
    doublings: int = 2
    unshuffle: int = 1
    """The side of a patch of pixels that becomes one place before all else, in networks that enlarge less."""

    @property
    def scale(self) -> int:
        """How much larger a picture becomes."""
        return 2**self.doublings // self.unshuffle


class DenseBlock(nn.Module):
    """Five convolutions of which each reads all that came before; a share of the last one's answer is added."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        widths = (growth, growth, growth, growth, width)
        self.convs = nn.ModuleList(Conv2d(width + k * growth, out, 3, padding=1) for k, out in enumerate(widths))

    def forward(self, x: Tensor) -> Tensor:
        *former, last = self.convs
        seen = x
        for conv in former:
            seen = torch.cat((seen, F.leaky_relu_(conv(seen), SLOPE)), dim=1)
        return torch.add(x, last(seen), alpha=RESIDUE)


class ResidualBlock(nn.Module):
    """Three dense blocks; a share of their answer is added."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.ModuleList([DenseBlock(width, growth) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in self.dense:
            y = block(y)
        return torch.add(x, y, alpha=RESIDUE)


class RRDB(Network):
    """A picture (B, channels, H, W) in [0, 1], sides multiples of `unshuffle` -> (B, channels, scale H, scale W)."""

    def __init__(self, spec: RRDBSpec) -> None:
        super().__init__()
        self.spec = spec
        self.conv_in = Conv2d(spec.channels * spec.unshuffle**2, spec.width, 3, padding=1)
        self.blocks = nn.ModuleList([ResidualBlock(spec.width, spec.growth) for _ in range(spec.blocks)])
        self.conv_body = Conv2d(spec.width, spec.width, 3, padding=1)
        self.doublings = nn.ModuleList([Conv2d(spec.width, spec.width, 3, padding=1) for _ in range(spec.doublings)])
        self.conv_fine = Conv2d(spec.width, spec.width, 3, padding=1)
        self.conv_out = Conv2d(spec.width, spec.channels, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        first = x = self.conv_in(F.pixel_unshuffle(self.to_input(picture), self.spec.unshuffle))
        for block in self.blocks:
            x = self.run(block, x)
        x = first + self.conv_body(x)
        for conv in self.doublings:
            assert isinstance(conv, Conv2d)
            x = F.leaky_relu_(convolve_doubled(conv, x), SLOPE)
        answer: Tensor = self.conv_out(F.leaky_relu_(self.conv_fine(x), SLOPE))
        return answer
