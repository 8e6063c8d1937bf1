"""What the measurements of the workflows have in common: scenes, painting, reading, and figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from maquette.engine.model import Model
from maquette.training.drawing import draw
from maquette.training.evaluate import Setting
from maquette.training.readings import Judging, Reading, fitting, read
from maquette.training.scenes import EXTENT, Kind, Scene, Thing, held_out_scenes
from maquette.workflows.canvas import to_pixels
from maquette.workflows.region import Box

Record = dict[str, Any]
Case = tuple[Record, list[Image.Image]]
"""What was measured, and the pictures of it."""
Row = tuple[str, float, int, str]
"""A figure: its name, its value, over how many cases it is, and the goal."""


@dataclass
class Bench:
    """What every case is painted and read with."""

    model: Model
    judge: Judging
    seed: int
    setting: Setting
    known: dict[tuple[Kind | None, int], list[Scene]] = field(default_factory=dict)

    def scene(self, k: int, kind: Kind | None = None, other: int = 0) -> Scene:
        """The k-th held-out scene of a kind; `other` gives another series."""
        if len(self.known.get((kind, other), ())) <= k:
            self.known[kind, other] = held_out_scenes(2 * k + 8, self.seed + other, kind)
        return self.known[kind, other][k]

    def paint(self, k: int, prompt: str, **fields: Any) -> Image.Image:
        """Case k's picture by a workflow."""
        return self.model.paint(prompt=prompt, seed=self.seed + k, **self.setting.model_dump(), **fields).images[0]

    def read(self, *images: Image.Image) -> list[Reading]:
        return read(self.judge, to_pixels(images))[0]

    @torch.no_grad()
    def look(self, image: Image.Image) -> torch.Tensor:
        """How likely each emoji is in each cell, (h, w, 1 + emoji)."""
        return self.judge(to_pixels([image])).emoji[0].softmax(-1)


class Measure(NamedTuple):
    """How many cases, how many at once, what is done in them, and what is said of them."""

    count: int
    at_once: int
    cases: Callable[[Bench, Sequence[int]], list[Case]]
    rows: Callable[[Sequence[Record]], list[Row]]


def share(records: Sequence[Record], name: str, goal: str, figure: str, where: str | None = None) -> Row:
    """How often a figure is true, or its mean, over the cases in which another one is."""
    chosen = [record[figure] for record in records if where is None or record[where]]
    return name, float(np.mean(chosen)) if chosen else float("nan"), len(chosen), goal


def drawn(scene: Scene) -> Image.Image:
    return Image.fromarray(draw(scene))


def box_of(thing: Thing) -> Box:
    return Box(thing.x, thing.y, thing.x + thing.size, thing.y + thing.size)


def masked(box: Box) -> Image.Image:
    mask = Image.new("L", (EXTENT, EXTENT))
    mask.paste(255, box)
    return mask


def is_seen(reading: Reading, thing: Thing, scene: Scene) -> bool:
    """Whether the strongest of what is found with its centre in the thing's box is the thing."""
    left, top, right, bottom = box_of(thing)
    inside = [found for found in reading.found if left <= found.x < right and top <= found.y < bottom]
    return bool(inside) and inside[0].emoji in fitting(thing, scene.style)
