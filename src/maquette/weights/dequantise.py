"""The block quantisations of ggml, turned back into numbers.

A row of weights is cut into blocks of 32 or 256 elements, each with its own float16 scale. The "K" kinds divide their
256 elements further into groups of 16 or 32 with small integer scales. Layouts are those of ggml's `ggml-common.h`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 20  # elements at once, which bounds the memory of the steps between


class Quant(NamedTuple):
    """One quantisation: its blocks' elements and bytes, and the function (n, bytes) -> (n, elements) float32."""

    name: str
    elements: int
    size: int
    read: Callable[[Tensor], Tensor]


def dequantise(quant: Quant, data: Tensor) -> Tensor:
    """The numbers in `data`, a (bytes,) tensor of whole blocks, as (elements,) float32."""
    blocks = data.reshape(-1, quant.size)
    result = torch.empty(len(blocks), quant.elements)
    step = CHUNK // quant.elements
    for start in range(0, len(blocks), step):
        result[start : start + step] = quant.read(blocks[start : start + step])
    return result.reshape(-1)


def _half(data: Tensor) -> Tensor:
    """Pairs of bytes as float16 numbers, widened."""
    return data.contiguous().view(torch.float16).float()


def _nibbles(data: Tensor) -> Tensor:
    """(..., n) bytes -> (..., 2, n): the low halves, then the high halves."""
    return torch.stack((data & 15, data >> 4), dim=-2)


def _bits(data: Tensor, width: int) -> Tensor:
    """(..., n) bytes -> (..., 8 / width, n): the lowest `width` bits of each, then the next ones."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8)
    return (data.unsqueeze(-2) >> shifts.unsqueeze(-1)) & ((1 << width) - 1)


def _fifth_bits(data: Tensor) -> Tensor:
    """(n, 4) bytes -> (n, 32): the 32 bits in order, moved to where a fifth bit stands."""
    return _bits(data, 1).transpose(-1, -2).reshape(len(data), 32) << 4


def _q4_0(blocks: Tensor) -> Tensor:
    quants = _nibbles(blocks[:, 2:]).reshape(-1, 32)
    return (quants.float() - 8) * _half(blocks[:, :2])


def _q4_1(blocks: Tensor) -> Tensor:
    quants = _nibbles(blocks[:, 4:]).reshape(-1, 32)
    return quants.float() * _half(blocks[:, :2]) + _half(blocks[:, 2:4])


def _q5_0(blocks: Tensor) -> Tensor:
    quants = _nibbles(blocks[:, 6:]).reshape(-1, 32) | _fifth_bits(blocks[:, 2:6])
    return (quants.float() - 16) * _half(blocks[:, :2])


def _q5_1(blocks: Tensor) -> Tensor:
    quants = _nibbles(blocks[:, 8:]).reshape(-1, 32) | _fifth_bits(blocks[:, 4:8])
    return quants.float() * _half(blocks[:, :2]) + _half(blocks[:, 2:4])


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].view(torch.int8).float() * _half(blocks[:, :2])


def _q2_k(blocks: Tensor) -> Tensor:
    """16 groups of 16: scale and minimum 4 bits each, quants 2 bits."""
    scales, packed, d, least = torch.split(blocks, [16, 64, 2, 2], dim=1)
    quants = _bits(packed.reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    scale = (_half(d) * (scales & 15)).unsqueeze(-1)
    minimum = (_half(least) * (scales >> 4)).unsqueeze(-1)
    return (scale * quants - minimum).reshape(-1, 256)


def _q3_k(blocks: Tensor) -> Tensor:
    """16 groups of 16: scales 6 bits (four below, two above), quants 2 bits and a third in a mask."""
    mask, packed, scales, d = torch.split(blocks, [32, 64, 12, 2], dim=1)
    low = _nibbles(scales[:, :8]).reshape(-1, 16)
    high = _bits(scales[:, 8:], 2).reshape(-1, 16)
    scale = (low | high << 4).float() - 32
    quants = _bits(packed.reshape(-1, 2, 32), 2).reshape(-1, 256) | _bits(mask, 1).reshape(-1, 256) << 2
    return ((_half(d) * scale).unsqueeze(-1) * (quants.float() - 4).reshape(-1, 16, 16)).reshape(-1, 256)


def _six_bit_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 12) bytes -> 8 scales and 8 minima of 6 bits: the last four of each lend their upper bits to the first."""
    first, second, third = torch.split(packed, 4, dim=1)
    scales = torch.cat((first & 63, third & 15 | first >> 6 << 4), dim=1)
    minima = torch.cat((second & 63, third >> 4 | second >> 6 << 4), dim=1)
    return scales, minima


def _eight_groups(quants: Tensor, d: Tensor, least: Tensor, packed: Tensor) -> Tensor:
    """Quants (n, 8, 32) scaled and shifted group by group."""
    scales, minima = _six_bit_scales(packed)
    scale, minimum = (_half(d) * scales).unsqueeze(-1), (_half(least) * minima).unsqueeze(-1)
    return (scale * quants - minimum).reshape(-1, 256)


def _q4_k(blocks: Tensor) -> Tensor:
    """8 groups of 32: scale and minimum 6 bits each, quants 4 bits."""
    d, least, scales, packed = torch.split(blocks, [2, 2, 12, 128], dim=1)
    return _eight_groups(_nibbles(packed.reshape(-1, 4, 32)).reshape(-1, 8, 32), d, least, scales)


def _q5_k(blocks: Tensor) -> Tensor:
    """The same with a fifth bit of each quant in a mask."""
    d, least, scales, mask, packed = torch.split(blocks, [2, 2, 12, 32, 128], dim=1)
    quants = _nibbles(packed.reshape(-1, 4, 32)).reshape(-1, 8, 32) | _bits(mask, 1) << 4
    return _eight_groups(quants, d, least, scales)


def _q6_k(blocks: Tensor) -> Tensor:
    """16 groups of 16: scales 8 bits, quants 4 bits below and 2 above."""
    packed, upper, scales, d = torch.split(blocks, [128, 64, 16, 2], dim=1)
    low = _nibbles(packed.reshape(-1, 2, 64)).reshape(-1, 256)
    high = _bits(upper.reshape(-1, 2, 32), 2).reshape(-1, 256)
    quants = (low | high << 4).float() - 32
    scale = _half(d) * scales.view(torch.int8)
    return (scale.unsqueeze(-1) * quants.reshape(-1, 16, 16)).reshape(-1, 256)


QUANTS: Mapping[int, Quant] = {
    2: Quant("Q4_0", 32, 18, _q4_0),
    3: Quant("Q4_1", 32, 20, _q4_1),
    6: Quant("Q5_0", 32, 22, _q5_0),
    7: Quant("Q5_1", 32, 24, _q5_1),
    8: Quant("Q8_0", 32, 34, _q8_0),
    10: Quant("Q2_K", 256, 84, _q2_k),
    11: Quant("Q3_K", 256, 110, _q3_k),
    12: Quant("Q4_K", 256, 144, _q4_k),
    13: Quant("Q5_K", 256, 176, _q5_k),
    14: Quant("Q6_K", 256, 210, _q6_k),
}
