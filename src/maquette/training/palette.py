"""What the colours of a semantic map stand for: every emoji has one of its own, near its main colour.

    palette().paint([((8, 40, 56, 88), "apple"), ((72, 40, 120, 88), "cat")], background="light blue")

The table is `assets/semantic-map/palette.json`, for people too: each colour with the names of what it stands for. Why
it is made so: docs/decisions/0012. To make it anew for another emoji font:

    python -c "from maquette.training.palette import SHIPPED, made; made().write(SHIPPED)"
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from maquette.engine.open import ASSETS, read_json
from maquette.errors import MaquetteError
from maquette.training.emoji import KNOWN, Emoji, catalogue, glyph
from maquette.training.scenes import EXTENT
from maquette.training.words import BACKGROUNDS
from maquette.weights.atomic_file import replacing

SHIPPED = ASSETS / "semantic-map" / "palette.json"
STEP = 16  # between neighbouring colours, in each of red, green and blue
CLEAR = 40  # the least distance of a thing's colour to a background's

Colour = tuple[int, int, int]
Shape = Sequence[float] | Sequence[tuple[float, float]]
"""A box (left, top, right, bottom), or the corners (x, y) of a polygon, in pixels."""


@dataclass(frozen=True)
class Palette:
    """The names of what each colour stands for: of a thing its character first, then English and Chinese ones."""

    things: Mapping[Colour, tuple[str, ...]]
    backgrounds: Mapping[Colour, tuple[str, ...]]

    @classmethod
    def read(cls, path: Path) -> "Palette":
        """Read what `write` wrote.

        Raises:
            MaquetteError: it is missing or damaged.
        """
        told = read_json(path)
        try:
            tables = [
                {_parsed(colour): tuple(map(str, names)) for colour, names in told[kind].items()}
                for kind in ("things", "backgrounds")
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MaquetteError(
                f"{path}: is no palette of a semantic map ({error}); install the package anew"
            ) from error
        return cls(*tables)

    def write(self, path: Path) -> None:
        """Write JSON, a line for each colour."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kinds = []
        for kind, table in (("backgrounds", self.backgrounds), ("things", self.things)):
            rows = (
                f"  {json.dumps(_hex(each))}: {json.dumps(names, ensure_ascii=False)}" for each, names in table.items()
            )
            kinds.append(f" {json.dumps(kind)}: {{\n" + ",\n".join(rows) + "\n }")
        with replacing(path) as file:
            file.write(("{\n" + ",\n".join(kinds) + "\n}\n").encode())

    @cached_property
    def _by_name(self) -> tuple[dict[str, Colour], dict[str, Colour]]:
        tables = (self.things, self.backgrounds)
        things, backgrounds = ({name: each for each, names in table.items() for name in names} for table in tables)
        return things, backgrounds

    def thing(self, name: str) -> Colour:
        """The colour of a thing by its emoji or any of its names in English or Chinese."""
        return _look_up(self._by_name[0], name, "thing")

    def background(self, name: str) -> Colour:
        """The colour of a background by its name."""
        return _look_up(self._by_name[1], name, "background")

    @cached_property
    def by_index(self) -> NDArray[np.uint8]:
        """The colours of the catalogue's emoji, by their indices, (n, 3).

        Raises:
            MaquetteError: the catalogue has emoji that the palette does not know.
        """
        known = self._by_name[0]
        strange = [emoji.character for emoji in catalogue() if emoji.character not in known]
        if strange:
            raise MaquetteError(
                f"the palette has no colour for {len(strange)} emoji of this machine's font, such as {strange[0]}: "
                f"install the font that it was made of ({KNOWN}), or make it anew (see maquette/training/palette.py)"
            )
        return np.array([known[emoji.character] for emoji in catalogue()], np.uint8)

    def paint(
        self, regions: Sequence[tuple[Shape, str]], background: str = "white", size: tuple[int, int] = (EXTENT, EXTENT)
    ) -> Image.Image:
        """The map of regions, each a shape and the name of what is there; later ones cover earlier ones.

        `size` is (width, height) in pixels, that of the picture to be painted by the map.

        Raises:
            MaquetteError: a name is unknown, or a shape is neither a box nor a polygon, or lies outside.
        """
        image = Image.new("RGB", size, self.background(background))
        canvas = ImageDraw.Draw(image)
        for shape, name in regions:
            try:
                corners = np.array(shape, np.float64)
            except (TypeError, ValueError):
                corners = np.empty(0)
            is_box = corners.shape == (4,) and bool((corners[2:] > corners[:2]).all())
            if not is_box and (corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3):
                raise MaquetteError(
                    f"map: {shape!s:.60} of {name!r:.40} is no region: give (left, top, right, bottom), or at least "
                    "three corners (x, y)"
                )
            points = corners.reshape(-1, 2)
            if (points.max(0) <= 0).any() or (points.min(0) >= size).any():
                sides = f"{size[0]}x{size[1]}"
                raise MaquetteError(f"map: {shape!s:.60} of {name!r:.40} lies outside of the picture, {sides}")
            if is_box:
                left, top, right, bottom = corners.tolist()
                canvas.rectangle((left, top, right - 1, bottom - 1), self.thing(name))
            else:
                canvas.polygon([(x, y) for x, y in points.tolist()], self.thing(name))
        return image


@cache
def palette() -> Palette:
    """The package's palette."""
    return Palette.read(SHIPPED)


def made() -> Palette:
    """A palette of this machine's catalogue: each emoji takes the free colour nearest to its mean one.

    Free are the points of a grid of `STEP` that lie `CLEAR` off every background; what is drawn often chooses first.
    """
    backgrounds = {colour: (name, chinese) for name, (colour, chinese) in BACKGROUNDS.items()}
    grid = np.array(list(product(range(STEP // 2, 256, STEP), repeat=3)), np.int64)
    distances = ((grid[:, None] - np.array(list(backgrounds))) ** 2).sum(-1)
    free = grid[distances.min(1) >= CLEAR**2]
    things = {}
    for emoji in sorted(catalogue(), key=lambda each: (-each.weight, each.index)):
        nearest = int(((free - mean_colour(emoji)) ** 2).sum(1).argmin())
        red, green, blue = free[nearest].tolist()
        names = dict.fromkeys((emoji.character, *emoji.names_en, *emoji.names_zh))
        things[red, green, blue] = tuple(names)
        free = np.delete(free, nearest, 0)
    return Palette(things, backgrounds)


def mean_colour(emoji: Emoji) -> NDArray[np.int64]:
    """The emoji's mean colour, (3,), as much as each pixel covers."""
    pixels = np.asarray(glyph(emoji.index), np.int64)
    alpha = pixels[..., 3:]
    return np.asarray((pixels[..., :3] * alpha).sum((0, 1)) // max(1, int(alpha.sum())), np.int64)


def _look_up(table: Mapping[str, Colour], name: str, what: str) -> Colour:
    found = table.get(name.strip().removesuffix("\N{VARIATION SELECTOR-16}").lower())
    if found is None:
        close = difflib.get_close_matches(name.lower(), table, 3)
        hint = f"did you mean {', '.join(close)}?" if close else f"the names are in {SHIPPED}"
        raise MaquetteError(f"map: there is no {what} {name!r:.60}; {hint}")
    return found


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _parsed(colour: str) -> Colour:
    red, green, blue, *_ = ImageColor.getrgb(colour)
    return red, green, blue
