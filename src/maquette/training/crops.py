"""Crops around objects: most of a scene is background, and most of what is to be learned is not."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from maquette.training.scenes import Scene

Value = TypeVar("Value", bound=np.generic)
Corner = tuple[int, int]  # x, y


def corners(scenes: Sequence[Scene], side: int, extent: int, grid: int, rng: np.random.Generator) -> list[Corner]:
    """Where a square of `side` pixels with a thing of each scene begins: at random around it, inside of the picture of
    `extent` pixels, on multiples of `grid`."""
    found = []
    for scene in scenes:
        thing = scene.things[rng.integers(len(scene.things))]
        places = (
            start + rng.integers(-side // 2, side // 2 + 1) + (thing.size - side) // 2 for start in (thing.x, thing.y)
        )
        x, y = (int(np.clip(place, 0, extent - side)) // grid * grid for place in places)
        found.append((x, y))
    return found


def crop(pictures: NDArray[Value], at: Sequence[Corner], side: int) -> NDArray[Value]:
    """The squares of pictures (n, H, W, ...) that begin there; as many as there are corners."""
    return np.stack([picture[y : y + side, x : x + side] for picture, (x, y) in zip(pictures, at, strict=False)])
