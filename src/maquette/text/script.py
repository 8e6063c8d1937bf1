"""Prompts that change while a picture is painted, and prompts that are meant together, as A1111's web UI reads them.

[from:to:when]   `from` until `when`, then `to`; when: a fraction of the steps (0.5, 1.0), or a number of steps (10)
[to:when]        nothing, then `to`           [from::when]   `from`, then nothing
[a|b|c]          a, b, c by turns, one for each step
a AND b :0.7     two prompts at once, the second with the weight 0.7 (Liu et al. 2022, "Composable diffusion")
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from maquette.errors import MaquetteError

DEEPEST = 50  # square brackets in each other

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"^(?P<text>.*?)(?:\s*:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+)))?\s*$", re.DOTALL)
_NUMBER = re.compile(r"\s*(?:\d+\.?\d*|\.\d+)\s*")


class Switch(NamedTuple):
    """`before` for the first `when` steps, `after` from then on; `when` with a point is a fraction of all steps."""

    before: "Script"
    after: "Script"
    when: str

    def at(self, step: int, steps: int) -> str:
        number = int(float(self.when) * steps) if "." in self.when else int(self.when)
        return read(self.before if step < number else self.after, step, steps)


class Turns(NamedTuple):
    """One after the other, over again."""

    scripts: "tuple[Script, ...]"

    def at(self, step: int, steps: int) -> str:
        return read(self.scripts[step % len(self.scripts)], step, steps)


Script = tuple[str | Switch | Turns, ...]
"""The pieces of a prompt, in order."""


def split_together(prompt: str) -> list[tuple[str, float]]:
    """The prompts between the ANDs, each with its weight.

    A prompt without AND stays as it is: A1111 would read the end of "a clock at 12:30" as a weight of 30.
    """
    parts = [_WEIGHT.match(part) for part in _AND.split(prompt)]
    if len(parts) == 1:
        return [(prompt, 1.0)]
    return [(part["text"].strip(), float(part["weight"] or 1)) for part in parts if part is not None]


def by_step(prompt: str, steps: int, *, late: bool = False) -> list[str]:
    """What a prompt says in each of so many steps.

    `late` counts as A1111's web UI does while it paints: its sampler counts from 0 and its prompts from 1, so that
    everything changes one step later than its grammar says.
    """
    script = parse_script(prompt)
    return [read(script, max(step - late, 0), steps) for step in range(steps)]


def counts_steps(prompt: str) -> bool:
    """Whether a prompt changes by turns or at a number of steps; one that cannot be read does not."""
    try:
        return _counts(parse_script(prompt))
    except MaquetteError:
        return False


def _counts(script: Script) -> bool:
    for piece in script:
        if isinstance(piece, Turns):
            return True
        if isinstance(piece, Switch) and ("." not in piece.when or _counts(piece.before) or _counts(piece.after)):
            return True
    return False


def read(script: Script, step: int, steps: int) -> str:
    """What a script says in step `step` of `steps`, counted from 0."""
    return "".join(piece if isinstance(piece, str) else piece.at(step, steps) for piece in script)


def second_pass(prompt: str, steps: int, walked: int) -> str:
    """What is left of a prompt for a second pass that walks `walked` steps, after a first one of `steps`.

    As in A1111 since 1.6: numbers of steps count on from the first pass, and fractions begin at 1.0 and are of the
    steps that the second one walks.
    """
    return _left(parse_script(prompt), steps, walked)


def _left(script: Script, steps: int, walked: int) -> str:
    told = []
    for piece in script:
        match piece:
            case Turns():
                told.append("[" + "|".join(_left(each, steps, walked) for each in piece.scripts) + "]")
            case Switch():
                when = (float(piece.when) - 1) * walked if "." in piece.when else int(piece.when) - steps
                before, after = (_left(each, steps, walked) for each in (piece.before, piece.after))
                told.append(f"[{before}:{after}:{int(when)}]" if when >= 1 else after)
            case _:
                told.append(piece)
    return "".join(told)


def parse_script(prompt: str, depth: int = 0) -> Script:
    """The pieces of a prompt. Brackets that mean no change are left as they are, for the grammar of weights.

    Raises:
        MaquetteError: square brackets stand in more than `DEEPEST` others.
    """
    if depth > DEEPEST:
        raise MaquetteError(f"the prompt: square brackets stand in more than {DEEPEST} others; close or remove some")
    pieces: list[str | Switch | Turns] = []
    start = 0
    for opening, closing in _groups(prompt):
        pieces += [prompt[start:opening], *_group(prompt[opening + 1 : closing], depth + 1)]
        start = closing + 1
    pieces.append(prompt[start:])
    return tuple(piece for piece in pieces if piece != "")


def _group(inside: str, depth: int) -> Script:
    """What stands between two square brackets."""
    turns = _split(inside, "|")
    if len(turns) > 1:
        return (Turns(tuple(parse_script(turn, depth) for turn in turns)),)
    *texts, when = _split(inside, ":")
    if len(texts) in (1, 2) and _NUMBER.fullmatch(when):
        before, after = texts if len(texts) == 2 else ("", texts[0])
        return (Switch(parse_script(before, depth), parse_script(after, depth), when.strip()),)
    return ("[", *parse_script(inside, depth), "]")


def _groups(text: str) -> list[tuple[int, int]]:
    """The places of square brackets that belong together and stand in no others; one never closed is a letter."""
    opened: list[int] = []
    pairs: list[tuple[int, int]] = []  # that no other pair holds, as far as was read
    for place, letter, _ in _brackets(text):
        if letter == "[":
            opened.append(place)
        elif letter == "]" and opened:
            first = opened.pop()
            while pairs and pairs[-1][0] > first:
                pairs.pop()
            pairs.append((first, place))
    return pairs


def _split(text: str, mark: str) -> list[str]:
    """Split at the marks outside of all brackets."""
    places = [place for place, letter, depth in _brackets(text) if letter == mark and depth == 0]
    ends = [*places, len(text)]
    return [text[start:end] for start, end in zip([0, *(place + 1 for place in places)], ends, strict=True)]


def _brackets(text: str) -> Iterator[tuple[int, str, int]]:
    """The letters that mean something: place, letter and how many brackets are open before it; escaped ones do not."""
    depth, place = 0, 0
    while place < len(text):
        letter = text[place]
        if letter == "\\":
            place += 2
            continue
        if letter in "[](),:|":
            yield place, letter, depth
            depth = max(depth + (letter in "([") - (letter in ")]"), 0)
        place += 1
