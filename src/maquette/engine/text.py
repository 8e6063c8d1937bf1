"""Text encoders at work: a tokenizer, a tower, and how the family reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.families.family import Encoding, Reading
from maquette.models.bert import Bert
from maquette.models.class_embedder import ClassEmbedder
from maquette.models.clip import CLIPText, TextStates
from maquette.models.t5 import T5
from maquette.text.chunks import Chunk, fill_chunks
from maquette.text.classes import class_number
from maquette.text.prompt import Place, Span, parse_prompt, plain
from maquette.text.t5_tokenizer import T5Tokenizer
from maquette.text.tokenizer import CLIPTokenizer


@dataclass
class TextEncoder:
    """A CLIP tower and its tokenizer; `emphasis` reads prompts by A1111's grammar."""

    reading: Reading
    tokenizer: CLIPTokenizer
    tower: CLIPText
    emphasis: bool = True
    learned: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)
    """Textual inversions by the ids of their names; see `maquette.text.chunks.Learned`."""

    def spans(self, prompt: str) -> list[Span]:
        """The prompt and the weights of its parts."""
        return parse_prompt(prompt) if self.emphasis else [Span(prompt, 1.0)]

    def plain(self, prompt: str) -> str:
        """The words of the prompt alone."""
        return plain(self.spans(prompt))

    def chunks(self, prompt: str) -> list[Chunk]:
        """The prompt in rows of ids."""
        rows = fill_chunks(self.spans(prompt), self.tokenizer, self.learned, at_commas=self.emphasis)
        return rows if self.emphasis else rows[:1]

    def places(self, prompt: str, chunks: int = 1) -> list[Place | None]:
        """Which letters of the plain prompt each token of at least so many chunks stands for."""
        rows = self.chunks(prompt)
        return [place for row in self._filled(rows, max(chunks, len(rows))) for place in row.places]

    def __call__(self, prompts: Sequence[str], *, chunks: int = 1, clip_skip: int = 1) -> Encoding:
        """States (B, n * length, C) of n chunks, at least `chunks` and as many as the longest prompt takes.

        Shorter prompts are repeated where that comes out even (`common_length` says for which n), so that n changes
        nothing of what cross-attention reads; else empty chunks follow. `clip_skip` counts as A1111 does: 1 reads the
        family's layer, 2 the one before it, ...
        """
        rows = [self.chunks(prompt) for prompt in prompts]
        number = max(chunks, *map(len, rows))
        flat = [chunk for row in rows for chunk in self._filled(row, number)]
        states: TextStates = self.tower(torch.tensor([chunk.ids for chunk in flat], device=self.tower.device))
        tokens = self._weighted(self._layer(states, clip_skip), [chunk.weights for chunk in flat])
        pooled = states.projected if self.reading.pooled == "projected" else states.pooled
        pooled = states.pooled if pooled is None else pooled
        return Encoding(tokens.unflatten(0, (-1, number)).flatten(1, 2), pooled.unflatten(0, (-1, number))[:, 0])

    def _filled(self, row: list[Chunk], number: int) -> list[Chunk]:
        """So many chunks: a prompt's own over again, or empty ones behind them."""
        if number % len(row) == 0:
            return row * (number // len(row))
        return row + fill_chunks([Span("", 1.0)], self.tokenizer) * (number - len(row))

    def _layer(self, states: TextStates, clip_skip: int) -> Tensor:
        skip = self.reading.skip + clip_skip - 1
        if not 1 <= clip_skip <= len(states.hidden) - self.reading.skip - 1:
            raise MaquetteError(
                f"clip skip {clip_skip} does not exist: 1 skips nothing, and this text encoder goes up to "
                f"{len(states.hidden) - self.reading.skip - 1}"
            )
        if not self.reading.norm:
            return states.hidden[-1 - skip]
        return self.tower.final_norm(states.hidden[-1 - skip]) if skip else states.last

    def _weighted(self, tokens: Tensor, weights: list[list[float]]) -> Tensor:
        """Tokens times their weights, brought back to the mean that each chunk had."""
        table = torch.tensor(weights, dtype=torch.float32)
        if bool((table == 1.0).all()):
            return tokens
        states = tokens.float()
        strong = states * table[..., None].to(states.device)
        mean, now = (each.mean(dim=(1, 2), keepdim=True) for each in (states, strong))
        emphatic = (table != 1.0).any(dim=1).to(states.device)[:, None, None]
        return torch.where(emphatic, strong * (mean / now), states).to(tokens.dtype)


@dataclass
class LongTextEncoder:
    """T5 or latent diffusion's BERT, and its tokenizer; it reads words as they are."""

    reading: Reading
    tokenizer: T5Tokenizer
    tower: T5 | Bert

    def chunks(self, prompt: str) -> list[Chunk]:
        """One row, whatever its length."""
        return [Chunk([], [], [])]

    def plain(self, prompt: str) -> str:
        """The prompt as it is."""
        return prompt

    def places(self, prompt: str, chunks: int = 1) -> list[Place | None]:
        """Which letters of the prompt each token stands for."""
        return self.tokenizer.places(prompt)

    def __call__(self, prompts: Sequence[str], *, chunks: int = 1, clip_skip: int = 1) -> Encoding:
        """States (B, length, C) after the final norm, padding included."""
        tokens: Tensor = self.tower(torch.tensor(self.tokenizer(prompts), device=self.tower.device))
        return Encoding(tokens, tokens.new_zeros(len(tokens), 0))


@dataclass
class ClassEncoder:
    """A class embedder; a prompt is the number of a class, or empty."""

    reading: Reading
    tower: ClassEmbedder

    def chunks(self, prompt: str) -> list[Chunk]:
        """One row."""
        return [Chunk([], [], [])]

    def plain(self, prompt: str) -> str:
        """The prompt as it is."""
        return prompt

    def places(self, prompt: str, chunks: int = 1) -> list[Place | None]:
        """One token stands for the whole prompt."""
        return [(0, len(prompt))]

    def __call__(self, prompts: Sequence[str], *, chunks: int = 1, clip_skip: int = 1) -> Encoding:
        """The classes' tokens (B, 1, C)."""
        tokens: Tensor = self.tower([class_number(prompt) for prompt in prompts])
        return Encoding(tokens, tokens.new_zeros(len(tokens), 0))


Encoder = TextEncoder | LongTextEncoder | ClassEncoder


class Lesson(NamedTuple):
    """What a tower is to know: words' vectors by the ids of their names, and the rows of its token embedding."""

    encoder: TextEncoder
    learned: dict[tuple[int, ...], tuple[int, ...]]
    rows: Tensor

    def learn(self) -> None:
        """Let the tower know these words instead of those that it knew before."""
        self.encoder.learned = self.learned
        self.encoder.tower.token_embedding.weight = torch.nn.Parameter(self.rows.detach(), requires_grad=False)


def prepare(encoder: TextEncoder, words: Mapping[str, Tensor]) -> Lesson:
    """What a tower is to know of learned words, (n, d) vectors each; it changes nothing.

    Raises:
        MaquetteError: the tokenizer reads a word as nothing, or two as the same, or a word has more vectors than fit.
    """
    vocabulary, embedding = encoder.tower.spec.vocabulary, encoder.tower.token_embedding
    rows, names = [embedding.weight[:vocabulary]], dict[tuple[int, ...], str]()
    learned: dict[tuple[int, ...], tuple[int, ...]] = {}
    first = vocabulary
    for word, vectors in words.items():
        name, room = tuple(encoder.tokenizer.words(word)), encoder.tokenizer.length - 2
        if not name:
            raise MaquetteError(f"the word {word!r} of an embedding is empty to this tokenizer; name it otherwise")
        if name in names:
            raise MaquetteError(
                f"the words {names[name]!r} and {word!r} of two embeddings are the same to this tokenizer; "
                "name one of them otherwise"
            )
        if len(vectors) > room:
            raise MaquetteError(
                f"the embedding {word!r} has {len(vectors)} vectors, but this model reads {room} words at a time; "
                "use it with the model that it was made for"
            )
        names[name], learned[name] = word, tuple(range(first, first + len(vectors)))
        rows.append(vectors.to(embedding.weight))
        first += len(vectors)
    return Lesson(encoder, learned, torch.cat(rows) if len(rows) > 1 else rows[0])
