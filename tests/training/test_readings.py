"""Reading pictures: what is found in a judge's opinion, and every way in which it can be right or wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle import SURE, opinion

from maquette.models.judge import Opinion
from maquette.training import emoji
from maquette.training.readings import Found, Reading, Score, read, score
from maquette.training.scenes import Background, Scene, Thing, sample_scene
from maquette.training.words import RECOLOURS

pytestmark = pytest.mark.usefixtures("drawable")


def index(character: str) -> int:
    return next(e.index for e in emoji.catalogue() if e.character == character)


BLUE = Background("blue")
PLACES = {
    "middle": (64.0, 64.0),
    "left": (32.0, 60.0),
    "right": (96.0, 68.0),
    "top": (60.0, 30.0),
    "bottom": (66.0, 98.0),
}


def found(character: str, place: str = "middle", recolour: str | None = None, mass: float = 40.0) -> Found:
    return Found(index(character), mass, *PLACES[place], recolour)


def single(character: str, recolour: str | None = None, style: str | None = None) -> Scene:
    return Scene((Thing(index(character), 80, 24, 24, None, recolour),), BLUE, None, style)


def pair(first: str, relation: str, second: str, recolour: str | None = None) -> Scene:
    things = (Thing(index(first), 48, 0, 40, None, recolour), Thing(index(second), 48, 80, 40))
    return Scene(things, BLUE, relation)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "right"),
    [
        ((found("🍎"),), True),
        ((found("🍎"), found("🐈", mass=3)), True),
        ((found("🐈"), found("🍎", mass=3)), False),
        ((found("🍏"),), False),  # alike, but the words say red or nothing
        ((), False),
    ],
)
def test_a_single_object_is_right_if_it_is_the_strongest(seen: tuple[Found, ...], right: bool) -> None:
    assert score(Reading(seen, BLUE), single("🍎")) == Score(right, True, None, None)


def test_a_background_is_right_in_all_its_colours_and_its_direction() -> None:
    wanted = replace(single("🍎"), background=Background("blue", "red"))
    truth = {
        Background("blue", "red"): True,
        Background("blue", "red", True): False,
        Background("red", "blue"): False,
        Background("blue"): False,
    }
    for seen, right in truth.items():
        assert score(Reading((found("🍎"),), seen), wanted).background is right
    assert score(Reading((found("🍎"),), Background("navy")), single("🍎")).background is False


@pytest.mark.parametrize(
    ("relation", "places", "right"),
    [
        ("left of", ("left", "right"), True),
        ("left of", ("right", "left"), False),
        ("left of", ("top", "bottom"), False),  # a little to the left, but more above
        ("right of", ("right", "left"), True),
        ("above", ("top", "bottom"), True),
        ("above", ("bottom", "top"), False),
        ("below", ("bottom", "top"), True),
        ("and", ("right", "left"), None),
    ],
)
def test_relations_by_the_centres(relation: str, places: tuple[str, str], right: bool | None) -> None:
    seen = (found("🐈", places[1]), found("🍎", places[0], mass=20))
    assert score(Reading(seen, BLUE), pair("🍎", relation, "🐈")) == Score(True, True, right, None)


def test_a_relation_to_what_is_missing_is_wrong() -> None:
    assert score(Reading((found("🍎", "left"),), BLUE), pair("🍎", "left of", "🐈")) == Score(False, True, False, None)


def test_rows_and_columns_are_right_in_their_order() -> None:
    things = tuple(Thing(index(character), 40, 40 * k, 40) for k, character in enumerate("🍎🐈🚗"))
    seen = (found("🐈"), found("🍎", "left"), found("🚗", "right"))
    assert score(Reading(seen, BLUE), Scene(things, BLUE, "row")).relation is True
    assert score(Reading(seen, BLUE), Scene(things[::-1], BLUE, "row")).relation is False
    assert score(Reading(seen, BLUE), Scene(things, BLUE, "column")).relation is False


def test_copies_are_one_kind_of_object() -> None:
    things = tuple(Thing(index("🍎"), 40, 40 * k, 40) for k in range(3))
    assert score(Reading((found("🍎"),), BLUE), Scene(things, BLUE, "copies")) == Score(True, True, None, None)


@pytest.mark.parametrize(("colour", "right"), [("purple", True), ("pink", False), (None, False)])
def test_recolouring(colour: str | None, right: bool) -> None:
    assert score(Reading((found("🐈", "middle", colour),), BLUE), single("🐈", "purple")).recolour is right
    seen = (found("🐈", "left", colour), found("🚗", "right"))
    assert score(Reading(seen, BLUE), pair("🐈", "and", "🚗", "purple")).recolour is right


def test_recolouring_of_what_is_missing_is_wrong() -> None:
    assert score(Reading((found("🚗", "middle", "purple"),), BLUE), single("🐈", "purple")).recolour is False


def test_words_that_leave_the_colour_out_mean_either_apple() -> None:
    for wanted in (single("🍎", "purple"), single("🍎", style="silhouette")):
        assert score(Reading((found("🍏", "middle", wanted.things[0].recolour),), BLUE), wanted).object is True
        assert score(Reading((found("🍐"),), BLUE), wanted).object is False


def test_everything_is_right_if_nothing_is_wrong() -> None:
    assert Score(True, True, None, None).everything
    assert Score(True, True, True, True).everything
    for wrong in range(4):
        assert not Score(*(place != wrong for place in range(4))).everything


def test_the_truth_about_scenes_is_read_as_all_right() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(24)]
    truth = opinion(scenes)
    readings, features = read(lambda _: truth, torch.zeros(24, 3, 128, 128))
    assert [score(reading, scene).everything for reading, scene in zip(readings, scenes, strict=True)] == [True] * 24
    torch.testing.assert_close(features, truth.features.double())


def test_centres_and_masses_of_what_is_found() -> None:
    truth = opinion([single("🍎", "green")])
    cells = torch.zeros_like(truth.emoji)
    cells[..., 0] = SURE
    for character, rows, columns in (("🍎", slice(2, 6), slice(0, 4)), ("🐈", slice(8, 12), slice(10, 12))):
        cells[0, rows, columns, 0], cells[0, rows, columns, index(character) + 1] = 0.0, SURE
    cells[0, 15, 15, 0], cells[0, 15, 15, 7] = 0.0, SURE  # one cell is chance
    colours = torch.zeros_like(truth.recolour)
    colours[0, 2:6, 0:4, 1 + list(RECOLOURS).index("green")] = SURE
    seen = read(lambda _: Opinion(cells, colours, *truth[2:]), torch.zeros(1, 3, 128, 128))[0][0]
    apple, cat = seen.found
    assert (apple.emoji, apple.x, apple.y, apple.recolour) == (
        index("🍎"),
        pytest.approx(16),
        pytest.approx(32),
        "green",
    )
    assert (cat.emoji, cat.x, cat.y, cat.recolour) == (index("🐈"), pytest.approx(88), pytest.approx(80), None)
    assert (apple.mass, cat.mass) == (pytest.approx(16, rel=1e-4), pytest.approx(8, rel=1e-4))
