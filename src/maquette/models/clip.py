"""CLIP (Radford et al. 2021): a text tower and an image tower that meet in one space.

The text tower's states are what the U-Net's cross-attention reads; the image tower gives features for training's
perceptual loss and for IP-Adapter.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.attention import Attend, SelfAttention, attend, attend_causal
from maquette.nn.mlp import MLP
from maquette.nn.network import Network


@dataclass(frozen=True, kw_only=True)
class CLIPTextSpec:
    """Shape of the text tower; the defaults are those of CLIP ViT-L/14, SD 1.x's encoder."""

    vocabulary: int = 49408
    positions: int = 77
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: str = "quick_gelu"
    projection: int | None = None
    end: int = 49407
    """Id of the end-of-text token, whose state is the pooled one."""


@dataclass(frozen=True, kw_only=True)
class CLIPImageSpec:
    """Shape of the image tower; the defaults are those of CLIP ViT-L/14."""

    size: int = 224
    patch: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    hidden: int = 4096
    activation: str = "quick_gelu"
    projection: int = 768


class TextStates(NamedTuple):
    """What a text tower says of ids (B, L)."""

    last: Tensor
    """(B, L, width), the last layer's states after the final norm."""
    hidden: tuple[Tensor, ...]
    """The states before the first layer and after each, without the final norm; `hidden[-2]` is the penultimate."""
    pooled: Tensor
    """(B, width): `last` at the first end-of-text token."""
    projected: Tensor | None
    """(B, projection): `pooled` in the common space."""


class CLIPLayer(nn.Module):
    """Pre-norm transformer layer: attention, then perceptron."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, attend: Attend) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, bias=True, attend=attend)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden, activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CLIPText(Network):
    """ids (B, L) int64, L at most `positions` -> TextStates. Causal, and no mask for the padding."""

    def __init__(self, spec: CLIPTextSpec) -> None:
        super().__init__()
        self.spec = spec
        self.token_embedding = nn.Embedding(spec.vocabulary, spec.width)
        self.position_embedding = nn.Embedding(spec.positions, spec.width)
        self.layers = nn.ModuleList(
            [CLIPLayer(spec.width, spec.heads, spec.hidden, spec.activation, attend_causal) for _ in range(spec.layers)]
        )
        self.final_norm = nn.LayerNorm(spec.width)
        self.projection = nn.Linear(spec.width, spec.projection, bias=False) if spec.projection else None

    def initialise(self) -> None:
        """The initial weights of Radford et al. 2021, section 2.4 and their code."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.01)
        initialise_layers(self.layers, self.spec.width)
        if self.projection is not None:
            nn.init.normal_(self.projection.weight, std=self.spec.width**-0.5)

    def forward(self, ids: Tensor) -> TextStates:
        x = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        hidden = [x]
        for layer in self.layers:
            x = self.run(layer, x)
            hidden.append(x)
        last = self.final_norm(x)
        end = (ids == self.spec.end).int().argmax(dim=1)
        pooled = last[torch.arange(len(ids), device=ids.device), end]
        projected = self.projection(pooled) if self.projection is not None else None
        return TextStates(last, tuple(hidden), pooled, projected)


# Of the colours of the pictures that CLIP was trained with.
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def look(picture: Tensor, size: int) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] of any size -> the middle of each, (B, 3, size, size), as a tower reads it."""
    height, width = picture.shape[2:]
    sides = [size * side // min(height, width) for side in (height, width)]
    near = picture.cpu() if picture.device.type == "mps" else picture  # some PyTorch cannot do this there
    small = F.interpolate(near, sides, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1).to(picture)
    top, left = ((side - size) // 2 for side in sides)
    mean, deviation = (torch.tensor(each, device=picture.device)[:, None, None] for each in (MEAN, DEVIATION))
    return (small[..., top : top + size, left : left + size] - mean) / deviation


class ImageStates(NamedTuple):
    """What an image tower says of pictures (B, 3, size, size)."""

    hidden: tuple[Tensor, ...]
    """(B, 1 + patches, width) before the first layer and after each."""
    pooled: Tensor
    """(B, width): the class token after the final norm."""
    projected: Tensor
    """(B, projection): `pooled` in the common space."""


class CLIPImage(Network):
    """Pictures (B, 3, size, size), normalised as the tower was trained, -> ImageStates (Dosovitskiy et al. 2021)."""

    def __init__(self, spec: CLIPImageSpec) -> None:
        super().__init__()
        self.spec = spec
        patches = (spec.size // spec.patch) ** 2
        self.class_embedding = nn.Parameter(torch.zeros(spec.width))
        self.patch_embedding = nn.Conv2d(3, spec.width, spec.patch, stride=spec.patch, bias=False)
        self.position_embedding = nn.Embedding(patches + 1, spec.width)
        self.norm_in = nn.LayerNorm(spec.width)
        self.layers = nn.ModuleList(
            [CLIPLayer(spec.width, spec.heads, spec.hidden, spec.activation, attend) for _ in range(spec.layers)]
        )
        self.final_norm = nn.LayerNorm(spec.width)
        self.projection = nn.Linear(spec.width, spec.projection, bias=False)

    def initialise(self) -> None:
        """The initial weights of Radford et al. 2021 and their code."""
        scale = self.spec.width**-0.5
        nn.init.normal_(self.class_embedding, std=scale)
        nn.init.normal_(self.position_embedding.weight, std=scale)
        nn.init.normal_(self.projection.weight, std=scale)
        initialise_layers(self.layers, self.spec.width)

    def forward(self, x: Tensor) -> ImageStates:
        patches = self.patch_embedding(self.to_input(x)).flatten(2).transpose(1, 2)
        first = self.class_embedding.to(patches.dtype).expand(len(x), 1, -1)
        x = self.norm_in(torch.cat([first, patches], dim=1) + self.position_embedding.weight)
        hidden = [x]
        for layer in self.layers:
            x = self.run(layer, x)
            hidden.append(x)
        pooled = self.final_norm(x[:, 0])
        return ImageStates(tuple(hidden), pooled, self.projection(pooled))


def initialise_layers(layers: nn.ModuleList, width: int) -> None:
    """Scale the residual branches by depth, so that their sum keeps its size (Radford et al. 2021's code)."""
    residual = width**-0.5 * (2 * len(layers)) ** -0.5
    for layer in layers:
        assert isinstance(layer, CLIPLayer)
        nn.init.normal_(layer.attention.qkv.weight, std=width**-0.5)
        nn.init.normal_(layer.attention.out.weight, std=residual)
        nn.init.normal_(layer.mlp.up.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(layer.mlp.down.weight, std=residual)
