"""What would fail late is refused before anything is painted, and what does nothing is said."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maquette.cli import main as command
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.workflows.loop import run
from maquette.workflows.paint import paint
from maquette.workflows.request import Request

SIZE = {"width": 64, "height": 64}


def scene() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"detail": {"boxes": [(500, 0, 600, 64)]}}, "outside of the picture"),
        ({"detail": {"finder": "face"}}, "there is no finder 'face'"),
        ({"detail": {"finder": "mask:nothere.png"}}, "there is no picture 'nothere.png'"),
        ({"regions": [{"prompt": "x", "box": (500, 0, 600, 64)}]}, "outside of the picture"),
        ({"depth": Image.new("L", (64, 64))}, "reads no depth"),
        ({"attention": True, "guidance": 0.0}, "with guidance 0 the words are not read"),
        ({"attention": True, "image": scene(), "detail": {"boxes": [(0, 0, 32, 32)]}}, "in the first pass"),
    ],
)
def test_what_would_fail_later_fails_before_anything_is_painted(
    model: Model, fields: dict[str, Any], problem: str
) -> None:
    size = {} if "image" in fields else SIZE
    with pytest.raises(MaquetteError, match=problem):
        run(paint(model, Request.read({"prompt": "x", **size, **fields})), lambda step: pytest.fail("it painted"))


@pytest.mark.parametrize(
    ("finder", "problem"),
    [
        ("given:500,500,600,600", "outside of the picture, 96x96"),
        ("mask:FOLDER/wide.png", "their shapes differ"),
        ("mask:FOLDER/black.png", "is empty"),
        ("mask:FOLDER/words.png", "words.png"),
        ("differences:FOLDER/wide.png", "64x32 and 96x96 cannot be compared"),
    ],
)
def test_a_finder_that_cannot_look_at_what_is_painted_is_refused(
    model: Model, finder: str, problem: str, tmp_path: Path
) -> None:
    for name, size, colour in (("wide", (64, 32), 255), ("black", (96, 96), 0)):
        Image.new("L", size, colour).save(tmp_path / f"{name}.png")
    (tmp_path / "words.png").write_text("words")
    fields = {**SIZE, "hires": {"scale": 1.5}, "detail": {"finder": finder.replace("FOLDER", str(tmp_path))}}
    with pytest.raises(MaquetteError, match=problem):
        run(paint(model, Request.read(fields)), lambda step: pytest.fail("it painted"))


def test_a_finder_that_can_is_not(model: Model, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "before.png")
    for finder in (f"differences:{tmp_path / 'before.png'}", "given:8,8,40,40"):
        result = run(paint(model, Request.read({**SIZE, "seed": 7, "detail": {"finder": finder, "size": 64}})))
        assert result.images[0].size == (64, 64)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"tiles": {"size": 72, "overlap": 8}}, "tiles.size 72 is not a multiple of 16, as gaussian needs; try 64"),
        ({"detail": {"boxes": [(0, 0, 20, 20)], "size": 72}}, "detail.size 72 is not a multiple of 16"),
    ],
)
def test_sides_that_do_not_suit_the_model_are_refused(model: Model, fields: dict[str, Any], problem: str) -> None:
    model.multiple = 16
    with pytest.raises(MaquetteError, match=problem):
        run(paint(model, Request.read({**SIZE, **fields})), lambda step: pytest.fail("it painted"))


def test_a_finder_that_finds_nothing_says_so(model: Model, tmp_path: Path) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "none.png")
    speck = Image.new("L", (64, 64))
    speck.putpixel((3, 3), 255)
    speck.save(tmp_path / "speck.png")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fields = {"image": scene(), "detail": {"finder": f"mask:{tmp_path / 'speck.png'}"}}
        assert run(paint(model, Request.read(fields))).images[0].size == (64, 64)
    assert "found nothing to repaint in picture 1" in str(said[-1].message)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["txt2img", "x", "--out", "a" * 300 + ".png"], "the name is too long"),
        (["txt2img", "x", "--out", "x.png", "--attention", "x.png"], "would both write x.png"),
        (["txt2img", "x", "--count", "2", "--out", "x.png", "--attention", "x.png"], "would both write x-1.png"),
        (["txt2img", "x", "--out", "x.png", "--attention", "a/../x.png"], "would both write x.png"),
        (["txt2img", "x", "--control", "a=b.png", "--control-kind", "nan"], "'nan' is no number of a kind"),
        (["txt2img", "x", "--control", "a=b.png", "--control-kind", "1.7"], "'1.7' is no number of a kind"),
        (["detail", "x.png", "0,0,9,9", "--size", "64x64"], "leave out --size"),
    ],
)
def test_commands_that_cannot_be_meant(
    arguments: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.run(arguments) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
