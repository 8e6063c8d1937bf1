"""T2I-Adapter (Mou et al. 2023, 2302.08453): a small convolutional network that reads a picture once.

Its features, one for each level, are added to the U-Net's stream on the way down (equation 4). They do not depend on
the time: they are computed once for a picture.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.conv import Conv2d
from maquette.nn.network import Network


@dataclass(frozen=True, kw_only=True)
class T2IAdapterSpec:
    """Shape of an adapter; the defaults are those of SD 1.x.

    "full" halves the resolution on every level but the first, "xl" (made for SDXL) only on the third; "light" narrows
    each level to a quarter of its width between two 1 x 1 convolutions.
    """

    channels: int = 3
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    factor: int = 8
    """The side of a patch of the picture that becomes one place."""
    form: Literal["full", "xl", "light"] = "full"

    @property
    def resampled(self) -> tuple[int, ...]:
        """The levels that begin by halving the resolution."""
        return (2,) if self.form == "xl" else tuple(range(1, len(self.widths)))


class AdapterBlock(nn.Module):
    """x + conv(ReLU(conv(x))); the second kernel is 1 wide, or 3 in the light form."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(width, width, 3, padding=1)
        self.conv2 = Conv2d(width, width, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class AdapterLevel(nn.Module):
    """Halve the resolution (an odd side is rounded up) or not, bring to the width, then residual blocks."""

    def __init__(self, width_in: int, width: int, spec: T2IAdapterSpec, *, halve: bool) -> None:
        super().__init__()
        light, self.halve = spec.form == "light", halve
        inner = width // 4 if light else width
        self.conv_in = Conv2d(width_in, inner, 1) if light or width_in != width else None
        self.blocks = nn.ModuleList([AdapterBlock(inner, 3 if light else 1) for _ in range(spec.blocks)])
        self.conv_out = Conv2d(inner, width, 1) if light else None

    def forward(self, x: Tensor) -> Tensor:
        if self.halve:
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        if self.conv_in is not None:
            x = self.conv_in(x)
        for block in self.blocks:
            x = block(x)
        return x if self.conv_out is None else self.conv_out(x)


class T2IAdapter(Network):
    """A picture (B, channels, H, W) in [0, 1], sides multiples of the factor -> features, one for each level."""

    def __init__(self, spec: T2IAdapterSpec) -> None:
        super().__init__()
        self.spec = spec
        previous = spec.channels * spec.factor**2
        self.conv_in = None
        if spec.form != "light":
            self.conv_in = Conv2d(previous, spec.widths[0], 3, padding=1)
            previous = spec.widths[0]
        self.levels = nn.ModuleList()
        for level, width in enumerate(spec.widths):
            self.levels.append(AdapterLevel(previous, width, spec, halve=level in spec.resampled))
            previous = width

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        x = F.pixel_unshuffle(self.to_input(picture), self.spec.factor)
        if self.conv_in is not None:
            x = self.conv_in(x)
        features = []
        for level in self.levels:
            features.append(x := self.run(level, x))
        return tuple(features)
