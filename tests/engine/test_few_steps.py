"""Models and LoRAs distilled for few steps: what they are painted with unless somebody says otherwise."""

from pathlib import Path

import pytest
import torch
from small_models import write_original

import maquette
from maquette.engine.model import Model
from maquette.engine.recognise import recognise
from maquette.families.few_steps import of_loras, published_name
from maquette.families.known import FAMILIES
from maquette.families.sd1 import SD1
from maquette.families.sdxl import SDXL
from maquette.weights.safetensors_file import write_safetensors


def settings(defaults) -> tuple:
    return defaults.steps, defaults.guidance, defaults.sampler, defaults.schedule


@pytest.mark.parametrize(
    ("shapes", "name", "family", "wanted"),
    [
        ("sdxl", "sd_xl_turbo_1.0_fp16", "sdxl-turbo", (1, 1.0, "euler_a", "trailing")),
        ("sdxl", "sdxl_lightning_8step", "sdxl-lightning", (8, 1.0, "euler", "trailing")),
        ("sd3.5-large", "sd3.5_large_turbo", "sd3.5-large-turbo", (4, 1.0, "euler", "sd3")),
        ("sdxl", "my_turbo_mix", "sdxl", settings(SDXL.defaults)),
        ("sd1", "sdxl_lightning_8step", "sd1", settings(SD1.defaults)),
        ("sd1-lcm", "any", "sd1-lcm", (4, 8.5, "lcm", "lcm")),
        ("sdxl-lcm", "any", "sdxl-lcm", (4, 8.0, "lcm", "lcm")),
    ],
)
def test_models_named_as_published(shapes: str, name: str, family: str, wanted: tuple, tmp_path: Path) -> None:
    path = write_original(shapes, tmp_path, tokenizers=False).rename(tmp_path / f"{name}.safetensors")
    found = recognise(path)
    assert found.family is not None
    assert found.family.name == family
    assert settings(found.family.defaults) == wanted


def test_a_name_is_evidence_and_one_step_may_predict_the_picture(tmp_path: Path) -> None:
    path = write_original("sdxl", tmp_path, tokenizers=False)
    found = recognise(path.rename(tmp_path / "sdxl_lightning_1step_x0.safetensors"))
    assert found.evidence[1][:2] == ("family", "sdxl-lightning")
    assert "named as published" in found.evidence[1].why
    assert any(each.what == "prediction" and each.value == "sample" for each in found.evidence)


def test_a_repository_s_name_counts() -> None:
    path = Path("/cache/models--stabilityai--sd-turbo/snapshots/b261/model.safetensors")
    assert published_name(path) == "models--stabilityai--sd-turbo/model.safetensors"
    assert [name for name, family in FAMILIES.items() if family.named and "turbo" in name] == [
        "sd-turbo",
        "sdxl-turbo",
        "sd3.5-large-turbo",
    ]


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("lcm-lora-sdv1-5.safetensors", (4, 1.0, "lcm", "lcm")),
        (
            "models--latent-consistency--lcm-lora-sdxl/snapshots/a/pytorch_lora_weights.safetensors",
            (4, 1.0, "lcm", "lcm"),
        ),
        ("sdxl_lightning_2step_lora.safetensors", (2, 1.0, "euler", "trailing")),
        ("Hyper-SD15-8steps-lora.safetensors", (8, 1.0, "ddim", "trailing")),
        ("Hyper-SDXL-8steps-CFG-lora.safetensors", settings(SD1.defaults)),
        ("a-cat.safetensors", settings(SD1.defaults)),
    ],
)
def test_loras_named_as_published(file: str, wanted: tuple) -> None:
    assert settings(of_loras(SD1.defaults, ["other.safetensors", file])) == wanted


def test_a_picture_with_a_consistency_lora_takes_four_steps(tmp_path: Path) -> None:
    model, lora = maquette.open(write_original("sd1", tmp_path), device="cpu"), tmp_path / "lcm-lora-sdv1-5.safetensors"
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    write_safetensors(
        lora, {f"{name}.lora_up.weight": torch.ones(32, 2), f"{name}.lora_down.weight": torch.ones(2, 32)}
    )
    fields = {"prompt": "a red apple", "width": 64, "height": 64, "seed": 1}
    assert settings(model.paint(**fields, steps=1).request)[1:] == settings(SD1.defaults)[1:]
    found = model.paint(**fields, loras=[{"file": str(lora), "scale": 1.0}]).request
    assert settings(found) == (4, 1.0, "lcm", "lcm")
    assert model.paint(**fields, steps=2, loras=[{"file": str(lora), "scale": 1.0}]).request.steps == 2


def rows(model: Model, **fields: float) -> tuple[list[int], str]:
    """How many rows the network is asked for at each step, and the hash of what it gives."""
    seen, plain = [], model.network.forward
    model.network.forward = lambda x, t, told: (seen.append(len(x)), plain(x, t, told))[1]
    result = model.paint(prompt="a red apple", seed=1, width=64, height=64, **fields)
    model.network.forward = plain
    return seen, result.latent_hashes[0]


def test_a_consistency_model_is_told_its_guidance(tmp_path: Path) -> None:
    model = maquette.open(write_original("sd1-lcm", tmp_path), device="cpu")
    (asked, weak), (_, strong) = rows(model, guidance=2.0), rows(model, guidance=8.0)
    assert asked == [1, 1, 1, 1]
    assert weak != strong
