"""Approximate speed as requests, pictures and the command line tell it."""

import math
import sys
from pathlib import Path

import pytest

import maquette
from maquette.cli import main as command
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.workflows.deviation import deviation
from maquette.workflows.infotext import read_infotext, write_infotext
from maquette.workflows.picture import read_request
from maquette.workflows.request import Request

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from small_models import write_original

FIELDS = {"prompt": "a red apple", "seed": 3, "steps": 5, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return maquette.open(write_original("sd1", tmp_path_factory.mktemp("small")), device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"speed": {"cache": 0.0}}, "speed changes nothing; give cache or merge"),
        ({"speed": {"cache": -1.0}}, "speed.cache must be at least 0"),
        ({"speed": {"merge": 0.9}}, "speed.merge must be at most 0.75"),
        ({"speed": {}, "attention": True}, "no maps of attention"),
        ({"speed": {}, "tiles": {}}, "there are no tiles"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(MaquetteError, match=message):
        Request.read(fields)


def test_merging_goes_with_tiles_and_attention() -> None:
    Request.read({"speed": {"cache": 0.0, "merge": 0.5}, "tiles": {}})
    Request.read({"speed": {"cache": 0.0, "merge": 0.5}, "attention": True})


@pytest.mark.parametrize(
    "speed", [{"cache": 0.1}, {"cache": 0.3, "outer": 2, "merge": 0.25}, {"cache": 0.0, "merge": 0.5}]
)
def test_settings_tell_it(speed: dict, small: Model, tmp_path: Path) -> None:
    result = small.paint(**FIELDS, speed=speed)
    assert result.approximate
    assert not small.paint(**FIELDS).approximate
    (path,) = result.save(tmp_path / "x.png")
    assert read_request(path).speed == result.request.speed
    told = read_infotext(write_infotext(result.request, ""))
    assert Request.read({"speed": told.fields["speed"]}).speed == result.request.speed
    assert not told.untranslated


def test_a1111_s_merging_is_taken_over() -> None:
    told = read_infotext(
        "a cat\nSteps: 20, Sampler: Euler, Seed: 1, Size: 64x64, Token merging ratio: 0.9, Version: v1.9.0"
    )
    assert told.fields["speed"] == {"cache": 0.0, "outer": 1, "merge": 0.75}


def test_the_deviation_is_that_from_the_exact_picture(small: Model) -> None:
    same, other = (deviation(small, small.paint(**FIELDS, count=2, speed={"cache": cache})) for cache in (1e-9, 100.0))
    assert [each.psnr for each in same] == [math.inf] * 2
    assert all(20.0 < each.psnr < 100.0 for each in other)
    guided = {**FIELDS, "steps": 2, "guidance": 5.0}
    (half,) = deviation(small, small.paint(**guided, interval=(0.0, 0.5)))
    assert half.psnr < 100.0


def test_the_command_says_how_far_it_is(small: Model, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: small)
    options = ["txt2img", "a red apple", "--seed", "3", "--steps", "5", "--size", "64x64", "--out", "x.png"]
    assert command.run([*options, "--cache", "100", "--merge", "0.5", "--deviation"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "x.png\n"
    assert shown.err.startswith("approximate: ") and shown.err.endswith(" dB PSNR to exact\n")
    speed = read_request(Path("x.png")).speed
    assert speed is not None and (speed.cache, speed.merge) == (100.0, 0.5)
    assert command.run([*options, "--cache", "100"]) == 0
    assert "--deviation says how far" in capsys.readouterr().err
    assert command.run([*options, "--deviation"]) == 2
    assert "give --cache or --merge" in capsys.readouterr().err
