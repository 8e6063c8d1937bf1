"""Every workflow on every family, at reduced shapes: it runs, keeps what it must keep, and repeats itself."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maquette
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.workflows import detail, hires, img2img, inpaint, loop, paint, txt2img
from maquette.workflows.request import Request

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from small_models import SMALL, write_original

SIDE = 64
FAMILIES = sorted(SMALL)


def noise(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels).resize((8, 8)).resize(size)


def mask(box: tuple[int, int, int, int] = (16, 8, 40, 48)) -> Image.Image:
    made = Image.new("L", (SIDE, SIDE))
    made.paste(255, box)
    return made


WORKFLOWS: dict[str, dict[str, object]] = {
    "txt2img": {},
    "changing words": {"prompt": "a [red:blue:0.5] apple AND the [old|small] cat :0.5"},
    "img2img": {"image": noise(1), "strength": 0.5},
    "inpaint": {"image": noise(1), "mask": mask()},
    "outpaint": {"image": noise(1), "extend": {"left": 8, "bottom": 13}},
    "hires": {"hires": {"scale": 1.5, "strength": 0.5, "by": "latent"}},
    "detail": {"image": noise(1), "detail": {"boxes": ((8, 8, 40, 32),), "size": SIDE}},
    "regions": {"regions": ({"prompt": "the blue cat", "box": (0, 0, 32, 64)},)},
    "variation": {"variation": {"seed": 9, "prompt": "rain", "amount": 0.5}},
    "tiles": {"width": 96, "tiles": {"size": SIDE, "overlap": 16}},
    "cached": {"steps": 4, "speed": {"cache": 100.0}},
    "pushed further": {"steps": 4, "pag": {"scale": 2.0}, "apg": {}},
    "rescaled, part of the time": {"rescale": 0.7, "interval": (0.0, 0.5), "clip_skip": 2},
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = write_original(request.param, tmp_path_factory.mktemp("small"))
    yield maquette.open(path, family=request.param, dtype="float32")


def told(model: Model) -> str:
    """Words, the number of a class, or nothing: what the model paints from."""
    for prompt in ("a red apple", "7"):
        with contextlib.suppress(MaquetteError):
            model.condition([prompt])
            return prompt
    return ""


@pytest.mark.parametrize("name", WORKFLOWS)
def test_it_paints_and_repeats_itself(model: Model, name: str) -> None:
    words = told(model)
    fields = {"prompt": words, "seed": 3, "steps": 2, "width": SIDE, "height": SIDE, **WORKFLOWS[name]}
    if words != "a red apple" and name in ("changing words", "regions", "variation"):
        fields |= {"prompt": "[3:7:0.5] AND 2" if words else "", "regions": (), "variation": None}
    if hasattr(model.network.spec, "size") and name in ("hires", "tiles", "outpaint"):
        pytest.skip("its positions are those of one size")
    if name == "outpaint":
        del fields["width"], fields["height"]
    if model.family.instructed:
        fields.pop("apg", None)  # guidance by a picture, too, is of one kind
    if "image" not in fields and (model.family.follows_picture or "depth" in model.family.beside):
        fields |= {"image": noise(1), "strength": 1.0}
    if "depth" in model.family.beside:
        fields["depth"] = noise(2)
    first = loop.run(paint.paint(model, Request.read(fields)))
    if name == "img2img":
        second = loop.run(paint.paint(model, Request.read(fields)))
        assert first.latent_hashes == second.latent_hashes
        assert np.array_equal(first.images[0], second.images[0])
    assert np.asarray(first.images[0]).std() > 0
    if name in ("inpaint", "detail"):
        kept = np.asarray(mask() if name == "inpaint" else mask((8 - 5, 8 - 5, 40 + 5, 32 + 5))) == 0
        assert np.array_equal(np.asarray(first.images[0])[kept], np.asarray(noise(1))[kept])
        assert not np.array_equal(first.images[0], noise(1))
    if name == "outpaint":
        assert first.images[0].size == (SIDE + 8, SIDE + 13)
        inner = np.asarray(first.images[0])[: SIDE - 8, 16 : 8 + SIDE]
        assert np.array_equal(inner, np.asarray(noise(1))[: SIDE - 8, 8:])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch's group norm of one channel a group, as small models have it, is inexact where threads share it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["txt2img", "img2img", "inpaint"])
def test_pictures_that_are_painted_together_are_those_painted_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inpainting = maquette.open(write_original("sd1-inpaint", tmp_path), dtype="float32")
    fields = {"prompt": "a red apple", "seed": 3, "count": 2, "steps": 2, "width": SIDE, "height": SIDE}
    request = Request.read({**fields, **WORKFLOWS[name]})
    alone = loop.run(paint.paint(inpainting, request)).images
    monkeypatch.setattr(loop, "ON_CPU", 2)
    for picture, wanted in zip(loop.run(paint.paint(inpainting, request)).images, alone, strict=True):
        assert np.abs(np.asarray(picture, int) - np.asarray(wanted, int)).max() <= 1


@pytest.mark.parametrize("module", [detail, hires, img2img, inpaint, paint, txt2img])
def test_a_workflow_is_short_and_names_no_family(module) -> None:
    text = Path(module.__file__).read_text("utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("from ", "import "))]
    assert len(lines) < 60
    assert not re.findall(
        rf"\b({'|'.join(map(re.escape, (*FAMILIES, 'flux', 'sdxl', 'mini')))})\b", text, re.IGNORECASE
    )
