"""Convolution whose weights take the memory layout of the pictures when they are first used.

Files keep a kernel as (out, in, height, width); a channels-last picture wants the channels last there too, or else the
weights are turned at every call. Turning all of them takes longer than everything else in opening a model, and many
(the first stage's encoder) may never be used: so a model opens with its weights as they lie in the mapped file.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """As `torch.nn.Conv2d`, for x (B, C, H, W); weights that learn or are compiled are left as they are."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight_for(x), self.bias)

    def weight_for(self, x: Tensor) -> Tensor:
        """The weight as `x` wants it: turned where `x` is channels-last; its old memory is let go."""
        if not (self.weight.requires_grad or torch.compiler.is_compiling()):
            turn(self.weight, x)
        return self.weight


def turn(weight: Tensor, x: Tensor) -> None:
    """Bring a weight (O, I, H, W) to channels-last where `x` is so and it is not."""
    layout = torch.channels_last
    if x.is_contiguous(memory_format=layout) and not weight.is_contiguous(memory_format=layout):
        with torch.inference_mode(False):
            # (O, I, H, W) -> (O, H W, I) in memory: as three dimensions this is copied faster than as four.
            turned = weight.detach().flatten(2).transpose(1, 2).contiguous()
            weight.data = turned.unflatten(1, weight.shape[2:]).permute(0, 3, 1, 2)


def convolve_doubled(layer: Conv2d, x: Tensor) -> Tensor:
    """What a 3 x 3 convolution (padding 1) makes of x (B, C, H, W) doubled by nearest neighbours: (B, O, 2 H, 2 W).

    Each place of the doubled picture sees 2 x 2 places of `x`, some of them more than once: adding up the weights that
    fall together, for each of the four ways to lie on `x`, leaves 4 / 9 of the products (the sub-pixel convolution of
    Shi et al. 2016, 1609.05158, of weights that were trained for the other).
    """
    batch, _, height, width = x.shape
    weight = layer.weight_for(x).permute(0, 2, 3, 1)  # (O, 3, 3, I), as it lies in memory
    shape = (batch, layer.out_channels, 2 * height, 2 * width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for row, rows in enumerate(_fall_together(weight, 1)):
        for column, kernel in enumerate(_fall_together(rows, 2)):
            y = F.conv2d(x, kernel.permute(0, 3, 1, 2), layer.bias, padding=1)  # (H + 1) x (W + 1)
            out[:, :, row::2, column::2] = y[:, :, row : row + height, column : column + width]
    return out


def _fall_together(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Three taps as two, for even places, whose last two see the same, and for odd ones, whose first two do."""
    first, middle, last = weight.unbind(dim)
    return torch.stack((first, middle + last), dim), torch.stack((first + middle, last), dim)
