"""The adapter for semantic maps in the package: small, opened by its name, read by diffusers, and obeyed."""

import pytest
import torch

import maquette
from maquette.engine.control import names, open_control
from maquette.engine.model import Model
from maquette.engine.open import ASSETS
from maquette.training.adapter import map_examples, maps_of, paint_maps, to_unit
from maquette.training.evaluate import Setting, paint
from maquette.training.judge import load_judge
from maquette.training.palette import Palette, palette
from maquette.training.regions import agreement

FOLDER = ASSETS / "semantic-map"
LIMIT = 10_000_000  # bytes of the whole folder
COUNT = 12  # maps


@pytest.fixture(scope="module")
def mini() -> Model:
    return maquette.open("mini", device="cpu", dtype="float32")


def test_it_is_small_and_has_its_palette_beside_it() -> None:
    assert "semantic-map" in names()
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= LIMIT
    assert Palette.read(FOLDER / "palette.json") == palette()


def test_diffusers_computes_the_same_features(mini: Model) -> None:
    from diffusers import T2IAdapter

    theirs = T2IAdapter.from_pretrained(FOLDER).float()
    picture = to_unit(torch.randint(256, (1, 128, 128, 3), generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        pairs = zip(open_control("semantic-map", mini).network(picture), theirs(picture.contiguous()), strict=True)
        for ours, expected in pairs:
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("known_emoji")
def test_pictures_obey_their_maps(mini: Model) -> None:
    """The judge sees things where maps have them, more than where words alone put them."""
    wanted = map_examples(COUNT, 11)
    words, scenes, seeds = [each.caption for each in wanted], [each.scene for each in wanted], range(COUNT)
    setting = Setting.of(mini.family.defaults).model_copy(update={"steps": 8})
    told = paint(mini, words, seeds, setting, lambda count: None)
    mapped = paint_maps(open_control("semantic-map", mini), maps_of(wanted), words, seeds, setting)
    before, after = (agreement(load_judge(), pictures, scenes) for pictures in (told, mapped))
    assert after.outline.share > before.outline.share + 0.15
    assert after.cells.share > max(before.cells.share, 0.8)
