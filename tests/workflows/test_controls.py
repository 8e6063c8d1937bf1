"""Controls of a request: whose picture they follow, how it is made and fitted, and in which workflows."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import maquette
from maquette.engine import kinds
from maquette.engine.model import Model
from maquette.models.controlnet import ControlNetSpec
from maquette.weights.safetensors_file import write_safetensors
from maquette.workflows.canvas import fit, pad_edges
from maquette.workflows.loop import run
from maquette.workflows.paint import paint
from maquette.workflows.preprocessors import preprocess
from maquette.workflows.region import extend
from maquette.workflows.request import Request

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from small_models import SD1, named, write_original

SIDE = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return maquette.open(write_original("sd1", tmp_path_factory.mktemp("sd1")), device="cpu")


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("control") / "c.safetensors"
    write_safetensors(path, named(kinds.CONTROLNET, ControlNetSpec(unet=SD1), "original", seed=7))
    return str(path)


def scene(size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 255, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def hashes(model: Model, **fields: object) -> list[str]:
    usual = {"prompt": "a red apple", "seed": 3, "steps": 2, "width": SIDE, "height": SIDE}
    told = {**usual, **fields}
    return run(
        paint(model, Request.read({name: each for name, each in told.items() if each is not None}))
    ).latent_hashes


def test_the_picture_is_fitted_and_made_before_it_is_followed(model: Model, control: str) -> None:
    wide = scene((96, SIDE))
    for how in ("crop", "pad", "stretch"):
        told = {"model": control, "image": wide, "resize": how, "preprocessor": "canny:50:100"}
        made = preprocess("canny:50:100", fit(wide, SIDE, SIDE, how))
        assert hashes(model, controls=[told]) == hashes(model, controls=[{"model": control, "image": made}])
    plain = hashes(model, controls=[{"model": control, "image": wide}])
    others = [
        hashes(model),
        *(hashes(model, controls=[{"model": control, "image": wide, "mode": m}]) for m in ("prompt", "control")),
    ]
    assert len({*map(tuple, others), tuple(plain)}) == 4


def test_a_control_without_a_picture_follows_the_one_begun_with(model: Model, control: str) -> None:
    image = scene()
    own = hashes(model, image=image, strength=0.5, controls=[{"model": control}])
    assert own == hashes(model, image=image, strength=0.5, controls=[{"model": control, "image": image}])
    assert own != hashes(model, image=image, strength=0.5)


def test_beyond_the_edges_it_follows_the_extended_one(model: Model, control: str) -> None:
    told = {"image": scene(), "extend": {"right": 32}, "width": None, "height": None}
    whole, _ = extend(scene(), 0, 0, 32, 0)
    own = hashes(model, **told, controls=[{"model": control}])
    assert own == hashes(model, **told, controls=[{"model": control, "image": whole}])


def test_it_lies_over_a_picture_that_is_padded(model: Model, control: str) -> None:
    photo, mask = scene((SIDE - 3, SIDE - 5)), Image.new("L", (SIDE - 3, SIDE - 5), 255)
    told = {"image": photo, "mask": mask, "width": None, "height": None}
    own = hashes(model, **told, controls=[{"model": control}])
    assert own == hashes(model, **told, controls=[{"model": control, "image": pad_edges(photo, 0, 0, 3, 5)}])
    assert own != hashes(model, **told, controls=[{"model": control, "resize": "stretch"}])


def test_tiles_and_a_second_pass_follow_it_too(model: Model, control: str) -> None:
    for told in ({"width": 96, "tiles": {"size": SIDE, "overlap": 16}}, {"hires": {"scale": 1.5, "strength": 0.5}}):
        followed = hashes(model, **told, controls=[{"model": control, "image": scene((96, 96))}])
        assert followed != hashes(model, **told)
        assert followed != hashes(model, **told, controls=[{"model": control, "image": scene((96, 96)), "end": 0.01}])
