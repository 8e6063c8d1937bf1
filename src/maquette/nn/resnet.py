"""Residual convolution blocks and changes of resolution, shared by the autoencoder and the U-Net."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.conv import Conv2d, convolve_doubled
from maquette.nn.network import zero
from maquette.nn.norm import GroupNorm

FOLDED_FROM = 256  # places, of all pictures together


class ResBlock(nn.Module):
    """norm, SiLU, conv, (+ time), norm, SiLU, conv, added to the input (He et al. 2016; Ho et al. 2020, appendix B).

    x (B, width_in, H, W), emb (B, emb) after its SiLU or None -> (B, width_out, H, W). `adaptive` lets time scale and
    shift the second norm; `resample` halves or doubles the resolution (Dhariwal & Nichol 2021, section 3).
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        *,
        groups: int,
        eps: float,
        emb: int | None = None,
        adaptive: bool = False,
        resample: Literal["down", "up"] | None = None,
    ) -> None:
        super().__init__()
        self.adaptive, self.resample = adaptive, resample
        self.norm1 = GroupNorm(groups, width_in, eps=eps)
        self.conv1 = Conv2d(width_in, width_out, 3, padding=1)
        self.time = nn.Linear(emb, (1 + adaptive) * width_out) if emb is not None else None
        self.norm2 = GroupNorm(groups, width_out, eps=eps)
        self.conv2 = zero(Conv2d(width_out, width_out, 3, padding=1))
        self.skip = Conv2d(width_in, width_out, 1) if width_in != width_out else None

    def forward(self, x: Tensor, emb: Tensor | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """`size` (H, W) is given where the doubled size would miss the skip's by one."""
        h, x = (self._resample(each, size) for each in (silu(self.norm1(x)), x))
        h = self.conv1(h)
        time = None if self.time is None else self.time(emb)[:, :, None, None]
        if self.adaptive and time is not None:
            scale, shift = time.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h if time is None else add(h, time))
        h = self.conv2(silu(h))
        return add(h, x if self.skip is None else self.skip(x))

    def _resample(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        if self.resample is None:
            return x
        return F.avg_pool2d(x, 2) if self.resample == "down" else double(x, size)


def silu(fresh: Tensor) -> Tensor:
    """SiLU of a tensor that nobody else reads: in its own memory where nothing learns."""
    return F.silu(fresh, inplace=not torch.is_grad_enabled())


def add(fresh: Tensor, other: Tensor) -> Tensor:
    """The sum, in the memory of a tensor that nobody else reads where nothing learns."""
    return fresh + other if torch.is_grad_enabled() else fresh.add_(other)


class Downsample(nn.Module):
    """Halve the resolution by a convolution of stride 2.

    The U-Net pads all sides (`symmetric`), the autoencoder only right and bottom: the published weights need it so.
    """

    def __init__(self, width: int, *, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.conv = Conv2d(width, width, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution by nearest neighbours, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """`size` (H, W) is given where the doubled size would miss the skip's by one."""
        if self._folds(x, size):
            return convolve_doubled(self.conv, x)
        return self.conv(double(x, size))

    def _folds(self, x: Tensor, size: tuple[int, int] | None) -> bool:
        """Whether adding up weights costs less than the products it saves; only the CPU was measured."""
        learning = torch.is_grad_enabled() and (x.requires_grad or self.conv.weight.requires_grad)
        height, width = x.shape[2:]
        exact = size is None or size == (2 * height, 2 * width)
        cheap = x.device.type == "cpu" and len(x) * height * width >= FOLDED_FROM
        return exact and cheap and not learning and not torch.compiler.is_compiling()


def double(x: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Double the resolution, or bring it to `size`, by nearest neighbours."""
    if size is None:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    return F.interpolate(x, size=size, mode="nearest")
