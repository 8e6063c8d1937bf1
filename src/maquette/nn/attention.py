"""Attention (Vaswani et al. 2017), with one replaceable function at its heart.

Every attention module calls `self.attend(q, k, v)`; replacing that function gives attention maps, IP-Adapter,
perturbed-attention guidance, token merging or another kernel.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

LONG = 512  # queries and keys from which products of matrices beat PyTorch's kernel
SCORES = 1 << 20  # computed at a time: 2 MB, about what a core's cache holds
ROWS = 128  # of queries at least: with fewer, where there are very many keys, these are read again too often
KEPT = 1 << 24  # scores that are kept for the way back: 32 MB


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over (B, heads, L, d)."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.compiler.is_compiling():
        if min(q.shape[2], k.shape[2]) >= LONG and not torch.is_grad_enabled():
            return attend_by_products(q, k, v)
        if _learns(q, k, v):
            return attend_and_learn(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def _learns(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether there is a way back, and few scores to keep for it."""
    few = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] <= KEPT
    return few and torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)


def attend_and_learn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """As `attend`, all heads at once, plus a `mask` (L, L) on the scores.

    Backwards in bfloat16 on a CPU this takes a fifth of the time of PyTorch's kernel where sequences are short.
    """
    many = [x.flatten(0, 1) for x in (q, k, v)]
    if mask is None:
        mask = q.new_zeros(1, 1)
    scores = torch.baddbmm(mask, many[0], many[1].mT, alpha=q.shape[-1] ** -0.5)
    return (scores.softmax(-1) @ many[2]).unflatten(0, q.shape[:2])


def attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `attend`, head by head, some queries at a time, with plain products of matrices and nothing that learns.

    In bfloat16 on a CPU this takes 2 / 3 of the time of PyTorch's kernel, which multiplies blocks too small to be fast.
    Scores are rounded between product and softmax; docs/benchmarks.md says what that does to pictures.
    """
    batch, heads, length, width = q.shape
    keys = k.shape[2]
    rows = max(SCORES // keys, ROWS)
    scores = q.new_empty(min(rows, length), keys)
    out = q.new_empty(batch, length, heads, width).transpose(1, 2)  # as `join_heads` wants it
    for place in product(range(batch), range(heads)):
        turned = v[place].t().contiguous()
        for some, into in zip(q[place].split(rows), out[place].split(rows), strict=True):
            p = scores[: len(some)]
            torch.addmm(p, some, k[place].t(), beta=0, alpha=width**-0.5, out=p)
            torch.softmax(p, dim=-1, out=p)
            into.copy_((turned @ p.t()).t())  # a short side of 40 is multiplied faster as rows than as columns
    return out


def attend_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `attend`, but position i sees only positions up to i."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and _learns(q, k, v):
        seen = q.new_full((q.shape[2], k.shape[2]), -torch.inf).triu(1)
        return attend_and_learn(q, k, v, seen)
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
