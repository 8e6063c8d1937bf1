"""Attention (Vaswani et al. 2017), with one replaceable function at its heart.

Every attention module calls `self.attend(q, k, v)`; replacing that function gives attention maps, IP-Adapter,
perturbed-attention guidance, token merging or another kernel.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over (B, heads, L, d)."""
    return F.scaled_dot_product_attention(q, k, v)


def attend_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `attend`, but position i sees only positions up to i."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@contextmanager
def attending(changes: Mapping[Any, Attend]) -> Iterator[None]:
    """Let modules use another `attend` meanwhile, and their own again afterwards."""
    before = {module: module.attend for module in changes}
    try:
        for module, other in changes.items():
            module.attend = other
        yield
    finally:
        for module, own in before.items():
            module.attend = own


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, heads * d) -> (B, heads, L, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, heads, L, d) -> (B, L, heads * d)."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Tokens (B, L, width) look at each other; q, k and v, each `inner` wide, in one product (rows q, k, v)."""

    def __init__(
        self, width: int, heads: int, *, inner: int | None = None, bias: bool = False, attend: Attend = attend
    ) -> None:
        super().__init__()
        self.heads = heads
        inner = width if inner is None else inner
        self.qkv = nn.Linear(width, 3 * inner, bias=bias)
        self.out = nn.Linear(inner, width)
        self.attend = attend

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.out(join_heads(self.attend(q, k, v)))

    def by_strips(self, x: Tensor, length: int) -> Iterator[Tensor]:
        """The same, `length` tokens after the other: beside `x` only keys and values are held for all of them."""
        weights, biases = self.qkv.weight.chunk(3), [None] * 3 if self.qkv.bias is None else self.qkv.bias.chunk(3)
        k, v = (split_heads(F.linear(x, weights[i], biases[i]), self.heads) for i in (1, 2))
        for tokens in x.split(length, dim=1):
            q = split_heads(F.linear(tokens, weights[0], biases[0]), self.heads)
            yield self.out(join_heads(self.attend(q, k, v)))


class CrossAttention(nn.Module):
    """Tokens (B, L, width) look at a context (B, M, context); keys and values in one product (rows k, v)."""

    def __init__(self, width: int, context: int, heads: int, *, out_bias: bool = True, attend: Attend = attend) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(context, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=out_bias)
        self.attend = attend

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = split_heads(self.q(x), self.heads)
        k, v = (split_heads(part, self.heads) for part in self.kv(context).chunk(2, dim=-1))
        return self.out(join_heads(self.attend(q, k, v)))
