"""Rotary positions (Su et al. 2021) over several axes: neighbouring pairs of features turn with the position."""

from collections.abc import Sequence

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines (L, d / 2) of the angle of each pair of features at each position."""


def rotation(positions: Tensor, widths: Sequence[int], theta: float = 10_000.0) -> Rotation:
    """The rotation of positions (L, axes), where axis i turns the next widths[i] features of a head.

    Pair j of an axis turns by position * theta^(-2 j / width) (equation 15). Angles are taken in float64 where the
    device has it: cosines of large angles lose digits.
    """
    dtype = torch.float32 if positions.device.type == "mps" else torch.float64
    angles = []
    for axis, width in enumerate(widths):
        exponents = torch.arange(0, width, 2, dtype=dtype, device=positions.device) / width
        angles.append(positions[:, axis, None].to(dtype) * theta**-exponents)
    angle = torch.cat(angles, dim=-1)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """Turn the pairs (0, 1), (2, 3), ... of queries or keys (B, heads, L, d), in float32."""
    cos, sin = turn
    a, b = x.to(cos.dtype).unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2).to(x.dtype)
