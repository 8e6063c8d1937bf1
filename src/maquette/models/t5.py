"""The encoder of T5 v1.1 (Raffel et al. 2020; Shazeer 2020), whose states SD3 and FLUX read."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.attention import join_heads, split_heads
from maquette.nn.mlp import gelu_tanh
from maquette.nn.network import Network

EPS = 1e-6

BiasedAttend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class T5Spec:
    """Shape of the encoder; the defaults are those of T5 v1.1 XXL."""

    vocabulary: int = 32128
    width: int = 4096
    layers: int = 24
    heads: int = 64
    head_width: int = 64
    hidden: int = 10240
    buckets: int = 32
    distance: int = 128
    """From here on, all distances share the last bucket."""


def attend_biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T + bias) v over (B, heads, L, d): T5 does not divide by sqrt(d), its weights were trained so."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


def bucket(offset: Tensor, buckets: int, distance: int) -> Tensor:
    """The bucket of each offset (key's position - query's): half of them for keys behind, half for keys ahead.

    Half of either half holds one distance each; the rest grow as its logarithm (Raffel et al. 2020, section 2.1).
    """
    half = buckets // 2
    exact = half // 2
    far = offset.abs()
    # In float32, as the published weights were trained: the bounds fall on whole distances, where rounding decides.
    growth = torch.log(far.clamp(min=1).float() / exact) / math.log(distance / exact)
    shared = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(far < exact, far, shared) + half * (offset > 0)


class T5Attention(nn.Module):
    """Tokens (B, L, width) look at each other in both directions; queries, keys and values in one product."""

    def __init__(self, spec: T5Spec) -> None:
        super().__init__()
        self.heads = spec.heads
        inner = spec.heads * spec.head_width
        self.qkv = nn.Linear(spec.width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, spec.width, bias=False)
        self.attend: BiasedAttend = attend_biased

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.out(join_heads(self.attend(q, k, v, bias)))


class T5Perceptron(nn.Module):
    """down(gelu(gate) * value), gate the first half of `up`: T5 v1.1's order, and its GELU is the tanh one."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down((gelu_tanh(wide(gate)) * value).to(x.dtype))


def wide(x: Tensor) -> Tensor:
    """The numbers in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class T5Norm(nn.RMSNorm):
    """Root mean square norm of a float32 stream, into the precision of the weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps).to(self.weight.dtype)


class T5Layer(nn.Module):
    """Pre-norm transformer layer: attention, then gated perceptron, added to a stream in float32.

    In bfloat16 the sums of 24 layers would lose more than all products do.
    """

    def __init__(self, spec: T5Spec) -> None:
        super().__init__()
        self.norm1 = T5Norm(spec.width, eps=EPS)
        self.attention = T5Attention(spec)
        self.norm2 = T5Norm(spec.width, eps=EPS)
        self.mlp = T5Perceptron(spec.width, spec.hidden)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), bias)
        return x + self.mlp(self.norm2(x))


class T5(Network):
    """ids (B, L) int64 -> states (B, L, width) after the final norm; no mask for the padding, as SD3 and FLUX read it.

    XXL overflows float16: run it in bfloat16 or float32.
    """

    def __init__(self, spec: T5Spec) -> None:
        super().__init__()
        self.spec = spec
        self.token_embedding = nn.Embedding(spec.vocabulary, spec.width)
        self.position_bias = nn.Embedding(spec.buckets, spec.heads)
        self.layers = nn.ModuleList([T5Layer(spec) for _ in range(spec.layers)])
        self.final_norm = T5Norm(spec.width, eps=EPS)

    def bias(self, length: int) -> Tensor:
        """What every layer adds to its scores, (1, heads, length, length), by the distance of the tokens."""
        position = torch.arange(length, device=self.device)
        buckets = bucket(position[None] - position[:, None], self.spec.buckets, self.spec.distance)
        return self.position_bias(buckets).permute(2, 0, 1)[None]

    def forward(self, ids: Tensor) -> Tensor:
        x = wide(self.token_embedding(ids))
        bias = self.bias(ids.shape[1])
        for layer in self.layers:
            x = self.run(layer, x, bias)
        return self.final_norm(x)
