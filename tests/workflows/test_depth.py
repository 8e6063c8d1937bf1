"""A map of depth lies over its picture: where that is cropped, padded, extended, or repainted in part."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import maquette
from maquette.engine.model import Model
from maquette.workflows.canvas import pad_edges
from maquette.workflows.loop import run
from maquette.workflows.paint import paint
from maquette.workflows.request import Request

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from small_models import write_original


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return maquette.open(write_original("sd2-depth", tmp_path_factory.mktemp("depth")), device="cpu")


def noise(seed: int, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).convert(mode).resize(size, Image.Resampling.NEAREST)


def painted(model: Model, **fields: object) -> list[str]:
    return run(paint(model, Request.read({"prompt": "apple", "seed": 3, "steps": 2, **fields}))).latent_hashes


@pytest.mark.parametrize("further", [{}, {"hires": {"scale": 1.5}}, {"detail": {"boxes": ((8, 8, 40, 40),)}}], ids=str)
def test_it_is_cropped_with_its_picture(model: Model, further: dict[str, object]) -> None:
    photo, depth = noise(1, (128, 64)), noise(2, (128, 64), "L")
    box, size = (32, 0, 96, 64), {"width": 64, "height": 64, "strength": 0.5}
    told = painted(model, image=photo, depth=depth, **size, **further)
    assert told == painted(model, image=photo.crop(box), depth=depth.crop(box), **size, **further)


def test_it_is_padded_with_its_picture(model: Model) -> None:
    photo, depth, mask = noise(1, (61, 59)), noise(2, (61, 59), "L"), Image.new("L", (61, 59), 255)
    padded = {"image": pad_edges(photo, 0, 0, 3, 5), "depth": pad_edges(depth, 0, 0, 3, 5)}
    other = painted(model, **padded, mask=ImageOps.expand(mask, (0, 0, 3, 5), 0))
    assert painted(model, image=photo, depth=depth, mask=mask) == other


@pytest.mark.parametrize("further", [{}, {"hires": {"scale": 1.5}}, {"detail": {"boxes": ((8, 8, 40, 40),)}}], ids=str)
def test_it_is_extended_with_its_picture(model: Model, further: dict[str, object]) -> None:
    depth, asked = noise(2, (64, 64), "L"), {"image": noise(1, (64, 64)), "extend": {"left": 32}, **further}
    of_picture = painted(model, **asked, depth=depth)
    assert of_picture == painted(model, **asked, depth=pad_edges(depth, 32, 0, 0, 0))
    assert of_picture != painted(model, **asked, depth=depth.resize((96, 64)))
