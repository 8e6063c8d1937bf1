"""The quick look at a latent, compared with the pictures that the decoder makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from small_models import write_original
from torch import Tensor

import maquette
from maquette.engine.preview import approximate, two_colours
from maquette.workflows.paint import paint
from maquette.workflows.request import Request


def drawn(background: str, thing: str, detail: str) -> Tensor:
    """A picture (1, 3, 128, 128) of a thing with a stalk and a spot on a plain background."""
    picture = Image.new("RGB", (128, 128), background)
    pen = ImageDraw.Draw(picture)
    pen.ellipse((30, 40, 95, 105), fill=thing)
    pen.rectangle((60, 20, 66, 45), fill=detail)
    pen.ellipse((45, 55, 60, 70), fill="white")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1


def explained(found: Tensor, colours: Tensor) -> float:
    """The share of the variance of colours that is found, 1 at best."""
    return float(
        1 - (found - colours).square().sum() / (colours - colours.mean((0, 2, 3), keepdim=True)).square().sum()
    )


@pytest.fixture(scope="module")
def mini():
    return maquette.open("mini", device="cpu", dtype="float32")


def test_one_matrix_explains_most_of_what_mini_decodes(mini) -> None:
    told = (("#1f5fd0", "#c01818", "#3a2a10"), ("white", "#f0a020", "#207030"), ("#101010", "#d0d0d8", "#b03030"))
    latents = mini.encode(torch.cat([drawn(*colours) for colours in told]))
    colours = F.adaptive_avg_pool2d(mini.decode(latents), (16, 16))
    found = approximate(mini.preview_matrix, latents)
    assert found.shape == (3, 3, 16, 16)
    assert explained(found, colours) > 0.85
    assert explained(approximate(mini.preview_matrix.flip(1), latents), colours) < 0.5
    images = mini.preview(latents)
    assert [image.size for image in images] == [(16, 16)] * 3
    assert np.abs((np.asarray(images[0]) / 127.5 - 1) - found[0].permute(1, 2, 0).numpy()).max() < 0.01


def test_the_matrix_is_the_best_one_for_its_pictures(tmp_path: Path) -> None:
    """Of any first stage, with 16 channels too: no other matrix nearby is better."""
    model = maquette.open(write_original("sd3", tmp_path, only=("denoiser", "vae", "text_encoder", "text_encoder_2")))
    latents = model.encode(two_colours(128).to(model.device))
    colours = F.adaptive_avg_pool2d(model.decode(latents), (16, 16))
    matrix = model.preview_matrix
    assert matrix.shape == (17, 3)
    with_one = F.pad(latents.movedim(1, -1), (0, 1), value=1.0)

    def error(change: Tensor | float) -> float:
        return float((with_one @ (matrix + change).to(latents) - colours.movedim(1, -1)).square().mean())

    noise = torch.randn(5, *matrix.shape, generator=torch.Generator().manual_seed(0))
    assert all(error(sign * 0.02 * each) > error(0.0) for each in noise for sign in (1, -1))
    assert model.preview_matrix is matrix


def test_each_step_of_a_workflow_can_be_looked_at(mini) -> None:
    """Plain iteration; the look at the last step is that at the picture."""
    told = {"prompt": "a red apple on a blue background", "steps": 3, "seed": 1, "width": 128, "height": 96}
    looks, painting = [], paint(mini, Request.read(told))
    while True:
        try:
            looks.append(mini.preview(next(painting).x0)[0])
        except StopIteration as end:
            (picture,) = end.value.images
            break
    assert [look.size for look in looks] == [(16, 12)] * 3
    small = np.asarray(picture.resize((16, 12), Image.Resampling.BOX), dtype=float)
    first, _, last = (np.abs(small - np.asarray(look, dtype=float)).mean() for look in looks)
    assert last < 32  # of 255
    assert 2 * last < first
