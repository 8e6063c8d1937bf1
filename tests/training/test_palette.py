"""The colours of semantic maps: each stands for one thing, is told by any of its names, and can be painted with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maquette.errors import MaquetteError
from maquette.training import emoji as emojis
from maquette.training import palette as module
from maquette.training.palette import CLEAR, STEP, Palette, made, mean_colour, palette
from maquette.training.words import BACKGROUNDS


def test_every_colour_stands_for_one_thing_and_stands_out_from_the_backgrounds() -> None:
    things, backgrounds = (np.array(list(table), np.int64) for table in (palette().things, palette().backgrounds))
    assert len({tuple(colour) for colour in (things // STEP).tolist()}) == len(things) > 1000
    assert {tuple(colour) for colour in (things % STEP).tolist()} == {(STEP // 2,) * 3}
    assert ((things[:, None] - backgrounds) ** 2).sum(-1).min() >= CLEAR**2
    assert {names[0]: colour for colour, names in palette().backgrounds.items()} == {
        name: colour for name, (colour, _) in BACKGROUNDS.items()
    }


@pytest.mark.usefixtures("known_emoji")
def test_the_shipped_palette_names_the_whole_catalogue() -> None:
    known = {names[0]: names[1:] for names in palette().things.values()}
    told = {each.character: tuple(dict.fromkeys((*each.names_en, *each.names_zh))) for each in emojis.catalogue()}
    assert known == told
    assert tuple(palette().by_index[7].tolist()) == palette().thing(emojis.catalogue()[7].character)


@pytest.mark.usefixtures("known_emoji")
def test_a_palette_made_anew_gives_each_emoji_the_nearest_free_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [each for each in emojis.catalogue() if each.character in "👀🍎🍅🌹🍀"]
    monkeypatch.setattr(module, "catalogue", lambda: tuple(chosen))
    again, taken = made(), set()
    behind = np.array(list(again.backgrounds))
    points = np.stack(np.meshgrid(*[np.arange(8, 256, 16)] * 3), -1).reshape(-1, 3)
    points = points[np.linalg.norm(points[:, None] - behind, axis=-1).min(1) >= CLEAR]
    for each in sorted(chosen, key=lambda each: -each.weight):
        off = np.linalg.norm(points - mean_colour(each), axis=1)
        free = [distance for distance, point in zip(off, points.tolist(), strict=True) if tuple(point) not in taken]
        colour = again.thing(each.character)
        assert np.linalg.norm(np.array(colour) - mean_colour(each)) == pytest.approx(min(free))
        taken.add(colour)
    assert len(taken) == len(again.things) == len(chosen)


def test_a_palette_is_read_as_it_was_written(tmp_path: Path) -> None:
    palette().write(tmp_path / "palette.json")
    assert Palette.read(tmp_path / "palette.json") == palette()
    assert (tmp_path / "palette.json").read_bytes() == module.SHIPPED.read_bytes()


@pytest.mark.parametrize("text", ["{}", '{"things": {"red": 3}, "backgrounds": {}}', '{"things": {"#12": ["a"]}}', "["])
def test_a_damaged_palette_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "palette.json").write_text(text)
    with pytest.raises(MaquetteError, match=r"palette\.json: (is no palette|is not readable)"):
        Palette.read(tmp_path / "palette.json")


@pytest.mark.usefixtures("known_emoji")
def test_an_emoji_without_a_colour_is_told() -> None:
    things = {colour: names for colour, names in palette().things.items() if names[0] != "🍎"}
    with pytest.raises(MaquetteError, match="no colour for 1 emoji of this machine's font, such as 🍎"):
        _ = replace(palette(), things=things).by_index


def test_regions_are_painted_in_the_colours_of_what_they_are() -> None:
    regions = [((8, 40, 56, 88), "apple"), ([(72, 40), (120, 40), (72, 88)], "猫")]
    picture = np.asarray(palette().paint(regions, "light blue", (160, 128)))
    assert picture.shape == (128, 160, 3)
    apple, cat = ((picture == palette().thing(name)).all(-1) for name in ("🍎", "cat"))
    box = np.zeros_like(apple)
    box[40:88, 8:56] = True
    assert (apple == box).all()
    assert cat[41, 74] and not cat[86, 118] and cat.sum() == pytest.approx(48 * 48 / 2, rel=0.1)
    behind = (picture == palette().background("浅蓝色")).all(-1)
    assert (behind ^ apple ^ cat).all()


@pytest.mark.parametrize(
    ("regions", "background", "complaint"),
    [
        ([((0, 0, 9, 9), "aple")], "white", "there is no thing 'aple'; did you mean .*apple"),
        ([((0, 0, 9, 9), "apple")], "bleu", "there is no background 'bleu'; did you mean blue"),
        ([((0, 0, 9, 9), "@@@@")], "white", r"there is no thing '@@@@'; the names are in .*palette\.json"),
        ([((9, 0, 0, 9), "apple")], "white", r"\(9, 0, 0, 9\) of 'apple' is no region"),
        ([((0, 0, 9), "apple")], "white", "is no region"),
        ([([(0, 0), (1, 1)], "apple")], "white", "is no region"),
        ([("box", "apple")], "white", "is no region"),
    ],
)
def test_what_is_no_region_is_told(regions: list, background: str, complaint: str) -> None:
    with pytest.raises(MaquetteError, match=complaint):
        palette().paint(regions, background)
