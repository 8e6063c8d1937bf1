"""Group normalisation (Wu & He 2018), fast for channels-last tensors on the CPU, forwards and backwards.

PyTorch's own backward takes as long as all convolutions of a small autoencoder together, and crashes (2.13) where the
input needs no gradient; this one is a handful of element-wise products and two sums, and gives the same gradients.
Its forward gathers the few channels of a group place by place where pictures are small: turning the tensor first, and
back, takes a third to a fifth of that time in bfloat16. Where they are large it adds up so many numbers one by one that
float32 loses four of its seven digits (an error of 6e-4 at 1536 x 1536; the contiguous format has 4e-8): there the
sums of strips are added up in float64.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SMALL = 1024  # places; from here on PyTorch's kernel reads whole rows
FEW_CHANNELS = 16  # in a group
TINY = 1e-12  # added to a variance
LARGE = 1 << 15  # places; up to here float32 keeps five digits
STRIP = 1 << 12  # places whose sums are exact


class GroupNorm(nn.GroupNorm):
    """As `torch.nn.GroupNorm`, for x (B, C, H, W); `normalise`, if it is set, answers instead (engine/tiling.py)."""

    normalise: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.normalise is not None:
            return self.normalise(x)
        learning = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if learning and x.device.type == "cpu" and not torch.compiler.is_compiling():
            return _FastBackward.apply(x, self.weight, self.bias, self.num_groups, self.eps)  # type: ignore[no-untyped-call]
        if _is_better_turned(x, self.num_groups):
            return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)
        if _sums_too_many(x):
            return self._scaled(x)
        return super().forward(x)

    def _scaled(self, x: Tensor) -> Tensor:
        """The same by its moments, summed up exactly."""
        mean, variance = moments(x, self.num_groups)
        scale, mean = (
            each.repeat_interleave(x.shape[1] // self.num_groups, 1) for each in ((variance + self.eps).rsqrt(), mean)
        )
        scale = scale * self.weight
        scale, shift = (each.to(x.dtype)[..., None, None] for each in (scale, self.bias - mean * scale))
        return torch.addcmul(shift, x, scale)


def _is_better_turned(x: Tensor, groups: int) -> bool:
    """Whether x (B, C, H, W) is normalised faster in the contiguous format, though it has to be turned and back."""
    few = x.shape[1] // groups < FEW_CHANNELS and x.shape[2] * x.shape[3] < SMALL
    return few and x.device.type == "cpu" and x.dtype == torch.bfloat16 and not x.is_contiguous()


def _sums_too_many(x: Tensor) -> bool:
    """Whether PyTorch's kernel for channels-last float32 on the CPU would add up too many numbers one by one."""
    large = x.shape[2] * x.shape[3] > LARGE and x.dtype == torch.float32
    return large and x.device.type == "cpu" and not x.is_contiguous() and not torch.compiler.is_compiling()


def moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The mean and the variance (B, groups) over each group of channels and all places of x (B, C, H, W).

    In float64 (float32 on Apple's GPUs, which have no other), and exact to float32 whatever the precision of x.
    """
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    b, c, h, w = x.shape
    if x.device.type != "cpu" or x.dtype == torch.float64:
        exact = torch.promote_types(x.dtype, torch.float32)
        total = x.sum(dim=(2, 3), dtype=exact).to(wide)
        squares = torch.linalg.vector_norm(x, dim=(2, 3), dtype=exact).to(wide).square()
        mean, square = (each.view(b, groups, -1).sum(2) / (c // groups * h * w) for each in (total, squares))
        return mean, (square - mean**2).clamp(min=0.0)
    one, zero = torch.ones(c), torch.zeros(c)  # float32, so that bfloat16's moments are, too
    mean, square = torch.zeros(b, groups, dtype=wide), torch.zeros(b, groups, dtype=wide)
    for strip in x.split(max(1, STRIP // w), dim=2):
        strip = strip.contiguous()  # PyTorch subtracts the mean first there; channels-last it loses what it cancels
        _, part, rstd = torch.native_group_norm(strip, one, zero, b, c, strip.shape[2] * w, groups, TINY)
        share, part = strip.shape[2] / h, part.to(wide).view(b, groups)
        mean += share * part
        square += share * (part**2 + rstd.to(wide).view(b, groups) ** -2 - TINY)
    return mean, (square - mean**2).clamp(min=0.0)


class _FastBackward(torch.autograd.Function):
    """y = (x - mean) rstd w + b, with mean and rstd over each group of channels and all positions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        b, c, h, w = x.shape
        turned = _is_better_turned(x, groups)
        shown = x.contiguous() if turned else x
        y, mean, rstd = torch.native_group_norm(shown, weight, bias, b, c, h * w, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y.contiguous(memory_format=torch.channels_last) if turned else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        rows, g = _rows(x), _rows(gradients[0])  # (B, HW, C)
        groups, per_group = mean.shape[1], x.shape[1] // mean.shape[1]
        exact = torch.promote_types(x.dtype, torch.float32)
        mean, rstd, wide = mean.to(exact), rstd.to(exact), weight.to(exact)  # (B, groups), (B, groups), (C,)
        sum_g = g.sum(dim=1, dtype=exact)  # (B, C)
        sum_gx = (g * rows).sum(dim=1, dtype=exact)

        def spread(each: Tensor) -> Tensor:
            return each.repeat_interleave(per_group, dim=1)

        def gather(each: Tensor) -> Tensor:
            return (each * wide).unflatten(1, (groups, per_group)).sum(2)

        # dx = w rstd g + along x + constant: the last two remove what a shift or a scale of the group would change.
        count = per_group * rows.shape[1]
        along = (gather(sum_g) * mean - gather(sum_gx)) * rstd**3 / count
        constant = -along * mean - gather(sum_g) * rstd / count
        scale = wide * spread(rstd)
        coefficients = [each[:, None, :].to(x.dtype) for each in (scale, spread(along), spread(constant))]
        dx = torch.addcmul(coefficients[2], rows, coefficients[1]).addcmul_(g, coefficients[0])
        d_weight = ((sum_gx - spread(mean) * sum_g) * spread(rstd)).sum(0).to(weight.dtype)
        d_bias = sum_g.sum(0).to(weight.dtype)
        return dx.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2), d_weight, d_bias, None, None


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, HW, C), a view where x is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
