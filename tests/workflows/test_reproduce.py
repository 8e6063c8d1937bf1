import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maquette
from maquette import __version__
from maquette.errors import MaquetteError
from maquette.workflows.finders import runs_code
from maquette.workflows.foreign import Settings
from maquette.workflows.loop import Result, run
from maquette.workflows.paint import paint
from maquette.workflows.picture import read_settings
from maquette.workflows.reproduce import Comparison, compare, remarks, request_of
from maquette.workflows.request import Request


def again(model, path: Path) -> Comparison:
    """Paint the picture in a file again, and compare."""
    settings = read_settings(path)
    with Image.open(path) as original:
        return compare(run(paint(model, request_of(settings))), settings, original)


def painted(model, **fields) -> Result:
    return run(paint(model, Request.read({"prompt": "a red apple", "seed": 7, **fields})))


@pytest.mark.parametrize("fields", [{}, {"sampler": "euler_a", "guidance": 3.5}, {"hires": {"scale": 1.5}}])
def test_a_picture_is_painted_again_from_itself(fields: dict, model, tmp_path: Path) -> None:
    [path] = painted(model, **fields).save(tmp_path / "x.png")
    found = again(model, path)
    assert found.identical
    assert str(found) == "identical: the latent is equal, all pixels are equal"
    assert list(remarks(read_settings(path), model)) == []


def test_each_picture_of_a_batch_is_painted_again_alone(model, tmp_path: Path) -> None:
    for path in painted(model, count=3, sampler="euler_a").save(tmp_path / "x.png"):
        assert again(model, path).identical


def test_mini_paints_the_same_picture_again(tmp_path: Path) -> None:
    model = maquette.open("mini", device="cpu", dtype="float32")
    [path] = painted(model, steps=2, width=32, height=32, sampler="euler_a").save(tmp_path / "x.png")
    assert again(model, path).identical


def test_a_picture_that_was_changed_is_different(model, tmp_path: Path) -> None:
    result = painted(model)
    path = tmp_path / "x.png"
    result.images[0].putpixel((3, 4), (255, 0, 255))
    result.save(path)
    found = again(model, path)
    assert (found.latent, found.identical) == (True, False)
    assert found.largest is not None
    assert found.largest > 2
    assert str(found).startswith("different: the latent is equal, pixels differ by at most")


def test_another_seed_is_another_latent(model) -> None:
    other, settings = painted(model, seed=8), Settings(program="Maquette")
    settings.hashes["latent"] = painted(model).latent_hashes[0]
    assert compare(other, settings, other.images[0]).latent is False
    assert not compare(other, settings, other.images[0]).identical
    assert str(compare(other, Settings(program="A1111"), other.images[0])) == (
        "identical: no hash of the latent is told, all pixels are equal"
    )


def test_sizes_that_differ(model) -> None:
    found = compare(painted(model), Settings(program="A1111"), Image.new("RGB", (8, 8)))
    assert not found.identical
    assert str(found).endswith("the sizes differ")


def test_the_numbers_are_the_definitions(model) -> None:
    result = painted(model)
    levels = np.asarray(result.images[0]).astype(int)
    other = np.clip(levels + np.array([0, 2, -1]), 0, 255)
    found = compare(result, Settings(program="A1111"), Image.fromarray(other.astype(np.uint8)))
    error = ((levels - other) ** 2).mean()
    assert found.largest == np.abs(levels - other).max()
    assert found.psnr == pytest.approx(20 * math.log10(255) - 10 * math.log10(error))
    assert "another machine or size of batch" in str(found)


def said(model, **told) -> list[str]:
    return list(remarks(Settings(program="A1111", **told), model))


def test_why_it_may_be_another_picture_is_said(model) -> None:
    here = f"{__version__} with torch {torch.__version__}"
    assert said(model, hashes={"model": model.hash[:10]}) == []
    assert said(model, hashes={"model": "45dee52b"}) == []  # A1111's old hash is of another kind
    assert said(model, hashes={"model": "blake3:0123456789"}) == []
    assert said(model, hashes={"model": "abcdefabcd"}) == [
        "the model is another: abcdefabcd painted it, gaussian is 0123456789"
    ]
    assert list(remarks(Settings(program="Maquette", version=here), model)) == []
    other = Settings(program="Maquette", version=here, opened_with={"dtype": "bfloat16"})
    assert list(remarks(other, model)) == ["it was painted in bfloat16, this is in float32; see --dtype"]
    assert list(remarks(Settings(program="Maquette", version="0.0.1 with torch 1.0"), model)) == [
        f"it was painted by Maquette 0.0.1 with torch 1.0; this is {here}"
    ]


def test_the_noise_is_taken_over(model) -> None:
    settings = Settings(program="A1111", noise="a1111-nv", noise_delta=31337, fields={"sampler": "euler_a", "seed": 1})
    request = request_of(settings)
    assert (request.noise, request.noise_delta) == ("a1111-nv", 31337)
    hashes = {
        run(paint(model, request.model_copy(update=changes))).latent_hashes[0]
        for changes in ({}, {"noise": "cpu"}, {"noise_delta": 0})
    }
    assert len(hashes) == 3


def test_many_settings_that_are_not_taken_over_are_counted(model) -> None:
    settings = Settings(program="A1111")
    for k in range(50):
        settings.leave(f"name {k}\x1b[2J", "x" * 1000, "why")
    found = list(remarks(settings, model))
    assert found[-1] == "not taken over: 30 more settings"
    assert len(found) == 21
    assert all(line.isprintable() and len(line) < 200 for line in found)


def test_the_request_is_for_one_picture_by_the_model_that_is_named() -> None:
    settings = Settings(program="A1111", fields={"prompt": "a", "model": "v1-5", "count": 4})
    assert (request_of(settings).model, request_of(settings).count) == ("v1-5", 1)
    assert request_of(settings, {"model": "mini"}).model == "mini"
    settings.fields["steps"] = 0
    with pytest.raises(MaquetteError, match="steps must be at least 1"):
        request_of(settings)


def test_a_finder_that_runs_code_is_only_asked_when_trusted() -> None:
    detail = {"finder": "ultralytics:trusted:evil.pt"}
    settings = Settings(program="Maquette", fields={"prompt": "a", "detail": detail})
    with pytest.raises(MaquetteError, match="'ultralytics:trusted:evil.pt', which can run code; .* --trust-finder"):
        request_of(settings)
    request = request_of(settings, trusted=True)
    assert request.detail is not None and request.detail.finder == detail["finder"]
    for finder, harmless in (("given:0,0,9,9", True), ("ultralytics:faces.onnx", True), ("faces:any", False)):
        assert runs_code(finder) != harmless


def test_a_refiner_of_another_program_that_is_not_here_is_left_or_given() -> None:
    told = {"prompt": "a", "refiner": {"model": "sd_xl_refiner_1.0", "at": 0.75}}
    settings = Settings(program="A1111", fields=dict(told))
    assert request_of(settings).refiner is None
    assert [str(each) for each in settings.untranslated] == [
        "refiner 'sd_xl_refiner_1.0': it is not found; give it: --refiner MODEL:AT"
    ]
    given = request_of(Settings(program="A1111", fields=dict(told)), {"refiner": {"model": "mini", "at": 0.75}})
    assert given.refiner is not None and given.refiner.model == "mini"
    ours = request_of(Settings(program="Maquette", fields=dict(told)))  # whose names are paths: opening it tells
    assert ours.refiner is not None and ours.refiner.model == "sd_xl_refiner_1.0"
