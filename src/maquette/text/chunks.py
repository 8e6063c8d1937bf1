"""Prompts longer than a text encoder: cut into chunks of its length, each with its marks, as A1111 does.

Every token has a weight. A chunk that would cut a phrase in its last 20 tokens ends at the comma before it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from maquette.text.prompt import Span
from maquette.text.tokenizer import CLIPTokenizer

COMMA_REACH = 20  # how far back from a chunk's end a comma may end it instead

Learned = Mapping[tuple[int, ...], tuple[int, ...]]
"""Textual inversions: the ids of the name as words, and the ids of the learned vectors."""


class Chunk(NamedTuple):
    """A row of ids for the encoder, marks and padding included, and a weight for each."""

    ids: list[int]
    weights: list[float]


class _Filling:
    """Chunks that are being filled with tokens."""

    def __init__(self, room: int, comma: int | None) -> None:
        self.room, self.comma = room, comma
        self.done: list[list[tuple[int, float]]] = []
        self.tokens: list[tuple[int, float]] = []
        self.last_comma: int | None = None

    def next_chunk(self) -> None:
        self.done.append(self.tokens)
        self.tokens, self.last_comma = [], None

    def add(self, token: int, weight: float) -> None:
        """One token of a word; a full chunk ends before it, or at the last comma if that is near."""
        if token == self.comma:
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
        self.tokens.append((token, weight))

    def add_learned(self, vectors: Sequence[int], weight: float) -> None:
        """The vectors of one learned word, which stay together."""
        if len(self.tokens) + len(vectors) > self.room:
            self.next_chunk()
        self.tokens.extend((vector, weight) for vector in vectors)


def fill_chunks(spans: Sequence[Span], tokenizer: CLIPTokenizer, learned: Learned | None = None) -> list[Chunk]:
    """At least one chunk of `tokenizer.length` ids that holds the spans' words."""
    filling = _Filling(tokenizer.length - 2, tokenizer.vocabulary.get(",</w>"))
    names = sorted(learned or {}, key=len, reverse=True)
    for text, weight in spans:
        if weight is None:
            filling.next_chunk()
            continue
        words, place = tokenizer.words(text), 0
        while place < len(words):
            name = next((name for name in names if tuple(words[place : place + len(name)]) == name), None)
            if name is not None and learned is not None and len(learned[name]) <= filling.room:
                filling.add_learned(learned[name], weight)
                place += len(name)
            else:
                filling.add(words[place], weight)
                place += 1
    if filling.tokens or not filling.done:
        filling.next_chunk()
    return [_finish(tokens, tokenizer) for tokens in filling.done]


def _finish(tokens: list[tuple[int, float]], tokenizer: CLIPTokenizer) -> Chunk:
    empty = tokenizer.length - 2 - len(tokens)
    ids = [tokenizer.start, *(token for token, _ in tokens), tokenizer.end, *[tokenizer.pad] * empty]
    return Chunk(ids, [1.0, *(weight for _, weight in tokens), 1.0, *[1.0] * empty])
