"""What a judge reads in pictures, and whether that is what the caption asked for.

A cell of 8 x 8 pixels is foreground where some emoji is likelier than the background. An emoji is found where it is
the likeliest of at least two cells; the found ones are ordered by their mass, the sum of their probabilities over the
foreground. Emoji that look alike count as different, those that the caption's words cannot tell apart as the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from maquette.models.judge import CELL, Opinion
from maquette.training.emoji import catalogue
from maquette.training.judge import PLAIN, SIDEWAYS
from maquette.training.scenes import COLOURLESS_STYLES, Background, Relation, Scene, Thing
from maquette.training.words import BACKGROUNDS, RECOLOURS

MIN_CELLS = 2  # fewer are chance
AXES: dict[Relation, tuple[int, int]] = {  # from each thing to the next: (x, y)
    "left of": (1, 0),
    "right of": (-1, 0),
    "above": (0, 1),
    "below": (0, -1),
    "row": (1, 0),
    "column": (0, 1),
}

Judging = Callable[[Tensor], Opinion]
"""Pictures (B, 3, H, W) in [-1, 1] -> what is in them; `Judge` is one."""


@dataclass(frozen=True, slots=True)
class Found:
    """An emoji that was found, by its index; where its mass has its centre, in pixels; its recolouring."""

    emoji: int
    mass: float  # cells
    x: float
    y: float
    recolour: str | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What is in a picture: emoji, the one with the largest mass first, and the background."""

    found: tuple[Found, ...]
    background: Background


@dataclass(frozen=True, slots=True)
class Score:
    """What is right in a picture; None where the caption does not ask for it.

    object: a single emoji is the one with the largest mass, several are all found. background: all its colours and its
    direction. relation: the things are found, and their centres follow one another along the named axis more than
    across it. recolour: the recoloured things are found, in their new colours.
    """

    object: bool
    background: bool
    relation: bool | None
    recolour: bool | None

    @property
    def everything(self) -> bool:
        """Whether none of these is wrong; places, styles and things that nobody asked for are not read."""
        return False not in (self.object, self.background, self.relation, self.recolour)


@torch.no_grad()
def read(judge: Judging, pictures: Tensor) -> tuple[list[Reading], Tensor]:
    """Read pictures (B, 3, H, W) in [-1, 1]; also the judge's features of them (B, width), in float64."""
    opinion = judge(pictures)
    probabilities, recolours = opinion.emoji.float().softmax(-1), opinion.recolour.float().log_softmax(-1)
    backgrounds = _backgrounds(opinion)
    found = [_found(*each) for each in zip(probabilities, recolours, strict=True)]
    return list(map(Reading, found, backgrounds)), opinion.features.double()


def _found(probabilities: Tensor, recolours: Tensor) -> tuple[Found, ...]:
    """The emoji of one picture from (h, w, 1 + emoji) and the recolourings' logarithms (h, w, 1 + recolours)."""
    top = probabilities.argmax(-1)
    rows, columns = (top > 0).nonzero(as_tuple=True)
    classes, cells = top[rows, columns].unique(return_counts=True)
    classes = classes[cells >= MIN_CELLS]
    each = probabilities[rows, columns][:, classes]  # (foreground cells, classes)
    mass = each.sum(0)
    x = (each * (columns[:, None] + 0.5)).sum(0) / mass * CELL
    y = (each * (rows[:, None] + 0.5)).sum(0) / mass * CELL
    names = (None, *RECOLOURS)
    colours = [names[label] for label in (each.T @ recolours[rows, columns]).argmax(1).tolist()]
    emojis = [label - 1 for label in classes.tolist()]
    return tuple(sorted(map(Found, emojis, mass.tolist(), x.tolist(), y.tolist(), colours), key=lambda f: -f.mass))


def _backgrounds(opinion: Opinion) -> list[Background]:
    names = tuple(BACKGROUNDS)
    first, second, direction = (logits.float() for logits in opinion.backdrop)
    plain = (first.log_softmax(1) + second.log_softmax(1)).argmax(1).tolist()
    found = []
    for k, towards in enumerate(direction.argmax(1).tolist()):
        start, end = int(first[k].argmax()), int(second[k].argmax())
        if towards == PLAIN or start == end:
            found.append(Background(names[plain[k]]))
        else:
            found.append(Background(names[start], names[end], towards == SIDEWAYS))
    return found


def score(reading: Reading, scene: Scene) -> Score:
    """Whether the reading is what the scene's captions ask for."""
    things = scene.things[:1] if scene.relation == "copies" else scene.things
    candidates = reading.found[:1] if len(things) == 1 else reading.found
    matches = _match(candidates, [fitting(thing, scene.style) for thing in things])
    complete = None not in matches
    relation = recolour = None
    if scene.relation in AXES:
        relation = complete and _follow([m for m in matches if m is not None], *AXES[scene.relation])
    asked = [(thing.recolour, match) for thing, match in zip(things, matches, strict=True) if thing.recolour]
    if asked:
        recolour = all(match is not None and match.recolour == colour for colour, match in asked)
    return Score(complete, reading.background == scene.background, relation, recolour)


def fitting(thing: Thing, style: str | None) -> frozenset[int]:
    """The emoji that a caption of a thing, in a style, may mean: those that its words cannot tell apart."""
    return _fitting(thing.emoji, thing.recolour is not None or style in COLOURLESS_STYLES)


def _match(found: Sequence[Found], wanted: Sequence[frozenset[int]]) -> list[Found | None]:
    """For each wanted thing the strongest found one that fits it and was not taken before."""
    left = list(found)
    matches = []
    for emojis in wanted:
        match = next((thing for thing in left if thing.emoji in emojis), None)
        if match is not None:
            left.remove(match)
        matches.append(match)
    return matches


def _follow(things: Sequence[Found], along_x: int, along_y: int) -> bool:
    """Whether each thing lies beyond the one before it, more along the axis than across it."""
    for before, after in pairwise(things):
        dx, dy = after.x - before.x, after.y - before.y
        if dx * along_x + dy * along_y <= abs(dx * along_y + dy * along_x):
            return False
    return True


@cache
def _fitting(emoji: int, colourless: bool) -> frozenset[int]:
    """The emoji that the caption may mean: if it leaves the name's colour out, all that bear the rest of the name."""
    base = catalogue()[emoji].base_en
    if not colourless:
        return frozenset([emoji])
    return frozenset(other.index for other in catalogue() if other.base_en == base)
