"""Captions of scenes in English and Chinese, as people write prompts: long, short, or a name and a few tags."""

from typing import Literal

import numpy as np

from maquette.errors import MaquetteError
from maquette.training import chinese, english
from maquette.training.emoji import catalogue
from maquette.training.scenes import Scene, pick
from maquette.training.words import COLOUR_PREFIXES_ZH

Language = Literal["en", "zh"]

TAGGED = 0.06  # of the captions of single objects: one or two CLDR keywords are appended
# Keywords that speak of places and colours would contradict the rest
MISLEADING = frozenset(
    {"left", "right", "up", "down", "top", "bottom", *COLOUR_PREFIXES_ZH, *"左右上下红橙黄绿蓝紫粉棕黑白青"}
)


def caption(scene: Scene, rng: np.random.Generator, language: Language = "en") -> str:
    """A caption that tells all of the scene that matters; the same for the same state of the generator."""
    if language not in ("en", "zh"):
        raise MaquetteError(f"no captions in {language!r}: use 'en' or 'zh'")
    text = english.say(scene, rng) if language == "en" else chinese.say(scene, rng)
    if len(scene.things) == 1 and rng.random() < TAGGED:
        text += _tags(scene, rng, language)
    return text


def _tags(scene: Scene, rng: np.random.Generator, language: Language) -> str:
    emoji = catalogue()[scene.things[0].emoji]
    keywords = emoji.keywords_en if language == "en" else emoji.keywords_zh
    if language == "en":
        keywords = tuple(word for word in keywords if word.isascii())  # CLDR adds the letters of some signs
    fitting = [word for word in keywords if MISLEADING.isdisjoint([*word.split(), *word])]
    if not fitting:
        return ""
    chosen = dict.fromkeys(pick(rng, fitting) for _ in range(2))
    return "".join(f", {word}" if language == "en" else f"，{word.replace(' ', '')}" for word in chosen)
