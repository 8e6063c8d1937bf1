"""The judge: a small convolutional network that says what is to be seen where in a picture of emoji.

It looks at cells of 8 x 8 pixels: an encoder goes down to cells of 16 pixels, whose view is the whole picture, and one
step up joins that view to the detail below (a feature pyramid: Lin et al. 2017, figure 1d). It has no part in making
pictures; the evaluation asks it what they show.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.network import Network
from maquette.nn.norm import GroupNorm
from maquette.nn.resnet import Downsample, ResBlock

EPS = 1e-6
STEM = 4  # pixels a side of the patches that the first layer reads
CELL = 8  # pixels a side of the cells that are judged
DIRECTIONS = 3  # of a background: plain, downward, sideways


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """Shape of the judge; `emoji`, `recolours` and `backgrounds` count what there is to tell apart."""

    emoji: int
    recolours: int
    backgrounds: int
    widths: tuple[int, int, int] = (32, 96, 192)
    """At strides of 4, 8 and 16 pixels."""
    deep_blocks: int = 2
    background_width: int = 32
    background_grid: int = 4
    groups: int = 8


class Backdrop(NamedTuple):
    """Logits of the background's colour at the start (B, backgrounds), at the end, and of its direction (B, 3)."""

    first: Tensor
    second: Tensor
    direction: Tensor


class Opinion(NamedTuple):
    """All that the judge says of pictures (B, 3, H, W), with h = H / 8 and w = W / 8."""

    emoji: Tensor  # (B, h, w, 1 + emoji) logits; 0 is the background
    recolour: Tensor  # (B, h, w, 1 + recolours) logits; 0 is the emoji's own colour
    backdrop: Backdrop
    features: Tensor  # (B, width) what the Fréchet distance is taken of


class Judge(Network):
    """Pictures (B, 3, H, W) in [-1, 1], H and W multiples of 16 -> `Opinion`."""

    def __init__(self, spec: JudgeSpec) -> None:
        super().__init__()
        self.spec = spec
        fine, middle, deep = spec.widths

        def block(width: int) -> ResBlock:
            return ResBlock(width, width, groups=spec.groups, eps=EPS)

        self.stem = nn.Conv2d(3, fine, STEM, stride=STEM)
        self.down = nn.ModuleList([block(fine), Downsample(fine, symmetric=True), nn.Conv2d(fine, middle, 1)])
        self.middle = block(middle)
        self.deep = nn.ModuleList([Downsample(middle, symmetric=True), nn.Conv2d(middle, deep, 1)])
        self.deep.extend(block(deep) for _ in range(spec.deep_blocks))
        self.up = nn.Conv2d(deep, middle, 1)
        self.joined = block(middle)
        self.norm_out = GroupNorm(spec.groups, middle, eps=EPS)
        self.emoji = nn.Linear(middle, 1 + spec.emoji)
        self.recolour = nn.Linear(middle, 1 + spec.recolours)
        self.background_in = nn.Conv2d(3 + middle, spec.background_width, 1)
        colours = 2 * spec.backgrounds
        self.background_out = nn.Linear(spec.background_width * spec.background_grid**2, colours + DIRECTIONS)

    def look(self, x: Tensor) -> Tensor:
        """What is seen in each cell, (B, width, h, w); the heads `emoji` and `recolour` take it channels last."""
        x = self.stem(self.to_input(x))
        for block in self.down:
            x = self.run(block, x)
        x = detail = self.run(self.middle, x)
        for block in self.deep:
            x = self.run(block, x)
        x = detail + F.interpolate(self.up(x), scale_factor=2.0, mode="nearest")
        return F.silu(self.norm_out(self.run(self.joined, x)))

    def backdrop(self, x: Tensor, cells: Tensor) -> Backdrop:
        """The background, from the pictures' own colours (normalisation blurs them) and what `look` gave."""
        seen = torch.cat([F.avg_pool2d(self.to_input(x), CELL), cells], dim=1)
        coarse = F.adaptive_avg_pool2d(F.silu(self.background_in(seen)), self.spec.background_grid)
        colours = self.spec.backgrounds
        return Backdrop(*self.background_out(coarse.flatten(1)).split((colours, colours, DIRECTIONS), dim=1))

    def forward(self, x: Tensor) -> Opinion:
        cells = self.look(x)
        rows = cells.permute(0, 2, 3, 1)
        return Opinion(self.emoji(rows), self.recolour(rows), self.backdrop(x, cells), cells.mean((2, 3)))
