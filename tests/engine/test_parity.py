"""The same noise, words and steps give the picture that diffusers' pipelines give.

The small models are written as original single files, opened by us, converted to folders and opened by diffusers.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from small_models import write_original
from torch import Tensor

import maquette
from maquette.diffusion.denoise import bind
from maquette.diffusion.guidance import Pair, cfg
from maquette.diffusion.noise import SeededNoise
from maquette.diffusion.samplers import sampler
from maquette.diffusion.schedules import schedule
from maquette.engine.convert import convert
from maquette.engine.model import Model

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers and transformers warn of each other
PROMPT, NEGATIVE, STEPS, SIDE = "a red apple, green grass", "rain", 4, 64


def psnr(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    assert ours.std() > 0.02  # a grey picture would agree with every other one
    return float(-10 * (ours.double() - theirs.double()).square().mean().log10())


@torch.no_grad()
def paint(model: Model, how: str, spacing: str, latents: Tensor, guidance: float, negative: str = NEGATIVE) -> Tensor:
    """The picture in [0, 1] of one prompt."""
    process = model.process_for(SIDE, SIDE)
    positive, unwanted = model.contrast(PROMPT, negative, width=SIDE, height=SIDE, guidance=guidance)
    distilled = model.family.distilled
    guided = bind(model.denoiser, positive) if distilled else cfg(Pair(model.denoiser, positive, unwanted), guidance)
    steps = list(sampler(how)(guided, latents, schedule(spacing, process, STEPS), SeededNoise([0])))
    return (model.decode(steps[-1].x) + 1) / 2


def both(family: str, folder: Path, pipeline: Any, **options: Any) -> tuple[Model, Any]:
    """Our model from the single file, and diffusers' from the folder that we convert it to."""
    path = write_original(family, folder)
    model = maquette.open(path, device="cpu", **options)
    convert(model.recognition, folder / "converted", "diffusers", None, [])
    pipe = pipeline.from_pretrained(folder / "converted")
    pipe.set_progress_bar_config(disable=True)
    return model, pipe


def noise(model: Model) -> Tensor:
    return torch.randn(1, *model.latent_shape(SIDE, SIDE), generator=torch.Generator().manual_seed(7))


def settings(latents: Tensor, guidance: float) -> dict[str, Any]:
    words = {"prompt": PROMPT, "width": SIDE, "height": SIDE, "output_type": "pt"}
    return {**words, "latents": latents, "guidance_scale": guidance, "num_inference_steps": STEPS}


@pytest.mark.parametrize(("family", "prediction"), [("sd1", None), ("sd2-v", "v"), ("sd2-v", "epsilon")])
def test_sd(family: str, prediction: str | None, tmp_path: Path) -> None:
    model, pipe = both(family, tmp_path, StableDiffusionPipeline, prediction=prediction)
    latents = noise(model)
    theirs = pipe(**settings(latents, 5.0), negative_prompt=NEGATIVE).images
    assert psnr(paint(model, "ddim", "leading", latents, 5.0), theirs) > 60


@pytest.mark.parametrize("negative", [NEGATIVE, ""])
def test_sdxl(negative: str, tmp_path: Path) -> None:
    model, pipe = both("sdxl", tmp_path, StableDiffusionXLPipeline)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    latents = noise(model)
    theirs = pipe(**settings(latents, 5.0), negative_prompt=negative or None).images
    assert psnr(paint(model, "euler", "leading", latents, 5.0, negative), theirs) > 60


@pytest.mark.parametrize("family", ["sd3", "sd3.5-medium"])
def test_sd3(family: str, tmp_path: Path) -> None:
    model, pipe = both(family, tmp_path, StableDiffusion3Pipeline)
    latents = noise(model)
    theirs = pipe(**settings(latents, 5.0), negative_prompt=NEGATIVE).images
    assert psnr(paint(model, "euler", "sd3", latents, 5.0), theirs) > 60


@pytest.mark.parametrize("family", ["flux-dev", "flux-schnell"])
def test_flux(family: str, tmp_path: Path) -> None:
    model, pipe = both(family, tmp_path, FluxPipeline)
    latents = noise(model)
    packed = FluxPipeline._pack_latents(latents, *latents.shape)
    longest = model.encoders[1].tokenizer.length
    theirs = pipe(**settings(packed, 3.5), max_sequence_length=longest).images
    assert psnr(paint(model, "euler", "flow", latents, 3.5), theirs) > 60


@torch.no_grad()
def test_clip_skip_reads_an_earlier_layer_through_the_final_norm(tmp_path: Path) -> None:
    model, pipe = both("sd1", tmp_path, StableDiffusionPipeline)
    ids = pipe.tokenizer(PROMPT, padding="max_length", max_length=20, return_tensors="pt").input_ids
    tower = pipe.text_encoder
    states = tower(ids, output_hidden_states=True)
    norm = next(module for name, module in tower.named_modules() if name.endswith("final_layer_norm"))
    for skip, expected in ((1, states.last_hidden_state), (2, norm(states.hidden_states[-2]))):
        found = model.condition([PROMPT], clip_skip=skip).tokens
        assert torch.allclose(found, expected, atol=1e-5), skip
