"""Semantic maps of scenes, as pictures: what is where, each thing in its colour (`palette`) on the background's own.

The LDM paper paints landscapes from such maps (Rombach et al. 2022, section 4.3.2). People draw boxes and blobs rather
than outlines, so that an adapter learns from all three.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from maquette.training.drawing import Pixels, draw, semantic_map
from maquette.training.palette import palette
from maquette.training.scenes import Scene
from maquette.training.stream import SceneStream

Outline = Literal["exact", "ellipse", "box"]
OUTLINES = 3  # the purpose of an item's random numbers


def semantic_picture(scene: Scene, outline: Outline = "exact") -> Pixels:
    """The map of a scene, (128, 128, 3) RGB: each thing in its own outline, or in the ellipse or box that holds it."""
    canvas, colours = draw(replace(scene, things=())), palette().by_index
    for thing in scene.things:
        canvas[_simplified(semantic_map(replace(scene, things=(thing,))) > 0, outline)] = colours[thing.emoji]
    return canvas


def _simplified(where: NDArray[np.bool_], outline: Outline) -> NDArray[np.bool_]:
    rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    if outline == "exact" or not rows.size:
        return where
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    simple = np.zeros_like(where)
    simple[top:bottom, left:right] = True
    if outline == "ellipse":
        y, x = np.ogrid[: where.shape[0], : where.shape[1]]
        across, down = (2 * x + 1 - left - right) / (right - left), (2 * y + 1 - top - bottom) / (bottom - top)
        simple &= across**2 + down**2 <= 1
    return simple


@dataclass(frozen=True)
class MapBatch:
    """Consecutive items of a stream: pictures, their maps (n, 128, 128, 3) and captions."""

    pictures: NDArray[np.uint8]
    maps: NDArray[np.uint8]
    captions: list[str]


@dataclass(frozen=True, slots=True)
class MapStream:
    """The scenes of a stream with their maps; the share `exact` of the things' outlines is kept."""

    stream: SceneStream
    exact: float = 1.0

    def batch(self, start: int, count: int) -> MapBatch:
        """Items start .. start + count - 1."""
        drawn = self.stream.batch(start, count)
        maps = [semantic_picture(scene, self.outline(start + k)) for k, scene in enumerate(drawn.scenes)]
        return MapBatch(drawn.pictures, np.stack(maps), drawn.captions)

    def outline(self, k: int) -> Outline:
        """How item k is outlined."""
        chance = np.random.default_rng((self.stream.seed, k, OUTLINES)).random()
        return "exact" if chance < self.exact else "ellipse" if chance < (1 + self.exact) / 2 else "box"
