"""SDXL's relatives that were trained with EDM's noise: told by their marks, and painted as diffusers paints them."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import safe_open
from small_models import SMALL, original, write_tokenizers

import maquette
from maquette.diffusion.guidance import Pair, cfg
from maquette.diffusion.noise import SeededNoise
from maquette.diffusion.prediction import PRECONDITIONED, V
from maquette.diffusion.process import EDM
from maquette.diffusion.samplers import sampler
from maquette.diffusion.schedules import schedule
from maquette.engine.control import ControlNetwork
from maquette.engine.convert import convert
from maquette.engine.recognise import recognise
from maquette.errors import MaquetteError
from maquette.models.t2i_adapter import T2IAdapter, T2IAdapterSpec
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import InMemory, union

MARKS = {
    "cosxl": {"edm_vpred.sigma_max": torch.tensor(100.0), "edm_vpred.sigma_min": torch.tensor(1 / 256)},
    "playground-2.5": {"edm_mean": torch.tensor([-1.5, 1.0, 0.5, 2.0]), "edm_std": torch.tensor([8.0, 6.0, 5.0, 4.0])},
}
SIDE, STEPS = 64, 4


def write(family: str, folder: Path) -> Path:
    path = folder / f"{family}.safetensors"
    write_safetensors(path, union([original(SMALL["sdxl"]), InMemory(MARKS[family])]))
    write_tokenizers("sdxl", folder)
    return path


@pytest.mark.parametrize("family", MARKS)
def test_marks_in_a_file_and_options_in_a_folder_say_the_same(family: str, tmp_path: Path) -> None:
    path = write(family, tmp_path)
    found = recognise(path)
    assert found.family.name == family
    if family == "cosxl":
        assert (found.family.process, found.family.prediction) == (EDM(1 / 256, 100.0, 1.0), V)
        assert found.family.latent.scale == 0.13025
    else:
        assert (found.family.process, found.family.prediction) == (EDM(), PRECONDITIONED)
        assert found.family.latent.shift == (-1.5, 1.0, 0.5, 2.0)
        assert found.family.latent.scale == (1 / 8, 1 / 6, 1 / 5, 1 / 4)
    convert(found, tmp_path / "folder", "diffusers", None, [])
    folder = recognise(tmp_path / "folder")
    assert (folder.family.name, folder.family.process) == (family, found.family.process)
    assert folder.family.prediction is found.family.prediction
    assert folder.family.latent.scale == pytest.approx(found.family.latent.scale)
    convert(folder, tmp_path / "back.safetensors", "original", None, [])
    with safe_open(tmp_path / "back.safetensors", "pt") as back:
        for name, tensor in MARKS[family].items():
            assert torch.allclose(back.get_tensor(name).float(), tensor)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", MARKS)
@torch.no_grad()
def test_pictures_are_those_of_diffusers(family: str, tmp_path: Path) -> None:
    model = maquette.open(write(family, tmp_path), device="cpu")
    convert(model.recognition, tmp_path / "folder", "diffusers", None, [])
    pipe = StableDiffusionXLPipeline.from_pretrained(tmp_path / "folder")
    pipe.set_progress_bar_config(disable=True)
    latents = torch.randn(1, *model.latent_shape(SIDE, SIDE), generator=torch.Generator().manual_seed(7))
    words = {"prompt": "a red apple", "negative_prompt": "rain", "width": SIDE, "height": SIDE}
    theirs = pipe(**words, latents=latents, guidance_scale=3.0, num_inference_steps=STEPS, output_type="pt").images
    positive, negative = model.contrast("a red apple", "rain", width=SIDE, height=SIDE)
    guided = cfg(Pair(model.denoiser, positive, negative), 3.0)
    process = model.process
    # diffusers begins at sqrt(sigma_max² + 1), which is 1 here where the data's spread is 1
    begin = latents * math.sqrt(process.sigma_max**2 + 1) / math.hypot(process.sigma_max, process.sigma_data)
    *_, last = sampler("euler")(guided, begin, schedule("karras", process, STEPS), SeededNoise([0]))
    ours = (model.decode(last.x) + 1) / 2
    assert ours.std() > 0.02
    assert float(-10 * (ours - theirs).square().mean().log10()) > 60


def test_shares_of_the_way_are_of_all_of_its_times(tmp_path: Path) -> None:
    """Their times run from 1.1 to -1.6; 0 is in the middle."""
    model = maquette.open(write("playground-2.5", tmp_path))
    told = {"prompt": "a cat", "seed": 3, "steps": 4, "width": SIDE, "height": SIDE, "guidance": 5.0}
    whole = model.paint(**told)
    assert model.paint(**told, interval=(0.0, 1.0)).latent_hashes == whole.latent_hashes
    assert model.paint(**told, interval=(0.0, 0.5)).latent_hashes != whole.latent_hashes
    spec = T2IAdapterSpec(widths=model.network.spec.widths)
    adapter = ControlNetwork(path=tmp_path, model=model, network=T2IAdapter(spec))
    half = adapter.follow(torch.rand(1, 3, SIDE, SIDE), start=0.25, end=0.75)
    process = model.process
    assert (half.first, half.last) == pytest.approx(
        [process.start + share * (process.end - process.start) for share in (0.25, 0.75)]
    )


def test_marks_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    for family, name, wrong in (
        ("cosxl", "edm_vpred.sigma_max", torch.tensor(float("inf"))),
        ("cosxl", "edm_vpred.sigma_min", torch.tensor(200.0)),
        ("playground-2.5", "edm_std", torch.zeros(4)),
    ):
        view = union([original(SMALL["sdxl"], only=("denoiser",)), InMemory(MARKS[family] | {name: wrong})])
        write_safetensors(tmp_path / "a.safetensors", view)
        with pytest.raises(MaquetteError, match=f"{name}|the first the smallest"):
            recognise(tmp_path / "a.safetensors")
