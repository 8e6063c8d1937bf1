"""Region agreement: what a judge sees in each cell against the map, counted by hand."""

import numpy as np
import pytest
import torch
from oracle import SURE, opinion
from torch import Tensor

from maquette.models.judge import Opinion
from maquette.training import emoji, regions
from maquette.training.evaluate import Tally
from maquette.training.regions import agreement
from maquette.training.scenes import Background, Scene, Thing, sample_scene

EMPTY = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)


pytestmark = pytest.mark.usefixtures("drawable")


def index(character: str) -> int:
    return next(each.index for each in emoji.catalogue() if each.character == character)


def scene(recolour: str | None = None, style: str | None = None) -> Scene:
    return Scene((Thing(index("🟥"), 64, 32, 32, None, recolour),), Background("blue"), None, style)


def seeing(change: list[tuple[slice, slice, str | None]], shown: Scene) -> Opinion:
    """The truth about a scene, but for what some cells are taken for; None is the background."""
    truth = opinion([shown])
    for rows, columns, character in change:
        truth.emoji[0, rows, columns] = 0.0
        truth.emoji[0, rows, columns, 0 if character is None else index(character) + 1] = SURE
    return truth


def test_the_truth_agrees_in_every_cell_and_an_empty_picture_with_the_background_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(10)]
    truth, asked, pictures = opinion(scenes), [0], EMPTY.expand(10, -1, -1, -1)

    def judge(x: Tensor) -> Opinion:
        asked.append(asked[-1] + len(x))
        return truth._replace(emoji=truth.emoji[asked[-2] : asked[-1]])

    monkeypatch.setattr(regions, "BATCH", 4)
    found = agreement(judge, pictures, scenes)
    assert asked == [0, 4, 8, 10] and found.cells == Tally(right=2560, of=2560)
    assert found.things.share == found.background.share == found.outline.share == 1.0
    nothing = torch.zeros_like(truth.emoji)
    nothing[..., 0] = SURE
    empty = agreement(lambda x: truth._replace(emoji=nothing[: len(x)]), pictures, scenes)
    assert empty.things == Tally(right=0, of=found.things.of) == empty.outline
    assert empty.background == found.background
    assert empty.cells == Tally(right=found.background.of, of=2560)


def test_cells_that_disagree_are_counted() -> None:
    whole = agreement(lambda _: opinion([scene()]), EMPTY, [scene()]).things.of
    change = [
        (slice(5, 7), slice(5, 8), "🐈"),  # six cells of the thing, for another
        (slice(9, 10), slice(5, 8), None),  # three of them for nothing
        (slice(0, 1), slice(0, 4), "🟥"),  # four of the background for the thing
    ]
    found = agreement(lambda _: seeing(change, scene()), EMPTY, [scene()])
    assert found.things == Tally(right=whole - 9, of=whole)
    assert found.background == Tally(right=256 - whole - 4, of=256 - whole)
    assert found.cells == Tally(right=256 - 13, of=256)
    assert found.outline == Tally(right=whole - 3, of=whole + 4)


@pytest.mark.parametrize(
    ("shown", "right"), [(scene(), False), (scene(recolour="green"), True), (scene(style="silhouette"), True)]
)
def test_words_that_leave_the_colour_out_mean_any_square(shown: Scene, right: bool) -> None:
    found = agreement(lambda _: seeing([(slice(5, 6), slice(5, 6), "🟦")], shown), EMPTY, [shown])
    assert found.things.of - found.things.right == (0 if right else 1)
    assert found.outline.share == 1.0
