"""How captions put relations into words: each language has its own templates, and chooses among them alike."""

from typing import NamedTuple

import numpy as np

from maquette.training.scenes import Relation, Scene, Thing, pick

INVERSE: dict[Relation, Relation] = {"right of": "left of", "below": "above"}


class Wording(NamedTuple):
    """The templates of one relation: noun phrases, sentences, and little else than names."""

    phrases: tuple[str, ...]
    sentences: tuple[str, ...]
    terse: tuple[str, ...]

    def choose(self, rng: np.random.Generator, terse: bool, share: float) -> tuple[str, bool]:
        """A template, and whether it is a noun phrase or terse; `share` of those that are not terse are phrases."""
        if terse:
            return pick(rng, self.terse), True
        is_phrase = rng.random() < share
        return pick(rng, self.phrases if is_phrase else self.sentences), is_phrase


def as_told(scene: Scene) -> tuple[Relation, tuple[Thing, ...]]:
    """The relation of which there are templates, and the things in its order: b right of a is a left of b."""
    assert scene.relation is not None
    told = INVERSE.get(scene.relation, scene.relation)
    return told, scene.things if told == scene.relation else scene.things[::-1]
