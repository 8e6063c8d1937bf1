"""Models that follow all of a picture as words say how it is changed: what guides them, and in which passes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maquette
from maquette.cli import main as command
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.workflows import img2img, inpaint
from maquette.workflows.loop import run
from maquette.workflows.paint import paint
from maquette.workflows.picture import read_request
from maquette.workflows.request import Request

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from small_models import write_original


@pytest.fixture(scope="module")
def edit(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return maquette.open(
        write_original("sd1-edit", tmp_path_factory.mktemp("edit")), family="sd1-edit", dtype="float32"
    )


def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64))


ASKED = {"prompt": "a red apple", "seed": 3, "steps": 4, "image": photo(), "strength": 1.0}


def hashed(model: Model, **fields: object) -> str:
    return run(paint(model, Request.read({**ASKED, **fields}))).latent_hashes[0]


def test_what_is_done_to_guidance_is_done(edit: Model) -> None:
    plain = hashed(edit)
    assert hashed(edit) == plain
    others = [hashed(edit, rescale=0.7), hashed(edit, interval=(0.0, 0.5)), hashed(edit, image_guidance=3.0)]
    others.append(hashed(edit, pag={"scale": 2.0}))
    assert len({plain, *others}) == 5
    for kind in ({"apg": {}}, {"cfg_zero": True}):
        with pytest.raises(MaquetteError, match="is guided by words and by a picture at once"):
            hashed(edit, **kind)


def test_later_passes_follow_the_same_picture(edit: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[torch.Tensor] = []
    for module in (img2img, inpaint):
        read = module.read_beside
        monkeypatch.setattr(
            module,
            "read_beside",
            lambda model, shown, *how, read=read, **k: (followed.append(shown), read(model, shown, *how, **k))[1],
        )
    later = {"hires": {"scale": 2.0}, "detail": {"boxes": ((0, 0, 128, 128),), "size": 128, "padding": 0.0}}
    run(paint(edit, Request.read({**ASKED, **later})))
    first, second, third = followed
    assert torch.equal(first, torch.from_numpy(np.array(photo())).permute(2, 0, 1)[None] / 127.5 - 1)
    large = torch.from_numpy(np.array(photo().resize((128, 128), Image.Resampling.LANCZOS))).permute(2, 0, 1)[None]
    for each in (second, third):
        assert (each - (large / 127.5 - 1)).abs().max() < 0.02


def test_the_command_begins_with_noise_alone_in_the_first_pass(edit: Model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: edit)
    photo().save("x.png")
    for further in ([], ["--hires", "1.5"]):
        assert command.run(["img2img", "x.png", "rain", "--steps", "2", "--out", "y.png", *further]) == 0
        assert read_request(Path("y.png")).strength == 1.0
