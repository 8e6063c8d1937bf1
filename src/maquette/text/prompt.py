"""The grammar of prompts, as AUTOMATIC1111's web UI defines it.

(word)      weight 1.1        ((word))  1.1 * 1.1 = 1.21
(word:1.3)  weight 1.3        [word]    weight 1 / 1.1
\\( \\) \\[ \\] \\\\ stand for the character itself; a bracket that is never closed reaches to the end
BREAK       what follows begins a new chunk
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

STRONGER = 1.1

_TOKEN = re.compile(
    r"""
    \\(?P<literal>[()\[\]\\])
  | \\                                                   # before anything else it is dropped
  | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)
  | (?P<bracket>[()\[\]])
  | (?P<text>[^\\()\[\]:]+|:)
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


class Span(NamedTuple):
    """Some words and how strongly they are meant; None is a break between chunks."""

    text: str
    weight: float | None


Place = tuple[int, int]
"""Some letters of a plain text: from the first up to the second number."""


def plain(spans: Iterable[Span]) -> str:
    """The words of spans without weights; a break is a blank."""
    return "".join(" " if weight is None else text for text, weight in spans)


def parse_prompt(prompt: str) -> list[Span]:
    """The spans of a prompt, in order; neighbours of one weight are one span."""
    spans: list[Span] = []
    opened: list[tuple[str, int]] = []  # brackets not yet closed, and the first span inside
    for token in _TOKEN.finditer(prompt):
        bracket, weight, text = token["bracket"], token["weight"], token["literal"] or token["text"] or ""
        if bracket in ("(", "["):
            opened.append((bracket, len(spans)))
        elif weight is not None and _innermost(opened, "(") is not None:
            _multiply(spans, _close(opened, "("), float(weight))
        elif bracket == ")" and _innermost(opened, "(") is not None:
            _multiply(spans, _close(opened, "("), STRONGER)
        elif bracket == "]" and _innermost(opened, "[") is not None:
            _multiply(spans, _close(opened, "["), 1 / STRONGER)
        elif token["text"]:
            spans.extend(_split_at_breaks(text))
        else:
            spans.append(Span(text or ("" if token[0] == "\\" else token[0]), 1.0))
    return list(_merge(_in_unclosed(spans, opened))) or [Span("", 1.0)]


def _innermost(opened: list[tuple[str, int]], bracket: str) -> int | None:
    """The place in `opened` of the last bracket of that kind."""
    return next((k for k in reversed(range(len(opened))) if opened[k][0] == bracket), None)


def _close(opened: list[tuple[str, int]], bracket: str) -> int:
    """Close the last bracket of that kind; the first span inside it."""
    place = _innermost(opened, bracket)
    assert place is not None
    return opened.pop(place)[1]


def _multiply(spans: list[Span], first: int, factor: float) -> None:
    spans[first:] = [Span(text, None if weight is None else weight * factor) for text, weight in spans[first:]]


def _in_unclosed(spans: Iterable[Span], opened: Sequence[tuple[str, int]]) -> Iterator[Span]:
    """Multiply by the brackets left in `opened`, each of which reaches from its first span to the end."""
    factor, begun = 1.0, 0
    for place, (text, weight) in enumerate(spans):
        while begun < len(opened) and opened[begun][1] <= place:
            factor *= STRONGER if opened[begun][0] == "(" else 1 / STRONGER
            begun += 1
        yield Span(text, None if weight is None else weight * factor)


def _split_at_breaks(text: str) -> Iterator[Span]:
    for index, part in enumerate(_BREAK.split(text)):
        if index:
            yield Span("", None)
        yield Span(part, 1.0)


def _merge(spans: Iterable[Span]) -> Iterator[Span]:
    """Join neighbours of one weight; empty words, but not breaks, are left out."""
    held: Span | None = None
    for span in spans:
        if held is not None and held.weight is not None and held.weight == span.weight:
            held = Span(held.text + span.text, held.weight)
            continue
        if held is not None and (held.text or held.weight is None):
            yield held
        held = span
    if held is not None and (held.text or held.weight is None):
        yield held
