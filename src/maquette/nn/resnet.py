"""Residual convolution blocks and changes of resolution, shared by the autoencoder and the U-Net."""

import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.network import zero
from maquette.nn.norm import GroupNorm


class ResBlock(nn.Module):
    """norm, SiLU, conv, (+ time), norm, SiLU, conv, added to the input (He et al. 2016; Ho et al. 2020, appendix B).

    x (B, width_in, H, W), emb (B, emb) after its SiLU or None -> (B, width_out, H, W).
    """

    def __init__(self, width_in: int, width_out: int, *, groups: int, eps: float, emb: int | None = None) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, width_in, eps=eps)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.time = nn.Linear(emb, width_out) if emb is not None else None
        self.norm2 = GroupNorm(groups, width_out, eps=eps)
        self.conv2 = zero(nn.Conv2d(width_out, width_out, 3, padding=1))
        self.skip = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else None

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time is not None:
            h = h + self.time(emb)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.skip is None else self.skip(x)) + h


class Downsample(nn.Module):
    """Halve the resolution by a convolution of stride 2.

    The U-Net pads all sides (`symmetric`), the autoencoder only right and bottom: the published weights need it so.
    """

    def __init__(self, width: int, *, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution by nearest neighbours, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """`size` (H, W) is given where the doubled size would miss the skip's by one."""
        if size is None:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
