"""Prompts longer than a text encoder: cut into chunks of its length, each with its marks, as A1111 does.

Every token has a weight and a place, the letters that it stands for. A chunk that would cut a phrase in its last 20
tokens ends at the comma before it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from maquette.text.prompt import Place, Span, plain
from maquette.text.tokenizer import CLIPTokenizer

MOST_REPEATED = 4  # times the longest of some texts, to which all of them are repeated
COMMA_REACH = 20  # how far back from a chunk's end a comma may end it instead

Learned = Mapping[tuple[int, ...], tuple[int, ...]]
"""Textual inversions: the ids of the name as words, and the ids of the learned vectors."""


class Chunk(NamedTuple):
    """A row of ids for the encoder, marks and padding included; for each a weight and its place (marks have none)."""

    ids: list[int]
    weights: list[float]
    places: list[Place | None]


class _Token(NamedTuple):
    id: int
    weight: float
    place: Place


class _Filling:
    """Chunks that are being filled with tokens."""

    def __init__(self, room: int, comma: int | None) -> None:
        self.room, self.comma = room, comma
        self.done: list[list[_Token]] = []
        self.tokens: list[_Token] = []
        self.last_comma: int | None = None

    def next_chunk(self) -> None:
        self.done.append(self.tokens)
        self.tokens, self.last_comma = [], None

    def add(self, token: _Token) -> None:
        """One token of a word; a full chunk ends before it, or at the last comma if that is near."""
        if token.id == self.comma:
            self.last_comma = len(self.tokens)
        elif (
            len(self.tokens) == self.room and self.last_comma is not None and self.room - self.last_comma <= COMMA_REACH
        ):
            moved = self.tokens[self.last_comma + 1 :]
            del self.tokens[self.last_comma + 1 :]
            self.next_chunk()
            self.tokens = moved
        if len(self.tokens) == self.room:
            self.next_chunk()
        self.tokens.append(token)

    def add_learned(self, vectors: Sequence[_Token]) -> None:
        """The vectors of one learned word, which stay together."""
        if len(self.tokens) + len(vectors) > self.room:
            self.next_chunk()
        self.tokens.extend(vectors)


def common_length(lengths: Collection[int]) -> int:
    """The number of chunks in which texts of such lengths are told together.

    It is a multiple of them all, or the longest if that were more than `MOST_REPEATED` times as long.
    """
    longest, multiple = max(lengths, default=1), math.lcm(*lengths)
    return multiple if multiple <= MOST_REPEATED * longest else longest


def fill_chunks(
    spans: Sequence[Span], tokenizer: CLIPTokenizer, learned: Learned | None = None, *, at_commas: bool = True
) -> list[Chunk]:
    """At least one chunk of `tokenizer.length` ids that holds the spans' words.

    Without `at_commas` only what is full ends, so that the first is what the tokenizer says of the words.
    """
    filling = _Filling(tokenizer.length - 2, tokenizer.vocabulary.get(",</w>") if at_commas else None)
    names = sorted(learned or {}, key=len, reverse=True)
    begin = 0  # of the span, in the plain text
    for span in spans:
        text, weight = span
        if weight is None:
            filling.next_chunk()
        else:
            words = [
                _Token(token, weight, (begin + start, begin + end)) for token, start, end in tokenizer.pieces(text)
            ]
            while words:
                name = next((name for name in names if tuple(word.id for word in words[: len(name)]) == name), None)
                if name is not None and learned is not None and len(learned[name]) <= filling.room:
                    place = words[0].place[0], words[len(name) - 1].place[1]
                    filling.add_learned([_Token(vector, weight, place) for vector in learned[name]])
                    del words[: len(name)]
                else:
                    filling.add(words.pop(0))
        begin += len(plain([span]))
    if filling.tokens or not filling.done:
        filling.next_chunk()
    return [_finish(tokens, tokenizer) for tokens in filling.done]


def _finish(tokens: list[_Token], tokenizer: CLIPTokenizer) -> Chunk:
    empty = tokenizer.length - 2 - len(tokens)
    ids = [tokenizer.start, *(token.id for token in tokens), tokenizer.end, *[tokenizer.pad] * empty]
    weights = [1.0, *(token.weight for token in tokens), 1.0, *[1.0] * empty]
    return Chunk(ids, weights, [None, *(token.place for token in tokens), None, *[None] * empty])
