"""What other programs say becomes a request: values that none takes are named, layers counted as the family does."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import maquette
from maquette.engine.model import Model
from maquette.families.sd1 import SD1
from maquette.families.sdxl import SDXL
from maquette.workflows.comfyui import read_graph
from maquette.workflows.foreign import Settings, fitted, suited
from maquette.workflows.infotext import read_infotext
from maquette.workflows.picture import read_request, read_settings
from maquette.workflows.reproduce import request_of
from maquette.workflows.request import Request

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from small_models import clip_tokenizer, write_original


def saved(folder: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    Image.new("RGB", (8, 8)).save(folder / "x.png", pnginfo=info)
    return folder / "x.png"


def left(settings: Settings) -> dict[str, str]:
    return {each.name: each.why for each in settings.untranslated}


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("Hires upscale: 1, Denoising strength: 0.5", {"hires": "hires.scale must be more than 1, got 1.0"}),
        ("Hires upscale: 2, Denoising strength: 0", {"hires": "hires.strength must be more than 0, got 0.0"}),
        ("Hires upscale: 2, Denoising strength: 0.5, Hires steps: 2000", {"hires": "hires.steps must be at most 1000"}),
        ("ENSD: -1", {"noise_delta": "must be at least 0, got -1"}),
        ("Clip skip: 40", {"clip_skip": "must be at most 12, got 40"}),
        ("CFG scale: 101", {"guidance": "must be at most 100, got 101.0"}),
        ("Size: 500x512", {"width": "must be a multiple of 8"}),
        ("Size: 8192x8192", {"height": "8192x8192 is too large: the limit is 16 megapixels"}),
    ],
)
def test_a_value_that_no_request_takes_is_named_and_the_rest_read(told: str, why: dict[str, str], tmp_path) -> None:
    settings = read_settings(saved(tmp_path, parameters=f"a cat\nSteps: 9, Seed: 5, Size: 512x512, {told}"))
    assert left(settings).keys() == why.keys()
    assert all(left(settings)[name].startswith(each) for name, each in why.items())
    request = request_of(settings)
    assert (request.prompt, request.steps, request.seed) == ("a cat", 9, 5)
    assert request.model_fields_set.isdisjoint(set(why) - {"noise_delta"})


def test_of_several_loras_only_the_bad_one_is_left() -> None:
    settings = fitted(Settings(program="A1111", fields={"loras": [{"file": "a"}, {"file": "b", "scale": 200.0}]}))
    assert settings.fields == {"loras": [{"file": "a"}]}
    assert left(settings) == {"loras": "loras.0.scale must be at most 100, got 200.0"}


def test_a_request_is_read_with_the_noise_that_is_painted_again(tmp_path: Path) -> None:
    path = saved(tmp_path, parameters="a cat\nSteps: 9, Seed: 5, Clip skip: 2, ENSD: 31337, Model: x")
    assert read_request(path) == request_of(read_settings(path))
    assert (read_request(path).noise, read_request(path).noise_delta) == ("a1111-nv", 31337)
    assert (read_request(path, SD1).clip_skip, read_request(path, SDXL).clip_skip) == (2, 1)


def a1111(skip: int, version: str = "v1.10.1") -> Settings:
    return read_infotext(f"the blue cat\nSteps: 9, Clip skip: {skip}, Version: {version}")


def comfyui(skip: int) -> Settings:
    ends = {"model": ["4", 0], "positive": ["6", 0], "negative": ["6", 0], "latent_image": ["5", 0]}
    nodes = {
        "3": ("KSampler", {"seed": 1, "steps": 9, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", **ends}),
        "4": ("CheckpointLoaderSimple", {"ckpt_name": "pony.safetensors"}),
        "5": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "6": ("CLIPTextEncode", {"text": "the blue cat", "clip": ["7", 0]}),
        "7": ("CLIPSetLastLayer", {"stop_at_clip_layer": -skip, "clip": ["4", 1]}),
    }
    return read_graph(json.dumps({name: {"class_type": kind, "inputs": told} for name, (kind, told) in nodes.items()}))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folders = {family: tmp_path_factory.mktemp(family) for family in ("sd1", "sd2-v", "sdxl")}
    how = {"sd2-v": {"prediction": "v"}}
    return {
        family: maquette.open(write_original(family, folder), device="cpu", **how.get(family, {}))
        for family, folder in folders.items()
    }


@torch.no_grad()
def hidden(model: Model, layer: int) -> torch.Tensor:
    """The states of all towers behind the layer `layer`, as transformers and ComfyUI count them (-1 is the last)."""
    ids = clip_tokenizer().words("the blue cat")
    states = []
    for encoder in model.encoders:
        words = encoder.tokenizer
        row = [words.start, *ids, words.end, *[words.pad] * (words.length - 2 - len(ids))]
        found = encoder.tower(torch.tensor([row])).hidden[layer]
        states.append(encoder.tower.final_norm(found) if encoder.reading.norm else found)
    return torch.cat(states, dim=-1)


@pytest.mark.parametrize(
    ("family", "settings", "layer", "said"),
    [
        ("sdxl", comfyui(2), -2, False),
        ("sdxl", comfyui(3), -3, False),
        ("sdxl", comfyui(1), -2, True),  # the last one, which nothing reads here
        ("sdxl", a1111(2), -2, False),
        ("sdxl", a1111(3), -2, True),  # A1111 keeps the family's own
        ("sdxl", a1111(3, "f2.0.1v1.10.1"), -3, False),  # Forge does not
        ("sd2-v", comfyui(2), -2, False),
        ("sd2-v", a1111(2), -2, False),
        ("sd1", comfyui(1), -1, False),
        ("sd1", comfyui(2), -2, False),
        ("sd1", a1111(2), -2, False),
    ],
)
def test_the_layer_that_is_read_is_the_peers(family: str, settings: Settings, layer: int, said: bool, models) -> None:
    model = models[family]
    request = suited(request_of(settings), settings, model.family)
    tokens = model.condition([request.prompt], clip_skip=request.clip_skip).tokens
    assert torch.allclose(tokens, hidden(model, layer), atol=1e-5)
    assert ("clip_skip" in left(settings)) is said


def test_a_layer_of_ours_is_counted_as_it_is(models) -> None:
    request = Request(clip_skip=2)
    assert suited(request, Settings(program="Maquette", fields={"clip_skip": 2}), models["sdxl"].family) == request
