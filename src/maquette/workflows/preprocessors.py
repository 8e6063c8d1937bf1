"""What control networks read, made from a plain picture without a model: edges, grey, a blur, dark lines.

| name | of it | for networks of |
|---|---|---|
| `canny`, `canny:LOW:HIGH` | white edges (Canny 1986); 100 and 200 unless said | canny |
| `scribble`, `scribble:LEVEL` | white where it is darker than a level (127): drawn lines | scribble |
| `invert` | its negative: black lines become white ones | lineart, scribble |
| `grey` | how bright it is | recolouring |
| `blur`, `blur:SIGMA` | without what is smaller than so many pixels (9) | blur |
| `tile`, `tile:TIMES` | made so many times (8) smaller and large again | tile |

Names, numbers and results are those of A1111's ControlNet extension (with OpenCV's Canny), as far as it has them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from maquette.errors import MaquetteError
from maquette.workflows.components import connected
from maquette.workflows.names import nearest

Levels = NDArray[np.int64]

TAN_22 = np.tan(np.pi / 8)  # what lies nearer to an axis than 22.5 degrees runs along it


class Preprocessor(NamedTuple):
    """Makes a picture of another one of the same size; its numbers, and the least that each may be."""

    make: Callable[..., Image.Image]
    numbers: tuple[float, ...] = ()
    least: float = 0.0


def canny(image: Image.Image, low: float = 100, high: float = 200) -> Image.Image:
    """Its edges, one pixel wide and white (Canny 1986): above `high`, or above `low` and connected to such.

    As in OpenCV the strength of an edge is |dx| + |dy| of 3 x 3 Sobel filters, in the colour where it is largest.
    """
    pixels = np.asarray(image.convert("RGB"), np.int64)
    across, down = (_sobel(pixels, axis) for axis in (1, 0))
    strengths = np.abs(across) + np.abs(down)
    colour = strengths.argmax(2)[..., None]
    dx, dy, strength = (np.take_along_axis(each, colour, 2)[..., 0] for each in (across, down, strengths))
    weak = _thin(strength, dx, dy) & (strength > min(low, high))
    edges = connected(weak, weak & (strength > max(low, high)))
    return _white_where(edges)


def _sobel(pixels: Levels, axis: int) -> Levels:
    """The derivative along an axis, (1, 2, 1) across it times (-1, 0, 1) along it; edges are repeated."""
    padded = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge")
    turned = padded if axis == 0 else padded.swapaxes(0, 1)
    smooth = turned[:, :-2] + 2 * turned[:, 1:-1] + turned[:, 2:]
    change: Levels = smooth[2:] - smooth[:-2]
    return change if axis == 0 else change.swapaxes(0, 1)


def _thin(strength: Levels, dx: Levels, dy: Levels) -> NDArray[np.bool_]:
    """Where an edge is stronger than both neighbours across it; of two equal ones the right or lower is kept."""
    around = np.pad(strength, 1)
    rows, columns = strength.shape

    def beside(down: int, right: int) -> Levels:
        shifted: Levels = around[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]
        return shifted

    x, y = np.abs(dx), np.abs(dy)
    flat, steep = y < TAN_22 * x, y * TAN_22 > x
    falling = (dx < 0) == (dy < 0)
    one = np.select([flat, steep, falling], [beside(0, -1), beside(-1, 0), beside(-1, -1)], beside(-1, 1))
    other = np.select([flat, steep, falling], [beside(0, 1), beside(1, 0), beside(1, 1)], beside(1, -1))
    return (strength > one) & np.where(flat | steep, strength >= other, strength > other)


def _white_where(where: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(np.where(where, 255, 0).astype(np.uint8)).convert("RGB")


def _scribble(image: Image.Image, level: float = 127) -> Image.Image:
    return _white_where(np.asarray(image.convert("RGB")).min(2) < level)


def _tile(image: Image.Image, times: float = 8) -> Image.Image:
    small = image.resize([max(round(side / times), 1) for side in image.size], Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.BICUBIC)


PREPROCESSORS: Mapping[str, Preprocessor] = {
    "canny": Preprocessor(canny, (100, 200)),
    "scribble": Preprocessor(_scribble, (127,)),
    "invert": Preprocessor(ImageOps.invert),
    "grey": Preprocessor(lambda image: image.convert("L").convert("RGB")),
    "blur": Preprocessor(lambda image, sigma: image.filter(ImageFilter.GaussianBlur(sigma)), (9,)),
    "tile": Preprocessor(_tile, (8,), least=1.0),
}


def preprocess(spec: str, image: Image.Image) -> Image.Image:
    """What the preprocessor that a text names ("canny", "canny:50:150", "blur:4") makes of an RGB picture.

    Raises:
        MaquetteError: there is none of this name, or its numbers are none.
    """
    made, numbers = _read(spec)
    return made.make(image, *numbers)


def check_preprocessor(spec: str) -> None:
    """Refuse a text that names no preprocessor."""
    _read(spec)


def read_preprocessor(spec: str) -> tuple[str, tuple[float, ...]]:
    """The name of a preprocessor and its numbers, those that are not said too."""
    return spec.partition(":")[0], _read(spec)[1]


def _read(spec: str) -> tuple[Preprocessor, tuple[float, ...]]:
    name, *told = spec.split(":")
    if name not in PREPROCESSORS:
        raise MaquetteError(f"there is no preprocessor {name!r:.60}; {nearest(name, PREPROCESSORS)}")
    found = PREPROCESSORS[name]
    try:
        numbers = tuple(map(float, told))
    except ValueError:
        numbers = (np.nan,)
    if len(numbers) > len(found.numbers) or not all(found.least <= number <= 10_000 for number in numbers):
        form = ":".join([name, *(f"{number:g}" for number in found.numbers)])
        raise MaquetteError(f"{spec!r:.60} is no preprocessor; write {form}, or {name} alone")
    return found, numbers + found.numbers[len(numbers) :]
