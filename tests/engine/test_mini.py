"""The shipped model: small enough, the same in diffusers, and steered by its words and its seed alone."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import maquette
from maquette.engine.convert import convert
from maquette.engine.open import ASSETS
from maquette.engine.recognise import recognise
from maquette.errors import MaquetteError
from maquette.workflows.loop import run
from maquette.workflows.paint import paint
from maquette.workflows.picture import read_texts
from maquette.workflows.request import Request

PROMPTS = ["a red apple on a blue background", "蓝色背景上的红苹果"]
LIMIT = 40_000_000  # bytes of the whole folder


@pytest.fixture(scope="module")
def mini():
    return maquette.open("mini", device="cpu", dtype="float32")


def test_diffusers_opens_the_folder_without_being_told_a_precision() -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(ASSETS / "mini")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a red apple", num_inference_steps=1).images[0].size == (128, 128)


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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_reads_pictures(dtype: str, mini) -> None:
    half, picture = maquette.open("mini", device="cpu", dtype=dtype), torch.linspace(-1, 1, 128).expand(1, 3, 128, 128)
    error = (half.encode(picture) - mini.encode(picture)).square().mean().sqrt()
    assert error < 0.05
    assert half.preview_matrix.isfinite().all()


def test_a_file_that_changes_gives_no_hash(tmp_path: Path, mini) -> None:
    folder = tmp_path / "mini"
    shutil.copytree(ASSETS / "mini", folder)
    model, moved = (maquette.open(folder, device="cpu", dtype="float32") for _ in range(2))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = file.read_bytes()
    file.unlink()
    with pytest.warns(UserWarning, match="is not the file any more that was opened"):
        result = moved.txt2img("a", steps=1)
    assert result.model_hash == ""
    (path,) = result.save(tmp_path / "a.png")
    assert "Model hash" not in read_texts(path)["parameters"]
    file.write_bytes(data)  # the same numbers in another file
    with pytest.warns(UserWarning, match="is not the file any more that was opened"):
        assert model.hash == ""
    assert maquette.open(folder, device="cpu", dtype="float32").hash == mini.hash


def test_a_folder_with_an_added_word_reads_all_others_as_before(tmp_path: Path, mini) -> None:
    """What diffusers' textual inversion writes: a row more, and a config that says "the largest id" ends a text."""
    folder, word = shutil.copytree(ASSETS / "mini", tmp_path / "added"), len(mini.encoders[0].tokenizer)
    (folder / "tokenizer/added_tokens.json").write_text(json.dumps({"<toy>": word}))
    config = folder / "text_encoder/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": word + 1, "eos_token_id": 2}))
    weights = load_file(folder / "text_encoder/model.safetensors")
    (name,) = [each for each in weights if each.endswith("token_embedding.weight")]
    row = torch.full_like(weights[name][:1], 0.1)
    save_file(weights | {name: torch.cat([weights[name], row])}, folder / "text_encoder/model.safetensors")
    convert(recognise(folder), tmp_path / "copy", "diffusers", None, [])
    for path in (folder, tmp_path / "copy"):
        (encoder,), (own,) = maquette.open(path, device="cpu", dtype="float32").encoders, mini.encoders
        for told, expected in zip(encoder(["a red apple"]), own(["a red apple"]), strict=True):
            assert torch.equal(told, expected)
        assert encoder.chunks("a <toy>")[0].ids[2] == word
        assert not torch.equal(encoder(["a <toy>"]).tokens, own(["a <toy>"]).tokens)


def test_threads_paint_in_turns() -> None:
    """What a request changes for its own steps is not seen by another one's."""
    asked = {"prompt": "a red apple", "seed": 7, "steps": 4}
    requests = [asked, {**asked, "speed": {"merge": 0.5}}, {**asked, "pag": {"scale": 2.0, "layers": ["up"]}}]
    model = maquette.open("mini", device="cpu", dtype="float32", tile_vae=True)
    alone = [model.paint(**each).images[0].tobytes() for each in requests]
    assert len(set(alone)) == len(requests)
    with ThreadPoolExecutor(len(requests)) as threads:
        together = list(threads.map(lambda each: model.paint(**each).images[0].tobytes(), requests))
    assert together == alone


def test_threads_preview_in_turns() -> None:
    """The first preview decodes, too, and waits until no other thread has the first stage divided into tiles."""
    model, picture = maquette.open("mini", device="cpu", dtype="float32", tile_vae=True), Image.new("RGB", (192, 192))
    request = Request(prompt="a red apple", seed=7, steps=2, strength=0.5, image=picture)

    def work(_: int) -> bytes:
        return run(paint(model, request), lambda step: model.preview(step.x0)).images[0].tobytes()

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(work, range(4)))) == 1


def test_an_embedding_has_no_more_vectors_than_fit(tmp_path: Path, mini) -> None:
    width, room = mini.encoders[0].tower.spec.width, mini.encoders[0].tokenizer.length - 2
    for count in (room, room + 1):
        save_file({"emb_params": torch.randn(count, width)}, tmp_path / f"{count}.safetensors")
    with pytest.raises(MaquetteError, match=f"has {room + 1} vectors, .* reads {room} words at a time"):
        mini.txt2img("a xyz", steps=1, embeddings=[{"word": "xyz", "file": str(tmp_path / f"{room + 1}.safetensors")}])
    mini.txt2img("a xyz", steps=1, embeddings=[{"word": "xyz", "file": str(tmp_path / f"{room}.safetensors")}])


@pytest.mark.parametrize("width", [136, 144, 176])
def test_an_adapter_s_features_lie_under_tiles_of_odd_sizes(width: int, mini) -> None:
    control = {"model": "semantic-map", "image": Image.new("RGB", (width, 128), "red")}
    tiles = {"size": 64, "overlap": 16}
    result = mini.paint(prompt="a", steps=1, width=width, height=128, controls=[control], tiles=tiles)
    assert result.images[0].size == (width, 128)
