"""Embedding of numbers: sinusoids (Vaswani et al. 2017) of a time, a size or a guidance scale."""

import math

import torch
from torch import Tensor


def sinusoids(values: Tensor, width: int, max_period: float = 10_000.0, *, ddpm: bool = False) -> Tensor:
    """Embed numbers (...,) as (..., width): cosines, then sines, of frequencies max_period^(-i / half).

    `ddpm` is as in the code of Ho et al. 2020: sines first, and frequencies max_period^(-i / (half - 1)).
    Computed and returned in float32 at least: half precision cannot hold the angle of t = 999.
    """
    half = width // 2
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    exponents = torch.arange(half, dtype=values.dtype, device=values.device) / (half - ddpm)
    angles = values[..., None] * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.sin(), angles.cos()] if ddpm else [angles.cos(), angles.sin()], dim=-1)
