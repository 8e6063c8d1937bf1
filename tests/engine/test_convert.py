"""What a converted model says of itself, so that it paints as it did."""

import json
from pathlib import Path

import pytest
from small_models import write_original

import maquette
from maquette.engine.convert import convert
from maquette.engine.open import ASSETS
from maquette.engine.recognise import Wishes, recognise
from maquette.errors import MaquetteError


def test_a_copy_of_mini_paints_the_same_picture(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    convert(recognise(ASSETS / "mini"), folder, "diffusers", None, [])
    original, copy = (maquette.open(path, device="cpu", dtype="float32") for path in ("mini", folder))
    assert (copy.family.name, copy.family.defaults) == (original.family.name, original.family.defaults)
    first, second = (model.txt2img("a red apple", seed=7, steps=2).images[0] for model in (original, copy))
    assert first.tobytes() == second.tobytes()
    for part, name in (("unet", "sample_size"), ("vae", "sample_size"), ("vae", "force_upcast")):
        told = [json.loads((model / part / "config.json").read_text())[name] for model in (ASSETS / "mini", folder)]
        assert told[0] == told[1], (part, name)


@pytest.mark.parametrize("family", ["sd1", "sd2-v", "sdxl", "sd3"])
def test_a_folder_tells_pipelines_the_usual_size(family: str, tmp_path: Path) -> None:
    found = recognise(write_original(family, tmp_path), Wishes(family=family))
    convert(found, tmp_path / "folder", "diffusers", None, [])
    name = "transformer" if family == "sd3" else "unet"
    config = json.loads((tmp_path / "folder" / name / "config.json").read_text())
    assert config["sample_size"] * found.parts["vae"].spec.factor == found.family.defaults.width
    assert recognise(tmp_path / "folder").family.defaults == found.family.defaults


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_family_that_only_its_name_tells_is_named(layout: str, tmp_path: Path) -> None:
    found = recognise(write_original("sdxl", tmp_path), Wishes(family="sdxl-turbo"))
    out = tmp_path / ("folder" if layout == "diffusers" else "file.safetensors")
    convert(found, out, layout, None, [])
    again = recognise(out)
    assert again.family.name == "sdxl-turbo"
    assert again.family.defaults.steps == found.family.defaults.steps == 1


def test_a_model_without_its_parts_is_no_folder(tmp_path: Path) -> None:
    found = recognise(write_original("sd1", tmp_path, only=("denoiser",)))
    with pytest.raises(MaquetteError, match=r"without a first stage .* and text_encoder"):
        convert(found, tmp_path / "folder", "diffusers", None, [])
    assert not (tmp_path / "folder").exists()
