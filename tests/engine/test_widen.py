"""LoRAs that let FLUX.1 read a picture, as Black Forest Labs wrote theirs, against the model that they make of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import FLUX, SMALL, original, write_original
from torch import Tensor

import maquette
from maquette.cli import main as command
from maquette.engine.convert import convert
from maquette.engine.recognise import recognise
from maquette.engine.report import describe_file
from maquette.errors import MaquetteError
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import InMemory, union

PREFIX = SMALL["flux-dev"].parts["denoiser"][2]
QKV, NORM = "double_blocks.0.img_attn.qkv", "single_blocks.0.norm.key_norm"
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
TOLD: dict[str, Any] = {"prompt": "a red apple", "steps": 2, "seed": 7, "width": 64, "height": 64}


def noise(*shape: int, seed: int) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def write_lora(path: Path) -> dict[str, Tensor]:
    """A LoRA of twice the inputs, with biases and a norm in place of the model's."""
    width = FLUX.width
    tensors = {
        "img_in.lora_A.weight": noise(4, 128, seed=1),
        "img_in.lora_B.weight": noise(width, 4, seed=2),
        "img_in.lora_B.bias": noise(width, seed=3),
        f"{QKV}.lora_A.weight": noise(4, width, seed=4),
        f"{QKV}.lora_B.weight": noise(3 * width, 4, seed=5),
        f"{QKV}.lora_B.bias": noise(3 * width, seed=6),
        f"{NORM}.scale": 1 + noise(width // FLUX.heads, seed=7),
    }
    write_safetensors(path, tensors)
    return tensors


def write_merged(path: Path, lora: dict[str, Tensor]) -> Path:
    """The whole model that the LoRA makes of the small one, in one file."""
    view = original(SMALL["flux-dev"])
    mine = {
        name: view[PREFIX + name].clone() for name in ("img_in.weight", "img_in.bias", f"{QKV}.weight", f"{QKV}.bias")
    }
    mine["img_in.weight"] = torch.nn.functional.pad(mine["img_in.weight"], (0, 64))
    for module in ("img_in", QKV):
        mine[f"{module}.weight"] += lora[f"{module}.lora_B.weight"] @ lora[f"{module}.lora_A.weight"]
        mine[f"{module}.bias"] += lora[f"{module}.lora_B.bias"]
    mine[f"{NORM}.scale"] = lora[f"{NORM}.scale"]
    changed = {PREFIX + name: tensor for name, tensor in mine.items()}
    others = InMemory({name: view[name] for name in view if name not in changed})
    write_safetensors(path, union([others, InMemory(changed)]))
    return path


@pytest.mark.parametrize("folder", [False, True])
def test_the_model_with_the_lora_follows_a_picture(folder: bool, tmp_path: Path) -> None:
    base, lora = write_original("flux-dev", tmp_path), tmp_path / "canny-lora.safetensors"
    merged = maquette.open(write_merged(tmp_path / "merged.safetensors", write_lora(lora)), device="cpu")
    if folder:
        convert(recognise(base), tmp_path / "folder", "diffusers", None, [])
        base = tmp_path / "folder"
    model = maquette.open(base, device="cpu", loras=[(lora, 1.0)])
    assert model.family.name == merged.family.name == "flux-control"
    assert model.family.defaults.strength == 1.0
    assert model.loras[0].unmatched == ()
    theirs = merged.network.state_dict()
    for name, tensor in model.network.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], msg=name)
    pictures = [np.asarray(each.paint(image=IMAGE, **TOLD).images[0], int) for each in (model, merged)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    other = np.asarray(model.paint(image=Image.new("RGB", (64, 64), "red"), **TOLD).images[0], int)
    assert np.abs(pictures[0] - other).max() > 1, "it looks at the picture"


def test_a_plain_model_is_not_widened_for_a_request(tmp_path: Path) -> None:
    lora = tmp_path / "lora.safetensors"
    write_lora(lora)
    model = maquette.open(write_original("flux-dev", tmp_path), device="cpu")
    with pytest.raises(MaquetteError, match="open the model with it"):
        model.txt2img(**TOLD, loras=[str(lora)])
    plain = model.txt2img(**TOLD).latent_hashes
    assert plain == maquette.open(tmp_path / "flux-dev.safetensors", device="cpu").txt2img(**TOLD).latent_hashes


def test_a_whole_model_is_no_lora(tmp_path: Path) -> None:
    path = write_original("flux-dev", tmp_path)
    assert describe_file(path)["family"] == "flux-dev"
    denoiser = tmp_path / "denoiser.safetensors"
    view = original(SMALL["flux-dev"], only=("denoiser",))
    write_safetensors(denoiser, InMemory({name.removeprefix(PREFIX): view[name] for name in view}))
    assert describe_file(denoiser)["family"] == "flux-dev"
    with pytest.raises(MaquetteError, match="holds no LoRA"):
        maquette.open(path, device="cpu", loras=[(denoiser, 1.0)])


def test_its_picture_is_painted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_lora(Path("lora.safetensors"))
    IMAGE.save("edges.png")
    size = ["--size", "64x64", "--steps", "2", "--seed", "7", "--model", str(write_original("flux-dev", Path()))]
    assert (
        command.run(["img2img", "edges.png", "an apple", *size, "--lora", "lora.safetensors:0.5", "--out", "x.png"])
        == 0
    )
    assert command.run(["reproduce", "x.png"]) == 0
    assert "identical" in capsys.readouterr().out
