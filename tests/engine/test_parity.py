"""The same noise, words and steps give the picture that diffusers' pipelines give, whatever the layout of the weights.

The small models are written as original single files, opened by us, converted to folders and opened by diffusers.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from against_diffusers import (
    CASES,
    LAYOUTS,
    PROMPT,
    SIDE,
    STEPS,
    compared_tensors,
    encoding_error,
    give,
    open_file,
    open_folder,
    paint_ours,
    paint_theirs,
    psnr,
)
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image

from maquette.diffusion.noise import SeededNoise
from maquette.errors import MaquetteError

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers and transformers warn of each other


@pytest.mark.parametrize("name", CASES)
def test_the_picture_is_diffusers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    given = give(case, "original", tmp_path)
    model, pipe = given.open(), open_folder(case, given)
    assert psnr(paint_ours(model, case), paint_theirs(pipe, case, model)) > 60
    assert encoding_error(model, pipe) < 1e-5


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "original"])
@pytest.mark.parametrize("name", ["SD 1", "FLUX.1 dev"])
def test_the_picture_is_diffusers_from_every_layout(name: str, layout: str, tmp_path: Path) -> None:
    case = CASES[name]
    given = give(case, layout, tmp_path)
    model = given.open()
    assert psnr(paint_ours(model, case), paint_theirs(open_folder(case, given), case, model)) > 60


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.loader])
def test_diffusers_own_loader_of_original_files_finds_the_same_tensors(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    given = give(case, "original", tmp_path)
    same = compared_tensors(open_folder(case, given), open_file(case, given))
    assert [name for name in same if not same[name]] == []
    assert {"vae", "text_encoder", given.denoiser} <= {name.split(".")[0] for name in same}


@pytest.mark.parametrize("image_guidance", [1.0, 1.7])
def test_a_picture_that_is_changed_as_it_is_told_is_diffusers(image_guidance: float, tmp_path: Path) -> None:
    case = replace(CASES["SD 1"], family="sd1-edit", pipeline=StableDiffusionInstructPix2PixPipeline)
    given = give(case, "original", tmp_path)
    model, pipe = given.open(), open_folder(case, given)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8))
    scales = {"guidance": case.guidance, "image_guidance": image_guidance}
    way = {"sampler": case.sampler, "schedule": case.spacing, "steps": STEPS, "seed": 7}
    ours = model.paint(prompt=PROMPT, negative=case.negative, image=image, **scales, **way).images[0]
    theirs = pipe(
        PROMPT,
        image=image,
        negative_prompt=case.negative,
        guidance_scale=case.guidance,
        image_guidance_scale=image_guidance,
        num_inference_steps=STEPS,
        latents=SeededNoise([7]).start(model.latent_shape(SIDE, SIDE)),
        output_type="pt",
    ).images
    pixels = torch.from_numpy(np.asarray(ours) / 255.0).permute(2, 0, 1)[None]
    assert psnr(pixels, theirs) > 50  # ours is rounded to bytes


def test_a_distilled_model_led_away_from_words_is_diffusers(tmp_path: Path) -> None:
    case = CASES["FLUX.1 dev"]
    given = give(case, "original", tmp_path)
    model, pipe = given.open(), open_folder(case, given)
    way = {"sampler": case.sampler, "schedule": case.spacing, "steps": STEPS, "width": SIDE, "height": SIDE}
    told = {"prompt": PROMPT, "negative": "rain", "guidance": case.guidance, "seed": 7}
    ours = model.paint(**told, true_guidance=3.0, **way).images[0]
    latents = SeededNoise([7]).start(model.latent_shape(SIDE, SIDE))
    theirs = pipe(
        PROMPT,
        negative_prompt="rain",
        true_cfg_scale=3.0,
        guidance_scale=case.guidance,
        num_inference_steps=STEPS,
        **{"width": SIDE, "height": SIDE, "output_type": "pt"},
        latents=pipe._pack_latents(latents, *latents.shape),
        max_sequence_length=model.encoders[1].tokenizer.length,
    ).images
    pixels = torch.from_numpy(np.asarray(ours) / 255.0).permute(2, 0, 1)[None]
    assert psnr(pixels, theirs) > 50  # ours is rounded to bytes
    without = model.paint(**told, **way).images[0]
    assert np.abs(np.asarray(without, int) - np.asarray(ours, int)).max() > 1


def test_only_a_model_that_is_told_how_takes_image_guidance(tmp_path: Path) -> None:
    given = give(CASES["SD 1"], "original", tmp_path)
    told = {"prompt": PROMPT, "steps": 1, "seed": 7, "width": SIDE, "height": SIDE}
    model = given.open()
    with pytest.warns(UserWarning, match="is not told how to change a picture; image_guidance is not used"):
        found = model.paint(**told, image_guidance=2.0)
    assert found.request.image_guidance is None
    assert found.latent_hashes == model.paint(**told).latent_hashes
    with pytest.raises(MaquetteError, match="was not distilled for its guidance; give guidance"):
        given.open().paint(prompt=PROMPT, true_guidance=2.0)


@torch.no_grad()
def test_clip_skip_reads_an_earlier_layer_through_the_final_norm(tmp_path: Path) -> None:
    case = CASES["SD 1"]
    given = give(case, "original", tmp_path)
    model, pipe = given.open(), open_folder(case, given)
    ids = pipe.tokenizer(PROMPT, padding="max_length", max_length=20, return_tensors="pt").input_ids
    tower = pipe.text_encoder
    states = tower(ids, output_hidden_states=True)
    norm = next(module for name, module in tower.named_modules() if name.endswith("final_layer_norm"))
    for skip, expected in ((1, states.last_hidden_state), (2, norm(states.hidden_states[-2]))):
        found = model.condition([PROMPT], clip_skip=skip).tokens
        assert torch.allclose(found, expected, atol=1e-5), skip
