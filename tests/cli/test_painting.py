"""Options with a form of their own, as the fields of a request that they mean."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

import maquette
from maquette.cli import main as command
from maquette.cli.painting import Painting
from maquette.errors import MaquetteError
from maquette.workflows.picture import read_request
from maquette.workflows.request import Request


def told(**options: Any) -> dict[str, Any]:
    usual = Painting().fields()
    return {name: value for name, value in Painting(**options).fields().items() if value != usual.get(name)}


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"hires": "2"}, {"hires": {"scale": 2.0}}),
        ({"hires": "1.5:0.4"}, {"hires": {"scale": 1.5, "strength": 0.4}}),
        ({"hires": "1.5:0.4:latent"}, {"hires": {"scale": 1.5, "strength": 0.4, "by": "latent"}}),
        ({"hires": "2:latent"}, {"hires": {"scale": 2.0, "by": "latent"}}),
        ({"hires": "2", "upscaler": "x4.pth"}, {"hires": {"scale": 2.0, "upscaler": "x4.pth"}}),
        ({"vary": "8:0.4"}, {"variation": {"seed": 8, "amount": 0.4}}),
        ({"vary": "a pear: green:0.4"}, {"variation": {"prompt": "a pear: green", "amount": 0.4}}),
        ({"size": "64 x 32"}, {"width": 64, "height": 32}),
        ({"interval": "0.2-0.8"}, {"interval": (0.2, 0.8)}),
        ({"noise_delta": 31337}, {"noise_delta": 31337}),
        ({"apg": "0:-0.5"}, {"apg": {"parallel": 0.0, "momentum": -0.5}}),
        ({"cfg_zero": True}, {"cfg_zero": True}),
        ({"pag": "3"}, {"pag": {"scale": 3.0}}),
        ({"pag": "2.5:middle,up.3"}, {"pag": {"scale": 2.5, "layers": ("middle", "up.3")}}),
        ({"slg": "2.8"}, {"slg": {"scale": 2.8}}),
        ({"slg": "2:7,8:0-0.2"}, {"slg": {"scale": 2.0, "layers": (7, 8), "start": 0.0, "end": 0.2}}),
        ({"slg": "2::0.1-0.2"}, {"slg": {"scale": 2.0, "start": 0.1, "end": 0.2}}),
        ({"freeu": "1.3,1.4,0.9,0.2"}, {"freeu": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}}),
    ],
)
def test_an_option_is_read(options: dict, fields: dict) -> None:
    assert told(**options) == fields
    image = {} if "variation" not in fields else {"prompt": "a"}
    Request.read({**fields, **image})


def test_a_region_is_a_box_or_a_mask() -> None:
    assert told(region=["0,0,8,8=a cat"])["regions"] == ({"box": "0,0,8,8", "prompt": "a cat"},)
    assert told(region=["10x8+0+0=a cat", "sky.png=blue"])["regions"][1] == {"mask": "sky.png", "prompt": "blue"}


def test_controls_take_their_further_options_in_turn(tmp_path: Path) -> None:
    edges = tmp_path / "a:1.png"
    Image.new("RGB", (8, 8)).save(edges)
    found = told(
        control=[f"one={edges}", f"two={edges}:0.5", "three"],
        control_from=["canny:50:150", "none", "tile"],
        control_mode=["prompt"],
        control_interval=["0-0.5", "none", "0.25-1"],
    )["controls"]
    assert found == (
        {"model": "one", "image": str(edges), "scale": 1.0, "preprocessor": "canny:50:150", "mode": "prompt"}
        | {"start": 0.0, "end": 0.5},
        {"model": "two", "image": str(edges), "scale": 0.5, "mode": "prompt"},
        {"model": "three", "preprocessor": "tile", "mode": "prompt", "start": 0.25, "end": 1.0},
    )
    begun = Request.read({"controls": found, "image": str(edges)})
    assert begun.controls[2].image is None
    with pytest.raises(MaquetteError, match="a control needs an image, unless the request begins with one"):
        Request.read({"controls": found})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control": ["=x.png"]}, r"give MODEL\[=IMAGE\[:SCALE\]\]"),
        ({"control": ["m="]}, r"give MODEL\[=IMAGE\[:SCALE\]\]"),
        ({"control": ["m=x.png:much"]}, "--control: 'much' is no number"),
        ({"control_mode": ["prompt"]}, "--control-mode is given 1 times for 0 controls"),
        (
            {"control": ["m", "n", "o"], "control_from": ["canny", "blur"]},
            "--control-from is given 2 times for 3 controls",
        ),
        ({"control": ["m"], "control_interval": ["1"]}, "--control-interval: '' is no number"),
        ({"hires": "2:0.5:lanczos"}, "--hires: '0.5:lanczos' is no number"),
        ({"upscaler": "x4.pth"}, "--upscaler belongs to a second pass"),
        ({"size": "64"}, "is not WIDTHxHEIGHT"),
        ({"apg": "0:0:15:1"}, "--apg takes PARALLEL:MOMENTUM:THRESHOLD"),
        ({"slg": "2:seven"}, "--slg takes SCALE"),
        ({"slg": "2:7:0-1:3"}, "--slg takes SCALE"),
        ({"freeu": "1.3,1.4"}, "--freeu takes B1,B2,S1,S2"),
    ],
)
def test_a_form_that_is_not_met_is_named(options: dict, message: str) -> None:
    with pytest.raises(MaquetteError, match=message):
        Painting(**options).fields()


def test_the_command_reaches_the_request(tmp_path: Path, monkeypatch, model) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: model)
    Image.new("RGB", (32, 32)).save("x.png")
    Image.new("L", (32, 32), 255).save("m.png")
    words = ["inpaint", "x.png", "m.png", "cat", "--seed", "1", "--out", "y.png"]
    assert command.run([*words, "--mask-blur", "9", "--noise-delta", "3"]) == 0
    request = read_request(Path("y.png"))
    assert (request.mask_blur, request.noise_delta) == (9, 3)


def test_a_grid_over_strengths_begins_with_a_picture(tmp_path: Path, monkeypatch, model, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: model)
    Image.new("RGB", (32, 32), "red").save("x.png")
    words = ["grid", "a cat", "--x", "strength=0.5,1", "--seed", "7", "--out", "grid.png"]
    assert command.run(words) == 2
    assert "strength needs an image" in capsys.readouterr().err
    assert command.run([*words, "--image", "x.png"]) == 0
    assert command.run(["img2img", "x.png", "a cat", "--strength", "0.5", "--seed", "7", "--out", "y.png"]) == 0
    with Image.open("grid.png") as sheet, Image.open("y.png") as alone:
        left, top = 6, sheet.height - 32 - 6
        assert sheet.crop((left, top, left + 32, top + 32)).tobytes() == alone.tobytes()


def test_a_grid_over_pictures_needs_no_other(tmp_path: Path, monkeypatch, model) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: model)
    for name in ("red", "blue"):
        Image.new("RGB", (32, 32), name).save(f"{name}.png")
    words = ["--strength", "0.5", "--seed", "7", "--count", "2"]
    assert command.run(["grid", "a cat", "--x", "image=red.png,blue.png", *words, "--out", "grid.png"]) == 0
    assert command.run(["img2img", "blue.png", "a cat", *words, "--out", "alone.png"]) == 0
    with Image.open("grid.png") as sheet, Image.open("alone-2.png") as alone:
        left, top = 6 + 64 + 6 + 32, sheet.height - 32 - 6
        assert sheet.crop((left, top, left + 32, top + 32)).tobytes() == alone.tobytes()


def test_the_name_of_a_grid_is_free_even_with_several_pictures_a_cell(tmp_path: Path, monkeypatch, model) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: model)
    words = ["grid", "a cat", "--x", "steps=1,2", "--seed", "7", "--count", "2"]
    assert [command.run(words), command.run(words)] == [0, 0]
    assert sorted(file.name for file in Path("outputs").iterdir()) == ["a-cat-7-again-1.png", "a-cat-7.png"]


def test_maps_of_attention_do_not_take_the_pictures_own_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["txt2img", "a red apple", "--seed", "7", "--steps", "1", "--size", "32x32"]
    assert command.run([*words, "--attention", "outputs/../outputs/a-red-apple-7.png"]) == 0
    with Image.open("outputs/a-red-apple-7-again-1.png") as image, Image.open("outputs/a-red-apple-7.png") as maps:
        assert image.size == (32, 32) and maps.size != image.size


@pytest.mark.parametrize("option", [["--attention", "map.png"], ["--cache", "0.2", "--deviation"]])
def test_what_a_grid_cannot_show_is_refused(option: list[str], capsys) -> None:
    assert command.run(["grid", "a cat", "--x", "steps=1,2", *option]) == 2
    assert "is for single pictures, not for a grid" in capsys.readouterr().err


@pytest.mark.parametrize("finder", ["given:8,4,16,12", "mask:mask.png", "differences:before.png"])
def test_things_that_only_a_finder_knows_are_repainted(finder: str, tmp_path: Path, monkeypatch, model) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: model)
    picture, mask = Image.new("RGB", (64, 32)), Image.new("L", (64, 32))
    picture.save("before.png")
    for image in (picture, mask):
        image.paste("white", (8, 4, 16, 12))
    picture.save("x.png")
    mask.save("mask.png")
    assert command.run(["detail", "x.png", finder, "--prompt", "a cat", "--seed", "1", "--out", "y.png"]) == 0
    with Image.open("y.png") as painted:
        assert ImageChops.difference(painted.convert("RGB"), picture).getbbox() is not None


def test_all_names_are_free_before_anything_is_painted(tmp_path: Path, monkeypatch, model, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: model)
    Path("y-2.png").mkdir()
    assert command.run(["txt2img", "a cat", "--count", "3", "--out", "y.png"]) == 2
    assert "cannot write y-2.png: it is a folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["y-2.png"]
    assert model.evaluations == 0
