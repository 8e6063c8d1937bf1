"""ControlNets of SD3 and FLUX.1 follow the latent of a picture."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from controls import FLUX_CONTROLNET, SD3_CONTROLNET, SIZE, latent, picture, told, write, write_folder
from small_models import write_original

import maquette
from maquette.diffusion.compose import tiled
from maquette.engine import kinds
from maquette.engine.control import controlled, open_control
from maquette.engine.report import describe_file
from maquette.errors import MaquetteError
from maquette.models.transformer_controlnet_config import mmdit_to_config

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize("unpooled", [True, False])
def test_controlnet_for_sd3_follows_the_latent_of_a_picture(unpooled: bool, tmp_path: Path) -> None:
    """As it was trained: without the pooled text and the shift of latents, or with both."""
    model = maquette.open(write_original("sd3", tmp_path), device="cpu")
    spec = replace(SD3_CONTROLNET, unpooled=unpooled)
    folder = write_folder(tmp_path / "c", kinds.MMDIT_CONTROLNET, spec, mmdit_to_config(spec), "diffusers")
    opened = open_control(folder, model)
    assert describe_file(folder)["title"] == "ControlNet for SD3"
    x, conditioning = latent(2, channels=16), told(model)
    hint = model.encode(2 * picture() - 1)
    if unpooled:
        hint = hint + model.family.latent.shift * model.family.latent.scale
    residuals = opened.network(x, 0.7, conditioning, opened.network.read(hint))
    level = model.process.at(0.7)
    expected = model.denoiser(x, level, replace(conditioning, control=tuple(0.5 * each for each in residuals)))
    answer = controlled(model.denoiser, [opened.follow(picture(), scale=0.5)])(x, level, conditioning)
    assert torch.allclose(answer, expected, atol=1e-5)
    assert not torch.allclose(model.denoiser(x, level, conditioning), expected, atol=1e-3)
    wanted = controlled(model.denoiser, [opened.follow(picture(), scale=0.5, negative=False)])(x, level, conditioning)
    assert torch.allclose(wanted[:1], expected[:1], atol=1e-5)
    assert torch.allclose(wanted[1:], model.denoiser(x, level, conditioning)[1:], atol=1e-5)


def test_controlnet_for_flux_follows_the_latent_of_a_picture(tmp_path: Path) -> None:
    model = maquette.open(write_original("flux-dev", tmp_path), device="cpu")
    path = write(tmp_path / "c.safetensors", kinds.FLUX_CONTROLNET, FLUX_CONTROLNET, "diffusers")
    opened = open_control(path, model)
    assert describe_file(path)["title"] == "ControlNet for FLUX"
    x, conditioning, level = latent(1, channels=16), model.condition(["a red apple"]), model.process.at(0.7)
    double, single = opened.network(x, 0.7, conditioning, opened.network.read(model.encode(2 * picture() - 1)), mode=1)
    expected = model.denoiser(x, level, replace(conditioning, control=double, features=single))
    answer = controlled(model.denoiser, [opened.follow(picture(), kind=1)])(x, level, conditioning)
    assert torch.allclose(answer, expected, atol=1e-5)
    assert not torch.allclose(model.denoiser(x, level, conditioning), expected, atol=1e-3)
    with pytest.raises(MaquetteError, match="follows 2 kinds of pictures: got kind None"):
        controlled(model.denoiser, [opened.follow(picture())])(x, level, conditioning)
    with pytest.raises(MaquetteError, match="a picture of 72x72; its sides must be multiples of 16"):
        opened.follow(picture(side=72), kind=1)
    other = replace(FLUX_CONTROLNET, body=replace(FLUX_CONTROLNET.body, double=2, single=0), modes=None)
    other_path = write(tmp_path / "d.safetensors", kinds.FLUX_CONTROLNET, other, "diffusers")
    both = [opened.follow(picture(), kind=1), open_control(other_path, model).follow(picture())]
    with pytest.raises(MaquetteError, match="networks that speak to 2 and to 1 blocks"):
        controlled(model.denoiser, both)(x, level, conditioning)


def test_windows_of_a_transformer_follow_their_patches(tmp_path: Path) -> None:
    model = maquette.open(write_original("sd3", tmp_path), device="cpu")
    spec = replace(SD3_CONTROLNET, unpooled=False)
    folder = write_folder(tmp_path / "c", kinds.MMDIT_CONTROLNET, spec, mmdit_to_config(spec), "diffusers")
    opened, wide = open_control(folder, model), picture(side=2 * SIZE)[..., :SIZE, :]
    x, conditioning, level = latent(2, 16, channels=16)[..., :8, :], told(model), model.process.at(0.7)
    whole = tiled(controlled(model.denoiser, [opened.follow(wide)]), (8, 8), 0)(x, level, conditioning)
    for side, part in enumerate((x[..., :8], x[..., 8:])):
        hint = opened.network.read(model.encode(2 * wide - 1).chunk(2, -1)[side])
        residuals = opened.network(part, 0.7, conditioning, hint)
        expected = model.denoiser(part, level, replace(conditioning, control=residuals))
        assert torch.allclose(whole.chunk(2, -1)[side], expected, atol=1e-5)
