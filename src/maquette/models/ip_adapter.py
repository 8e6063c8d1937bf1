"""IP-Adapter (Ye et al. 2023, 2308.06721): a picture as a prompt, read beside the words.

A projection makes tokens of what CLIP sees in the picture; every cross-attention attends to them apart from the text,
with keys and values of its own, and the two answers are added (equation 5).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from maquette.models.clip import ImageStates
from maquette.models.unet import UNet
from maquette.nn.attention import Attend, CrossAttention, attend, attending, split_heads
from maquette.nn.mlp import MLP
from maquette.nn.network import Network


@dataclass(frozen=True, kw_only=True)
class ResamplerSpec:
    """Shape of the network that sums up many tokens in a few; the defaults are those of "plus" for SD 1.x."""

    width: int = 768
    depth: int = 4
    heads: int = 12
    hidden: int = 3072


@dataclass(frozen=True, kw_only=True)
class IPAdapterSpec:
    """Shape of an adapter; the defaults are those of SD 1.x, but for `widths`."""

    widths: tuple[int, ...]
    """Of the U-Net's cross-attentions on the way down, on the way up, then in the middle."""
    context: int = 768
    image: int = 1024
    """Width of what is read of the image tower."""
    tokens: int = 4
    reads: Literal["projected", "patches"] = "projected"
    """The picture's projected vector, or the tower's penultimate states of all its patches."""
    resampler: ResamplerSpec | None = None
    """Without one, patches are projected each by itself ("full"), so that there are as many tokens."""


class VectorProjection(nn.Module):
    """A vector (B, image) -> tokens (B, N, context)."""

    def __init__(self, spec: IPAdapterSpec) -> None:
        super().__init__()
        self.tokens = spec.tokens
        self.linear = nn.Linear(spec.image, spec.tokens * spec.context)
        self.norm = nn.LayerNorm(spec.context)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x).unflatten(1, (self.tokens, -1)))


class PatchProjection(nn.Module):
    """States (B, N, image) -> tokens (B, N, context)."""

    def __init__(self, spec: IPAdapterSpec) -> None:
        super().__init__()
        self.mlp = MLP(spec.image, spec.image, "gelu", out=spec.context)
        self.norm = nn.LayerNorm(spec.context)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.mlp(x))


class ResamplerLayer(nn.Module):
    """Latents (B, N, width) look at the picture's states (B, M, width) and at themselves, then a perceptron."""

    def __init__(self, spec: ResamplerSpec) -> None:
        super().__init__()
        self.norm_states = nn.LayerNorm(spec.width)
        self.norm_latents = nn.LayerNorm(spec.width)
        self.attention = CrossAttention(spec.width, spec.width, spec.heads, out_bias=False)
        self.norm = nn.LayerNorm(spec.width)
        self.mlp = MLP(spec.width, spec.hidden, "gelu", bias=False)

    def forward(self, latents: Tensor, states: Tensor) -> Tensor:
        normed = self.norm_latents(latents)
        latents = latents + self.attention(normed, torch.cat([self.norm_states(states), normed], dim=1))
        return latents + self.mlp(self.norm(latents))


class Resampler(nn.Module):
    """States (B, M, image) -> tokens (B, N, context), by learned queries (Alayrac et al. 2022, section 3.1)."""

    def __init__(self, spec: IPAdapterSpec, resampler: ResamplerSpec) -> None:
        super().__init__()
        width = resampler.width
        self.latents = nn.Parameter(torch.randn(1, spec.tokens, width) * width**-0.5)
        self.proj_in = nn.Linear(spec.image, width)
        self.layers = nn.ModuleList([ResamplerLayer(resampler) for _ in range(resampler.depth)])
        self.proj_out = nn.Linear(width, spec.context)
        self.norm = nn.LayerNorm(spec.context)

    def forward(self, x: Tensor) -> Tensor:
        states, latents = self.proj_in(x), self.latents.expand(len(x), -1, -1)
        for layer in self.layers:
            latents = layer(latents, states)
        return self.norm(self.proj_out(latents))


class IPAdapter(Network):
    """What is read of the image tower -> for each cross-attention, keys and values (B, N, 2 width) (rows k, v)."""

    def __init__(self, spec: IPAdapterSpec) -> None:
        super().__init__()
        self.spec = spec
        self.projection: nn.Module
        if spec.resampler is not None:
            self.projection = Resampler(spec, spec.resampler)
        else:
            self.projection = (VectorProjection if spec.reads == "projected" else PatchProjection)(spec)
        self.layers = nn.ModuleList([nn.Linear(spec.context, 2 * width, bias=False) for width in spec.widths])

    def read(self, states: ImageStates) -> Tensor:
        """What of the tower's states the adapter reads."""
        return states.projected if self.spec.reads == "projected" else states.hidden[-2]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        tokens = self.run(self.projection, self.to_input(x))
        return tuple(layer(tokens) for layer in self.layers)


def cross_attentions(network: UNet) -> list[CrossAttention]:
    """A U-Net's cross-attentions in the order of an adapter's layers: on the way down, up, in the middle."""
    parts = (network.down, network.up, network.middle)
    return [module for part in parts for module in part.modules() if isinstance(module, CrossAttention)]


@contextmanager
def looking_at(network: UNet, layers: Sequence[Tensor], scale: float) -> Iterator[None]:
    """Let a U-Net look at a picture beside the text meanwhile; `layers` are what `IPAdapter` says, one row each."""

    def beside(inner: Attend, k: Tensor, v: Tensor) -> Attend:
        return lambda q, text_k, text_v: inner(q, text_k, text_v) + scale * attend(q, k.to(q), v.to(q))

    changes: dict[CrossAttention, Attend] = {}
    for module, both in zip(cross_attentions(network), layers, strict=True):
        k, v = (split_heads(part, module.heads) for part in both.chunk(2, dim=-1))
        changes[module] = beside(module.attend, k, v)
    with attending(changes):
        yield
