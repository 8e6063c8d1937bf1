"""Layers whose weights are kept in 8 bits, with a scale for each output channel, and widened as they are used.

float8 (e4m3, Micikevicius et al. 2022, 2209.05433) keeps three bits after the leading one of every weight; its scales
are powers of two, so that nothing else is rounded. int8 keeps 255 even steps, and `Int8Linear` multiplies in int8: what
comes in is quantised too, with a scale for each token (LLM.int8, Dettmers et al. 2022, 2208.07339, section 2.1).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.conv import Conv2d, turn

FLOAT8, INT8 = torch.float8_e4m3fn, torch.int8
STEPS = 127  # of int8 on either side of zero
FLOAT8_REACH = 448.0  # the largest number of e4m3
AT_ONCE = 1 << 18  # numbers quantised at a time; from 2^22 on the steps between leave holes of 500 MB in SD 1.5's heap
FEW = 16  # rows; fewer are not worth it, and the product of CUDA wants more
ROWS = 256  # multiplied at a time on the CPU, so that sums and what they become stay in the cache

# To widen e4m3 by its bits: an integer as wide as the type, how far exponent and fraction are moved up, and the power
# of two by which the biases of the exponents then differ. Eight times as fast as PyTorch's conversion on the CPU.
WIDER = {
    torch.bfloat16: (torch.int16, 4, 120),
    torch.float16: (torch.int16, 7, 8),
    torch.float32: (torch.int32, 20, 120),
}


def quantise(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A weight (O, ...) as 8-bit codes of its shape and float32 scales (O,); float8 weights stay as they are."""
    if weight.dtype == dtype:
        return weight, torch.ones(len(weight), device=weight.device)
    codes = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    scale = torch.empty(len(weight), device=weight.device)
    step = max(AT_ONCE // max(weight[0].numel(), 1), 1)
    for rows, out, scales in zip(weight.split(step), codes.split(step), scale.split(step), strict=True):
        wide = rows.float()
        scales.copy_(_scale(wide.flatten(1).abs().amax(1), dtype))
        wide = wide / spread(scales, wide.ndim)
        out.copy_(wide if dtype == FLOAT8 else wide.round_())
    return codes, scale


def _scale(largest: Tensor, dtype: torch.dtype) -> Tensor:
    """The least scale with which the largest weight of a channel is not cut off, exact in bfloat16 and above.

    In float16 it is as long as it is above 6e-5; below it is off by up to half of 6e-8.
    """
    reach, bits = (FLOAT8_REACH, 0) if dtype == FLOAT8 else (STEPS, 8)  # significant bits, as many as bfloat16 has
    mantissa, exponent = torch.frexp(largest / reach)
    scale = torch.ldexp((mantissa * 2**bits).ceil(), exponent - bits)
    return torch.where(largest == 0, 1.0, scale)  # a weight that is not a number leaves the whole channel none


def spread(scale: Tensor, ndim: int) -> Tensor:
    """(O,) -> (O, 1, ...), to multiply a weight of so many dimensions."""
    return scale.reshape(-1, *[1] * (ndim - 1))


def widen(codes: Tensor, scale: Tensor) -> Tensor:
    """codes * scale, in the precision of the scale."""
    if codes.dtype != FLOAT8 or codes.device.type != "cpu" or scale.dtype not in WIDER:
        return codes.to(scale.dtype).mul_(spread(scale, codes.ndim))
    integer, shift, bias = WIDER[scale.dtype]
    kept = (0x7F << shift) + torch.iinfo(integer).min  # exponent and fraction, and the sign
    bits = codes.view(torch.int8).to(integer).bitwise_left_shift_(shift).bitwise_and_(kept)
    return bits.view(scale.dtype).mul_(2.0**bias).mul_(spread(scale, codes.ndim))


class Quantised(nn.Module):
    """A layer with `codes` and `scale` in place of its weight, which `weight` gives anew whenever it is asked for."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, dtype: torch.dtype) -> None:
        """In place of a layer; it has no memory until it is filled."""
        super().__init__()
        outline = layer.weight.detach().to("meta")
        self.codes = nn.Parameter(torch.empty_like(outline, dtype=dtype), requires_grad=False)
        self.scale = nn.Parameter(outline.new_empty(len(outline)), requires_grad=False)
        self.bias = layer.bias

    @property
    def weight(self) -> Tensor:
        """The weight in the precision that the layer computes in."""
        return widen(self.codes, self.scale)


class QuantisedLinear(Quantised):
    """As `torch.nn.Linear`, its weight widened."""

    @property
    def in_features(self) -> int:
        return self.codes.shape[1]

    @property
    def out_features(self) -> int:
        return self.codes.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class QuantisedConv2d(Conv2d, Quantised):
    """As `Conv2d`, its weight widened; it is turned to channels-last, still in 8 bits, when it is first used."""

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype) -> None:
        Quantised.__init__(self, layer, dtype)
        for name in layer.__constants__:  # stride, padding, ...
            setattr(self, name, getattr(layer, name))

    def weight_for(self, x: Tensor) -> Tensor:
        turn(self.codes, x)
        return self.weight


class Int8Linear(QuantisedLinear):
    """As `torch.nn.Linear`, multiplied in int8 where there are more than a few rows."""

    def forward(self, x: Tensor) -> Tensor:
        outputs, inputs = self.codes.shape
        rows = x.reshape(-1, inputs)
        if len(rows) <= FEW or outputs % 8 or inputs % 8 or x.device.type not in ("cpu", "cuda"):
            return super().forward(x)
        y = x.new_empty(len(rows), outputs)
        step = ROWS if x.device.type == "cpu" else len(rows)
        if 0 < len(rows) % step <= FEW:  # no short end
            step += FEW
        for part, out in zip(rows.split(step), y.split(step), strict=True):
            codes, scale = quantise_rows(part)
            out.copy_(torch._int_mm(codes, self.codes.t()).float().mul_(scale).mul_(self.scale))
        y = y if self.bias is None else y.add_(self.bias)
        return y.reshape(*x.shape[:-1], outputs)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (L, C) as int8 and a scale (L, 1) for each."""
    wide = x.float()
    scale = (wide.abs().amax(-1, keepdim=True) / STEPS).clamp_(min=torch.finfo(torch.float32).tiny)
    return (wide / scale).round_().to(torch.int8), scale
