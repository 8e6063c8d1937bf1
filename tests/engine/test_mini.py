"""The shipped model: small enough, the same in diffusers, and steered by its words and its seed alone."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import maquette
from maquette.engine.open import ASSETS

PROMPTS = ["a red apple on a blue background", "蓝色背景上的红苹果"]
LIMIT = 40_000_000  # bytes of the whole folder


@pytest.fixture(scope="module")
def mini():
    return maquette.open("mini", device="cpu", dtype="float32")


def pixels(result) -> np.ndarray:
    return np.asarray(result.images[0], dtype=np.float64)


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in (ASSETS / "mini").rglob("*") if path.is_file()) <= LIMIT


@pytest.mark.parametrize("prompt", PROMPTS)
def test_diffusers_paints_the_same_picture(mini, prompt: str) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(ASSETS / "mini", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.randn(1, *mini.latent_shape(128, 128), generator=torch.Generator().manual_seed(7))
    theirs = pipeline(prompt, latents=latents, num_inference_steps=10, guidance_scale=5.0, output_type="np").images[0]
    ours = pixels(mini.txt2img(prompt, seed=7, steps=10, guidance=5.0, sampler="ddim", schedule="trailing"))
    error = np.square(ours - theirs.astype(np.float64) * 255).mean()
    assert 10 * np.log10(255**2 / error) > 40


def test_a_seed_gives_the_same_pixels_and_another_gives_others(mini) -> None:
    first, again, other = (pixels(mini.txt2img("a cat", seed=seed, steps=4)) for seed in (7, 7, 8))
    assert (first == again).all()
    assert (first != other).any()


def test_the_background_is_as_told(mini) -> None:
    """The corners of the picture, in both languages, are nearest to the colour that was asked for."""
    colours = {"blue": ("蓝色", 2), "red": ("红色", 0), "green": ("绿色", 1)}
    for english, (chinese, channel) in colours.items():
        for prompt in (f"a cat on a {english} background", f"{chinese}背景上的一只猫"):
            corners = pixels(mini.txt2img(prompt, seed=3))[[0, 0, -1, -1], [0, -1, 0, -1]].mean(axis=0)
            assert corners.argmax() == channel, (prompt, corners)


def test_every_part_has_its_share_in_the_whole_hash(mini, tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "mini", tmp_path / "mini")
    file = tmp_path / "mini" / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    other = maquette.open(tmp_path / "mini", device="cpu", dtype="float32")
    assert other.hash == mini.hash and other.whole_hash != mini.whole_hash
