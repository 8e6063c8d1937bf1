"""Files as conversions and trainings of other programs leave them: towers cut short, mixed names, tensors left over."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import LARGE, SMALL, named, original, write_original, write_tokenizers
from torch import Tensor

import maquette
from maquette.engine import kinds, parts
from maquette.engine.convert import convert
from maquette.engine.model import Model
from maquette.engine.recognise import Wishes, recognise
from maquette.errors import MaquetteError
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import InMemory


def tokens(model: Model) -> Tensor:
    return model.condition(["a red apple"]).tokens


def write(family: str, folder: Path, tensors: Mapping[str, Tensor], name: str = "other") -> Path:
    write_tokenizers(family, folder)
    write_safetensors(folder / f"{name}.safetensors", InMemory(tensors))
    return folder / f"{name}.safetensors"


def test_a_tower_saved_without_its_last_layer_is_read_at_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers' script writes 23 of ViT-H's 24 layers; here 2 of 3."""
    assert parts.PUBLISHED_LAYERS == {1024: 24}
    monkeypatch.setattr(parts, "PUBLISHED_LAYERS", {128: 3})
    whole = maquette.open(write_original("sd2-v", tmp_path), device="cpu", prediction="v")
    view = original(SMALL["sd2-v"])
    cut = write("sd2-v", tmp_path, {name: view[name] for name in view if "resblocks.2." not in name})
    model = maquette.open(cut, device="cpu", prediction="v")
    assert torch.equal(tokens(model), tokens(whole))
    for layout, out in (("diffusers", tmp_path / "folder"), ("original", tmp_path / "back.safetensors")):
        convert(model.recognition, out, layout, None, [])
        back = maquette.open(out, device="cpu", prediction="v")
        assert torch.allclose(tokens(back), tokens(whole), atol=1e-5)
        assert len(back.encoders[0].tower.layers) == (2 if layout == "diffusers" else 3)


def test_a_projection_that_diffusers_script_left_as_it_was(tmp_path: Path) -> None:
    plain = maquette.open(write_original("sdxl", tmp_path), device="cpu")
    tensors, name = dict(original(SMALL["sdxl"])), "conditioner.embedders.1.model.text_projection"
    tensors[f"{name}.weight"] = tensors.pop(name).t().contiguous()
    other = maquette.open(write("sdxl", tmp_path, tensors), device="cpu")
    assert torch.equal(other.condition(["a tree"]).vector, plain.condition(["a tree"]).vector)


def test_a_first_stage_with_the_attention_of_diffusers(tmp_path: Path) -> None:
    plain = maquette.open(write_original("sd1", tmp_path), device="cpu").first_stage.vae
    new = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    tensors = {}
    for name, tensor in original(SMALL["sd1"]).items():
        head, at, rest = name.partition("mid.attn_1.")
        old = rest.rpartition(".")[0]
        tensors[head + at + rest.replace(old, new.get(old, old)) if at else name] = tensor
    found = maquette.open(write("sd1", tmp_path, tensors), device="cpu").first_stage.vae
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in found.state_dict().items())


NOBODY_NEEDS = {
    "cond_stage_model.text_projection": torch.zeros(2, 2),
    "cond_stage_model.logit_scale": torch.zeros(1),
    "conditioner.embedders.0.text_projection.weight": torch.zeros(2, 2),
    "embedding_manager.string_to_param_dict.x": torch.zeros(2),
    "first_stage_model.model_ema.decay": torch.zeros(1),
}


def test_tensors_that_are_left_over_outside_of_the_denoiser_are_named(tmp_path: Path) -> None:
    plain = dict(original(SMALL["sd1"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = tokens(maquette.open(write("sd1", tmp_path, plain | NOBODY_NEEDS), device="cpu"))
    stray = "cond_stage_model.transformer.text_model.stray"
    path = write("sd1", tmp_path, {**plain, stray: torch.zeros(1)})
    with pytest.warns(UserWarning, match="1 tensors of its CLIP text tower are not read: text_model.stray"):
        assert torch.equal(tokens(maquette.open(path, device="cpu")), expected)
    path = write("sd1", tmp_path, {**plain, "model.diffusion_model.stray": torch.zeros(1)})
    with pytest.raises(MaquetteError, match=r"1 unknown \(stray\)"):
        maquette.open(path, device="cpu")


def test_one_given_tower_takes_the_place_of_the_one_as_wide(tmp_path: Path) -> None:
    path = write_original("sdxl", tmp_path)
    write_safetensors(tmp_path / "large.safetensors", named(kinds.CLIP, LARGE, "transformers", seed=9))
    plain = maquette.open(path, device="cpu")
    model = maquette.open(path, device="cpu", text=tmp_path / "large.safetensors")
    same = [
        torch.equal(one.tower.layers[0].mlp.up.weight, other.tower.layers[0].mlp.up.weight)
        for one, other in zip(plain.encoders, model.encoders, strict=True)
    ]
    assert same == [True, False]


def test_a_folder_holds_no_moving_average_beside_its_weights(tmp_path: Path) -> None:
    convert(recognise(write_original("dit", tmp_path)), tmp_path / "folder", "diffusers", None, [])
    with pytest.raises(MaquetteError, match="a folder keeps one set of weights"):
        recognise(tmp_path / "folder", Wishes(averaged=True))


@pytest.mark.parametrize(
    ("family", "mark", "edit"),
    [
        ("sd1", None, "sd1-edit"),
        ("sd2-v", None, "sd2-edit"),
        ("sdxl", None, "sdxl-edit"),
        ("sdxl", "edm_vpred.sigma_max", "cosxl-edit"),
    ],
)
def test_models_that_are_told_how_to_change_a_picture_are_known(
    family: str, mark: str | None, edit: str, tmp_path: Path
) -> None:
    kind, spec, prefix, layout = SMALL[family].parts["denoiser"]
    view = named(kind, replace(spec, in_channels=8), layout)
    marks = {mark: torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)} if mark else {}
    path = write(family, tmp_path, {prefix + name: view[name] for name in view} | marks)
    found = recognise(path).family
    assert (found.name, found.instructed, found.follows_picture) == (edit, True, True)
    assert found.defaults.image_guidance == 1.5
    assert (found.beside == ("picture",)) is (edit == "cosxl-edit")
