"""What models are told: emphasis and chunks written out by hand, sizes, empty negatives, missing encoders."""

from pathlib import Path

import pytest
import torch
from small_models import LENGTH, clip_tokenizer, write_original

import maquette
from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.nn.embed import sinusoids


@torch.no_grad()
def test_weights_multiply_states_and_keep_the_mean_of_each_chunk(tmp_path: Path) -> None:
    model = maquette.open(write_original("sd1", tmp_path), device="cpu")
    words, tower = clip_tokenizer(), model.encoders[0].tower
    red, apple = words.words("a red"), words.words("apple")
    second = words.words("tree")
    rows, factors = [], []
    for inside, weights in ((red + apple, [1.0] * len(red) + [1.5] * len(apple)), (second, [1.0] * len(second))):
        empty = LENGTH - 2 - len(inside)
        rows.append([words.start, *inside, words.end, *[words.pad] * empty])
        factors.append([1.0, *weights, *[1.0] * (empty + 1)])
    states = tower(torch.tensor(rows)).last
    strong = states * torch.tensor(factors)[..., None]
    strong[0] *= states[0].mean() / strong[0].mean()
    strong[1] = states[1]
    found = model.condition(["a red (apple:1.5) BREAK tree"]).tokens
    assert found.shape == (1, 2 * LENGTH, 64)
    assert torch.allclose(found, strong.reshape(1, 2 * LENGTH, 64), atol=1e-5)


def test_wanted_and_unwanted_are_of_one_length(tmp_path: Path) -> None:
    model = maquette.open(write_original("sd1", tmp_path), device="cpu")
    positive, negative = model.contrast("tree " * 40, "rain")
    assert positive.tokens.shape == negative.tokens.shape
    assert torch.equal(negative.tokens[:, :LENGTH], model.condition(["rain"]).tokens)
    with pytest.raises(MaquetteError, match="clip skip 9 does not exist"):
        model.condition(["rain"], clip_skip=9)


@torch.no_grad()
@pytest.mark.parametrize("words", [10, 30, 40])
def test_what_a_short_negative_says_is_the_same_beside_any_prompt(words: int, tmp_path: Path) -> None:
    """Beside one chunk, two and three."""
    model = maquette.open(write_original("sd1", tmp_path), device="cpu", dtype="float32")
    positive, negative = model.contrast("tree " * words, "rain")
    level, x = model.process.at(600.0), torch.randn(1, *model.latent_shape(64, 64))
    both = model.denoiser(torch.cat([x, x]), level, Conditioning.cat([positive, negative]))
    assert len(model.encoders[0].chunks("tree " * words)) == -(-words // (LENGTH - 2))
    assert torch.allclose(both[1:], model.denoiser(x, level, model.condition(["rain"])), atol=1e-5)


@pytest.mark.parametrize(("prompt", "negative"), [("a tree", "rain " * 40), ("tree " * 30, "rain " * 40)])
def test_a_short_prompt_and_where_it_is_looked_at_are_the_same_beside_any_negative(
    prompt: str, negative: str, tmp_path: Path
) -> None:
    """One chunk beside three, and two beside three, which are six."""
    model = maquette.open(write_original("sd1", tmp_path), device="cpu", dtype="float32")
    options = {"steps": 2, "width": 64, "height": 32, "seed": 1, "guidance": 1.0, "attention": True}
    alone, beside = (model.txt2img(prompt, negative=other, **options) for other in ("", negative))
    maps = [result.attention.at("tree") for result in (alone, beside)]
    assert torch.allclose(*maps, atol=1e-5)
    pixels = [torch.tensor(list(result.images[0].tobytes())).float() for result in (alone, beside)]
    assert torch.allclose(*pixels, atol=1.0)


def test_with_a1111s_noise_words_change_as_late_as_there(tmp_path: Path) -> None:
    model = maquette.open(write_original("sd1", tmp_path), device="cpu")
    options = {"steps": 6, "width": 64, "height": 32, "seed": 1, "guidance": 1.0}

    def pixels(prompt: str, noise: str) -> bytes:
        return model.txt2img(prompt, noise=noise, **options).images[0].tobytes()

    assert pixels("[tree:rain:3]", "a1111-cpu") == pixels("[tree:rain:4]", "cpu") != pixels("[tree:rain:3]", "cpu")


def test_clip_is_cut_where_it_is_full_if_there_is_no_emphasis(tmp_path: Path) -> None:
    model = maquette.open(write_original("flux-dev", tmp_path), device="cpu")
    clip, prompt = model.encoders[0], "rain " * 12 + ", " + "tree " * 30
    (row,) = clip.chunks(prompt)
    assert row.ids == clip.tokenizer([prompt])[0]


def test_sdxl_is_told_sizes_after_the_pooled_text_and_zeros_for_an_empty_negative(tmp_path: Path) -> None:
    model = maquette.open(write_original("sdxl", tmp_path), device="cpu")
    told = model.condition(["a tree"], width=768, height=512, original=(640, 320), crop=(8, 16))
    numbers = sinusoids(torch.tensor([320.0, 640.0, 8.0, 16.0, 512.0, 768.0]), 256).flatten()
    assert torch.equal(told.vector[0, 128:], numbers)
    empty = model.condition(["", "rain"], negative=True)
    assert not empty.tokens[0].any()
    assert not empty.vector[0, :128].any()
    assert empty.vector[0, 128:].any()
    assert empty.tokens[1].any()
    assert model.condition([""]).tokens.any()


def test_the_refiner_is_told_an_aesthetic_score(tmp_path: Path) -> None:
    model = maquette.open(write_original("sdxl-refiner", tmp_path), device="cpu")
    for negative, score in ((False, 6.0), (True, 2.5)):
        told = model.condition(["a tree"], negative=negative, width=64, height=32)
        numbers = sinusoids(torch.tensor([32.0, 64.0, 0.0, 0.0, score]), 256).flatten()
        assert torch.equal(told.vector[0, 128:], numbers)


def test_sd3_without_t5_reads_zeros_and_puts_clip_before_t5(tmp_path: Path) -> None:
    both = ("denoiser", "vae", "text_encoder", "text_encoder_2")
    short = maquette.open(write_original("sd3", tmp_path, only=both), device="cpu").condition(["a tree"])
    whole = maquette.open(write_original("sd3", tmp_path), device="cpu").condition(["a tree"])
    assert short.tokens.shape == whole.tokens.shape == (1, LENGTH + 256, 256)
    assert torch.equal(short.tokens[:, :LENGTH], whole.tokens[:, :LENGTH])
    assert not short.tokens[:, LENGTH:].any()
    assert not whole.tokens[:, :LENGTH, 64 + 128 :].any()
    assert whole.tokens[:, LENGTH:].all()


def test_dit_is_told_the_number_of_a_class(tmp_path: Path) -> None:
    model = maquette.open(write_original("dit", tmp_path), device="cpu")
    told = model.condition(["7", ""])
    assert told.vector.argmax(dim=1).tolist() == [7, 10]
    with pytest.raises(MaquetteError, match="this model paints classes, not words: got 'a cat'"):
        model.condition(["a cat"])


@pytest.mark.parametrize("family", ["sd1", "flux-dev"])
def test_the_workflow_paints_with_any_family(family: str, tmp_path: Path) -> None:
    """Long words and short ones together; guidance by two answers, or told to a network that was distilled for it."""
    model = maquette.open(write_original(family, tmp_path), device="cpu")
    options = {"steps": 2, "width": 64, "height": 32, "seed": 1, "negative": "rain " * 30}
    weak, strong = (model.txt2img("a tree", guidance=scale, **options).images[0] for scale in (1.5, 30.0))
    assert weak.size == (64, 32)
    assert weak.tobytes() != strong.tobytes()
    assert model.process_for(64, 32) == model.process_for(32, 64)


def test_the_shift_of_flux_grows_with_the_picture_and_is_published_at_full_size(tmp_path: Path) -> None:
    model = maquette.open(write_original("flux-dev", tmp_path), device="cpu")
    assert model.process_for(1024, 1024).shift == pytest.approx(model.process.shift, rel=1e-4)
    assert model.process_for(256, 256).shift == pytest.approx(1.6487, rel=1e-4)
    fixed = maquette.open(write_original("flux-schnell", tmp_path), device="cpu")
    assert fixed.process_for(64, 64).shift == 1.0
