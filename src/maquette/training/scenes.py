"""Emoji scenes: what is to be seen, drawn at random from a distribution that a small model can learn.

A scene is one object large at the centre or smaller at a named place, two objects in a relation, two or three copies,
or three objects in a row or column. All boxes lie on a grid of 8 pixels, the latent grid of an f8 first stage.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from maquette.errors import MaquetteError
from maquette.training.emoji import THING, catalogue, names_in_use
from maquette.training.words import BACKGROUNDS, RECOLOURS

Split = Literal["train", "held-out"]
Kind = Literal["single", "relation", "count", "row"]
Relation = Literal["left of", "right of", "above", "below", "and", "copies", "row", "column"]

EXTENT = 128  # pixels a side
CLOSE = 64  # of a close-up
MOST_THINGS = 3
GRID = 8
HUGE, LARGE, FAIR, MEDIUM, MODEST, SMALL = 112, 80, 56, 48, 40, 32  # sides of sprites, all multiples of GRID

KINDS: dict[Kind, float] = {"single": 0.55, "relation": 0.30, "count": 0.07, "row": 0.08}
CENTRED = 0.45  # of the single objects: large or huge in the middle, said without a place
RECOLOURED = 0.15  # of the objects
STYLED = 0.12  # of the scenes
GRADIENT = 0.25
CLOSE_CENTRED = 0.6  # of the close-ups: medium, in the middle
# Scenes made white, so that captions may leave the background unsaid; a lone big object is often a name and no more
WHITE, WHITE_CENTRED = 0.04, 0.25
HELD_OUT = 20  # one combination in so many is kept from training

STYLES = ("pixel art", "outline", "silhouette", "black and white", "neon", "sticker")
COLOURLESS_STYLES = ("outline", "silhouette", "black and white", "neon")  # things lose their colours in these
PLACES: dict[str, tuple[int, int]] = {  # (x, y): -1 near, 0 middle, 1 far
    "centre": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
RELATIONS: dict[Relation, float] = {"left of": 0.2, "right of": 0.2, "above": 0.2, "below": 0.2, "and": 0.2}
LINES: dict[Relation, float] = {"row": 0.5, "column": 0.5}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Background:
    """One colour, or a gradient to a second one, from top to bottom or from left to right."""

    colour: str
    to: str | None = None
    horizontal: bool = False

    @property
    def colours(self) -> tuple[str, ...]:
        return (self.colour,) if self.to is None else (self.colour, self.to)


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: a square sprite of `size` pixels whose top left corner is (x, y)."""

    emoji: int  # index in the catalogue
    size: int
    x: int
    y: int
    place: str | None = None  # where a single object is said to be; None: in the middle, unsaid
    recolour: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is drawn; later things cover earlier ones."""

    things: tuple[Thing, ...]
    background: Background
    relation: Relation | None = None  # of the first thing to the second; None for a single object
    style: str | None = None
    extent: int = EXTENT  # pixels a side

    @property
    def kind(self) -> Kind:
        if self.relation is None:
            return "single"
        return "count" if self.relation == "copies" else "row" if self.relation in ("row", "column") else "relation"


def sample_scene(rng: np.random.Generator, split: Split = "train", kind: Kind | None = None) -> Scene:
    """A scene from the distribution, of one split and, if asked, of one kind."""
    if split not in ("train", "held-out"):
        raise MaquetteError(f"unknown split {split!r}: use 'train' or 'held-out'")
    if kind is not None and kind not in KINDS:
        raise MaquetteError(f"unknown kind of scene {kind!r}: use one of {', '.join(KINDS)}")
    chosen = _weighted(rng, KINDS) if kind is None else kind
    while True:  # either split keeps the shares of the kinds
        scene = _sample(rng, chosen)
        if is_held_out(scene) == (split == "held-out"):
            return scene


def sample_close_up(rng: np.random.Generator, split: Split = "train") -> Scene:
    """One thing that nearly fills a picture of `CLOSE` pixels, as large as things are beside others in a scene."""
    while True:
        style = pick(rng, STYLES) if rng.random() < STYLED else None
        background, emoji = _background(rng, style, WHITE_CENTRED), _emoji(rng)
        size, x, y = MEDIUM, (CLOSE - MEDIUM) // 2, (CLOSE - MEDIUM) // 2
        if rng.random() >= CLOSE_CENTRED:
            size = pick(rng, (MODEST, MEDIUM, FAIR))
            x, y = (GRID * int(rng.integers((CLOSE - size) // GRID + 1)) for _ in range(2))
        thing = Thing(emoji, size, x, y, None, _recolour(rng, emoji, background, style))
        scene = Scene((thing,), background, None, style, CLOSE)
        if is_held_out(scene) == (split == "held-out"):
            return scene


def held_out_scenes(count: int, seed: int, kind: Kind | None = None) -> list[Scene]:
    """Scenes for evaluation whose combinations training never shows; no combination comes twice."""
    rng = np.random.default_rng([seed, 0x4E1D])
    found: dict[str, Scene] = {}
    while len(found) < count:
        scene = sample_scene(rng, "held-out", kind)
        found.setdefault(combination(scene), scene)
    return list(found.values())


def combination(scene: Scene) -> str:
    """What the split looks at: objects, recolouring, relation and background, the same for scenes that look alike.

    Order is by place: "A left of B", "B right of A" and "A and B" (drawn side by side) are one combination.
    """
    things = scene.things[::-1] if scene.relation in ("right of", "below") else scene.things
    alike = {"right of": "left of", "below": "above", "and": "left of"}
    objects = " ".join(f"{catalogue()[thing.emoji].character}{thing.recolour or ''}" for thing in things)
    relation = alike.get(scene.relation or "", scene.relation)
    background = scene.background
    direction = "" if background.to is None else ">" if background.horizontal else "v"
    return f"{objects}|{relation}|{background.colour}{direction}{background.to or ''}"


def is_held_out(scene: Scene) -> bool:
    """Whether the scene's combination is among the 5 % that training never shows; the same on every machine."""
    digest = hashlib.blake2b(combination(scene).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % HELD_OUT == 0


def _sample(rng: np.random.Generator, kind: Kind) -> Scene:
    style = pick(rng, STYLES) if rng.random() < STYLED else None
    centred = kind == "single" and rng.random() < CENTRED
    background = _background(rng, style, WHITE_CENTRED if centred else WHITE)
    if kind == "single":
        return Scene((_single(rng, background, style, centred),), background, None, style)
    if kind == "count":
        return Scene(_copies(rng, background, style), background, "copies", style)
    relation = _weighted(rng, RELATIONS if kind == "relation" else LINES)
    arrange = _pair if kind == "relation" else _line
    return Scene(arrange(rng, relation, background, style), background, relation, style)


def _background(rng: np.random.Generator, style: str | None, white: float) -> Background:
    if style == "black and white":
        return Background(pick(rng, ("white", "black", "grey")))
    if style == "neon":
        return Background(pick(rng, ("black", "navy")))
    if rng.random() < white:
        return Background("white")
    names = tuple(BACKGROUNDS)
    colour = pick(rng, names)
    if rng.random() >= GRADIENT:
        return Background(colour)
    to = pick(rng, tuple(name for name in names if name != colour))
    return Background(colour, to, rng.random() < 0.4)


def _single(rng: np.random.Generator, background: Background, style: str | None, centred: bool) -> Thing:
    emoji = _emoji(rng)
    recolour = _recolour(rng, emoji, background, style)
    if centred:
        size = HUGE if rng.random() < 0.6 else LARGE
        offset = (EXTENT - size) // 2
        return Thing(emoji, size, offset, offset, None, recolour)
    size = MEDIUM if rng.random() < 0.6 else SMALL
    place = pick(rng, tuple(PLACES))
    x, y = (_along(rng, size, side, jitter=place != "centre") for side in PLACES[place])
    return Thing(emoji, size, x, y, place, recolour)


def _pair(rng: np.random.Generator, relation: Relation, background: Background, style: str | None) -> tuple[Thing, ...]:
    """Two different objects, the first at the left (or top) unless the relation says otherwise."""
    first_side = 1 if relation in ("right of", "below") else -1
    emojis = _different(rng, 2)
    things = []
    for emoji, side in zip(emojis, (first_side, -first_side), strict=True):
        size = FAIR if rng.random() < 0.5 else MEDIUM
        along, across = _along(rng, size, side), _along(rng, size, 0)
        x, y = (across, along) if relation in ("above", "below") else (along, across)
        things.append(Thing(emoji, size, x, y, None, _recolour(rng, emoji, background, style)))
    return tuple(things)


def _copies(rng: np.random.Generator, background: Background, style: str | None) -> tuple[Thing, ...]:
    emoji = _countable(rng)
    recolour = _recolour(rng, emoji, background, style)
    xs = (16, 72) if rng.random() < 0.5 else (0, 40, 80)
    x0, y = (pick(rng, (0, GRID)), _along(rng, MODEST, 0))
    return tuple(Thing(emoji, MODEST, x0 + x, y, None, recolour) for x in xs)


def _line(rng: np.random.Generator, relation: Relation, background: Background, style: str | None) -> tuple[Thing, ...]:
    start, across = pick(rng, (0, GRID)), _along(rng, MODEST, 0)
    things = []
    for place, emoji in enumerate(_different(rng, 3)):
        along = start + place * MODEST
        x, y = (across, along) if relation == "column" else (along, across)
        things.append(Thing(emoji, MODEST, x, y, None, _recolour(rng, emoji, background, style)))
    return tuple(things)


def _along(rng: np.random.Generator, size: int, side: int, jitter: bool = True) -> int:
    """A coordinate on the grid near the low end (-1), the middle (0) or the high end (1), moved by at most 8."""
    middle = (EXTENT - size) // 2 // GRID * GRID
    if side == 0:
        return middle + (GRID * pick(rng, (-1, 0, 1)) if jitter else 0)
    inset = GRID * pick(rng, (0, 1)) if jitter else 0
    return inset if side < 0 else EXTENT - size - inset


@cache
def _weights() -> NDArray[np.float64]:
    total = np.cumsum([emoji.weight for emoji in catalogue()])
    return np.asarray(total / total[-1], np.float64)


def _emoji(rng: np.random.Generator) -> int:
    return int(np.searchsorted(_weights(), rng.random(), side="right"))


def _different(rng: np.random.Generator, count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        emoji = _emoji(rng)
        if emoji not in found:
            found.append(emoji)
    return found


def _countable(rng: np.random.Generator) -> int:
    """An emoji of which one can say "two ...s": a thing that is not a plural or a substance already."""
    while True:
        emoji = _emoji(rng)
        if catalogue()[emoji].group == THING and catalogue()[emoji].countable:
            return emoji


def _recolour(rng: np.random.Generator, emoji: int, background: Background, style: str | None) -> str | None:
    """Another colour for the object, or None: never its own, another emoji's, or one that drowns in the background."""
    if rng.random() >= RECOLOURED or style in COLOURLESS_STYLES:
        return None
    colour = pick(rng, tuple(RECOLOURS))
    described = catalogue()[emoji]
    if colour == described.colour or f"{colour} {described.base_en}" in names_in_use():
        return None
    return None if any(_alike(colour, behind) for behind in background.colours) else colour


@cache
def _alike(recolour: str, background: str) -> bool:
    object_rgb, background_rgb = np.array(RECOLOURS[recolour][0][1]), np.array(BACKGROUNDS[background][0])
    return bool(np.linalg.norm(object_rgb - background_rgb) < 90)


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, all alike; ten times as fast as Generator.choice."""
    return options[int(rng.random() * len(options))]


def _weighted(rng: np.random.Generator, shares: dict[T, float]) -> T:
    level = rng.random() * sum(shares.values())
    for option, share in shares.items():
        level -= share
        if level < 0:
            return option
    return option
