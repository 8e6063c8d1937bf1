"""How well pictures obey semantic maps: what a judge sees in each cell of 8 x 8 pixels, against what the map has there.

A cell belongs to what covers most of it, if a quarter is covered. Emoji that a caption's words cannot tell apart count
as the same.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from maquette.training.autoencoder import to_signed
from maquette.training.drawing import semantic_map
from maquette.training.evaluate import BATCH, Tally
from maquette.training.judge import labels
from maquette.training.readings import Judging, fitting
from maquette.training.scenes import Scene


class Agreement(BaseModel):
    """How many cells agree: all of them, those of things, those of the background.

    `outline` does not ask which emoji it is: cells that are a thing's in both, of those that are one's in either
    (intersection over union).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cells: Tally = Tally()
    things: Tally = Tally()
    background: Tally = Tally()
    outline: Tally = Tally()

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            cells=self.cells + other.cells,
            things=self.things + other.things,
            background=self.background + other.background,
            outline=self.outline + other.outline,
        )


@torch.no_grad()
def agreement(judge: Judging, pictures: Tensor, scenes: Sequence[Scene]) -> Agreement:
    """What a judge says of pictures (n, 128, 128, 3) in bytes that were painted by the maps of scenes."""
    total = Agreement()
    for start in range(0, len(scenes), BATCH):
        part = list(scenes[start : start + BATCH])
        wanted = labels(part, np.stack([semantic_map(scene) for scene in part])).emoji
        seen = judge(to_signed(pictures[start : start + BATCH])).emoji.argmax(-1).cpu()
        for each in zip(part, wanted, seen, strict=True):
            total += _agreement(*each)
    return total


def _agreement(scene: Scene, wanted: Tensor, seen: Tensor) -> Agreement:
    """Of one picture, from class numbers (h, w): 0 background, else emoji index + 1."""
    behind = wanted == 0
    right = behind & (seen == 0)
    background = Tally(right=int(right.sum()), of=int(behind.sum()))
    for thing in scene.things:
        alike = torch.tensor([emoji + 1 for emoji in fitting(thing, scene.style)])
        right |= (wanted == thing.emoji + 1) & torch.isin(seen, alike)
    cells = Tally(right=int(right.sum()), of=right.numel())
    things = Tally(right=cells.right - background.right, of=cells.of - background.of)
    both, either = ~behind & (seen > 0), ~behind | (seen > 0)
    return Agreement(
        cells=cells, things=things, background=background, outline=Tally(right=int(both.sum()), of=int(either.sum()))
    )
