"""Which of the tokens that a network is told belong to a word of the prompt."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from maquette.errors import MaquetteError
from maquette.families.family import Encoding, Told
from maquette.text.prompt import Place

if TYPE_CHECKING:
    from maquette.engine.model import Model

SPACELESS = "\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # scripts that put no blank between words
LETTER = rf"[^\W{SPACELESS}]"
WORD = re.compile(rf"{LETTER}+(?:['’-]{LETTER}+)*|(?:(?!{LETTER})\w)+")


@dataclass(frozen=True)
class Token:
    """A token among those that the network is told, and the letters of the `text` that it stands for."""

    position: int
    text: str
    place: Place


@dataclass(frozen=True)
class Words:
    """The words of a prompt, without its weights, and their tokens in what the network is told."""

    tokens: tuple[Token, ...]

    @cached_property
    def positions(self) -> list[int]:
        """Of all tokens that stand for letters, in order."""
        return sorted({token.position for token in self.tokens})

    @property
    def texts(self) -> list[str]:
        """What the text encoders read; all of them the same, as a rule."""
        return list(dict.fromkeys(token.text for token in self.tokens))

    @property
    def names(self) -> list[str]:
        """Each word once, in order; of Chinese, which has no blanks, what the text encoder reads as one token."""
        return list(dict.fromkeys(name for text in self.texts for name in self._names(text)))

    def _names(self, text: str) -> Iterator[str]:
        for word in WORD.finditer(text):
            places = [] if re.match(LETTER, word[0]) else self._inside(text, word.span())
            yield from [text[begin:end] for begin, end in places] or [word[0]]

    def _inside(self, text: str, span: Place) -> list[Place]:
        """The places of tokens in a part of a text, in order; none within another encoder's longer one."""
        clipped = {
            (max(token.place[0], span[0]), min(token.place[1], span[1])) for token in self.tokens if token.text == text
        }
        places = sorted(place for place in clipped if place[0] < place[1])
        return [
            each
            for each in places
            if not any(other[0] <= each[0] and each[1] <= other[1] for other in places if other != each)
        ]

    def find(self, word: str) -> list[int]:
        """The positions of a word, wherever it stands in the prompt; letters in the midst of a Chinese text count."""
        places = {text: list(occurrences(word, text)) for text in self.texts}
        found = {
            token.position
            for token in self.tokens
            if any(begin < token.place[1] and token.place[0] < end for begin, end in places[token.text])
        }
        return sorted(found)


def missing(word: str, prompts: Sequence[Words]) -> MaquetteError:
    """What to say of a word that none of the prompts has, or not as far as the text encoder reads."""
    if any(place for words in prompts for text in words.texts for place in occurrences(word, text)):
        return MaquetteError(f"{word!r} stands behind the last token that the text encoder reads; shorten the prompt")
    names = dict.fromkeys(name for words in prompts for name in words.names)
    return MaquetteError(f"{word!r} is not in the prompt; its words are {', '.join(names) or 'none'}")


def occurrences(word: str, text: str) -> Iterator[Place]:
    """Where a word, or several with blanks between, stands in a text, in whatever case; "cat" is not in "cats"."""
    pattern = r"\s+".join(map(re.escape, word.split()))
    before = rf"(?<!{LETTER})" if re.match(LETTER, word.lstrip()) else ""
    after = rf"(?!{LETTER})" if re.search(rf"{LETTER}$", word.rstrip()) else ""
    if pattern:
        yield from (match.span() for match in re.finditer(before + pattern + after, text, re.IGNORECASE))


def find_words(model: "Model", prompt: str) -> Words:
    """The words of a prompt, as the model's text encoders and its family tell them to its network.

    How a family puts together what several encoders say is found by telling it the numbers of the tokens instead.
    """
    chunks, defaults = model.chunks(prompt), model.family.defaults
    places = [None if each is None else each.places(prompt, chunks) for each in model.encoders]
    size = defaults.width, defaults.height
    told = Told(prompts=(prompt,), spec=model.network.spec, width=size[0], height=size[1], original=size)
    tokens: list[Token] = []
    for encoder, own in zip(model.encoders, places, strict=True):
        if encoder is None or own is None:
            continue
        numbers = [
            None if each is None or other is None else _numbers(len(each), other.tower.spec.width, each is own)
            for each, other in zip(places, model.encoders, strict=True)
        ]
        told_numbers = model.family.condition(numbers, told).tokens
        if told_numbers is None:
            continue
        text = encoder.plain(prompt)
        for position, number in enumerate(told_numbers[0].amax(dim=-1).long().tolist()):
            if number and (place := own[number - 1]) is not None:
                tokens.append(Token(position, text, place))
    return Words(tuple(tokens))


def _numbers(count: int, width: int, own: bool) -> Encoding:
    """In place of states: tokens of one encoder numbered from 1, those of others 0."""
    numbers = own * torch.arange(1.0, count + 1)
    return Encoding(numbers[None, :, None].expand(1, count, width), torch.zeros(1, 1))
