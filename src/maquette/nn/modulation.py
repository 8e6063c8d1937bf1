"""Adaptive layer norm with zero gates, adaLN-Zero (Peebles & Xie 2023, section 3.2; Perez et al. 2018).

One vector tells each block of a transformer how to scale and shift what its branches read, and how much of what they
say to add. DiT, SD3 and FLUX learn the time, and all else that is said of the whole picture, through this alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.network import zero

EPS = 1e-6


class Modulation(nn.Module):
    """emb (B, width), after its SiLU -> `count` vectors (B, 1, width): shift, scale, gate of each branch in turn."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = zero(nn.Linear(width, count * width))

    def forward(self, emb: Tensor) -> tuple[Tensor, ...]:
        return self.linear(emb)[:, None].chunk(self.count, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) * (1 + scale) + shift of tokens (B, L, width); the norm has no weights of its own."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=EPS), 1 + scale)


def add_gated(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    """x + gate * branch."""
    return torch.addcmul(x, gate, branch)


class FinalLayer(nn.Module):
    """Tokens (B, L, width) -> patches (B, L, out), modulated once more; zero at first."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, 2)
        self.linear = zero(nn.Linear(width, out))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        shift, scale = self.modulation(emb)
        return self.linear(modulate(x, shift, scale))
