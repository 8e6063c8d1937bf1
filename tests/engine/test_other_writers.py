"""Files and folders as other programs write or read them: stable-diffusion.cpp, diffusers, Stability, whole CLIPs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from controls import TOWER, write_folder
from small_models import CLIP, SD2, SDXL, SMALL, named, original, write_original, write_tokenizers

import maquette
from maquette.diffusion.process import Discrete, RectifiedFlow
from maquette.engine import kinds
from maquette.engine.convert import convert
from maquette.engine.fit import check_fit
from maquette.engine.recognise import Wishes, part_of, recognise
from maquette.errors import MaquetteError
from maquette.models import clip_config
from maquette.models.published import OPEN_CLIP_H_TEXT
from maquette.models.unet import UNetSpec
from maquette.models.unet_names import spec_from_weights
from maquette.weights.open_file import open_weights
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import InMemory


@pytest.mark.parametrize("spec", [replace(SD2, context=OPEN_CLIP_H_TEXT.width), SDXL], ids=["sd2", "sdxl"])
def test_linear_projections_written_as_convolutions_are_linear(spec: UNetSpec) -> None:
    view = named(kinds.UNET, spec, "original")
    state = {name: view[name] for name in view}
    for name in [each for each in state if each.endswith(("proj_in.weight", "proj_out.weight"))]:
        state[name] = state[name][:, :, None, None]
    assert spec_from_weights(InMemory(state)) == spec


def test_positions_without_a_batch_are_read(tmp_path: Path) -> None:
    whole = original(SMALL["sd3"])
    state = {name: whole[name] for name in whole}
    [name] = [each for each in state if each.endswith("pos_embed")]
    write_tokenizers("sd3", tmp_path)
    opened = []
    for number, positions in enumerate((state[name], state[name][0])):
        write_safetensors(tmp_path / f"{number}.safetensors", InMemory({**state, name: positions}))
        opened.append(maquette.open(tmp_path / f"{number}.safetensors", device="cpu", dtype="float32").network)
    assert torch.equal(opened[0].positions, opened[1].positions)


@pytest.mark.parametrize(("family", "zeros", "scored"), [("sdxl", True, None), ("sdxl-refiner", False, True)])
def test_a_folder_says_what_diffusers_would_assume_otherwise(
    family: str, zeros: bool, scored: bool | None, tmp_path: Path
) -> None:
    convert(recognise(write_original(family, tmp_path)), tmp_path / "folder", "diffusers", None, [tmp_path])
    index = json.loads((tmp_path / "folder/model_index.json").read_text())
    assert (index["force_zeros_for_empty_prompt"], index.get("requires_aesthetics_score")) == (zeros, scored)


@pytest.mark.parametrize(
    ("family", "changes", "what"),
    [
        ("sd3", {"process": RectifiedFlow(5.0)}, "noise schedule"),
        ("sd1", {"process": Discrete.linear()}, "noise schedule"),
        ("sd1", {"latent": 0.5}, "scale of latents"),
        ("sdxl", {"zero_empty_negative": False}, "answer to empty prompts"),
    ],
)
def test_what_one_file_cannot_say_is_not_written_to_one(
    family: str, changes: dict[str, object], what: str, tmp_path: Path
) -> None:
    found = recognise(write_original(family, tmp_path))
    assert found.family is not None
    convert(found, tmp_path / "usual.safetensors", "original", None, [])
    if "latent" in changes:
        changes = {"latent": replace(found.family.latent, scale=changes["latent"])}  # type: ignore[arg-type]
    other = replace(found, family=replace(found.family, **changes))  # type: ignore[arg-type]
    with pytest.raises(MaquetteError, match=f"cannot say its {what}, which is another than a file of {family} "):
        convert(other, tmp_path / "other.safetensors", "original", None, [])
    assert not (tmp_path / "other.safetensors").exists()


def test_a_tower_without_the_projection_that_is_read_is_refused(tmp_path: Path) -> None:
    found = recognise(write_original("sdxl", tmp_path))
    check_fit(found)
    part = found.parts["text_encoder_2"]
    cut = replace(part, spec=replace(part.spec, projection=None))
    with pytest.raises(MaquetteError, match="saved without the projection that"):
        check_fit(replace(found, parts={**found.parts, "text_encoder_2": cut}))


def test_of_several_files_the_usual_one_is_read(tmp_path: Path) -> None:
    for name in ("diffusion_pytorch_model", "sdxl_vae"):
        write_safetensors(tmp_path / f"{name}.safetensors", InMemory({name: torch.zeros(1)}))
    assert [*open_weights(tmp_path)] == ["diffusion_pytorch_model"]
    write_safetensors(tmp_path / "model.safetensors", InMemory({"a": torch.zeros(1)}))
    with pytest.raises(MaquetteError, match="say which of them to open"):
        open_weights(tmp_path)


def test_pure_noise_that_epsilon_knows_nothing_of_is_left_out(tmp_path: Path) -> None:
    convert(recognise(write_original("sd1", tmp_path)), tmp_path / "folder", "diffusers", None, [tmp_path])
    config = tmp_path / "folder/scheduler/scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rescale_betas_zero_snr": True}))
    with pytest.warns(UserWarning, match="rescale_betas_zero_snr needs v, and the network predicts epsilon"):
        epsilon = recognise(tmp_path / "folder").family
    v = recognise(tmp_path / "folder", Wishes(prediction="v")).family
    assert epsilon is not None and epsilon.process == Discrete.scaled_linear()
    assert v is not None and v.process == Discrete.scaled_linear(zero_terminal_snr=True)


def test_the_image_tower_of_a_whole_clip_is_found(tmp_path: Path) -> None:
    views = [named(kinds.CLIP, CLIP, "transformers"), named(kinds.CLIP_IMAGE, TOWER, "transformers")]
    state = {name: view[name] for view in views for name in view}
    write_safetensors(tmp_path / "whole.safetensors", InMemory(state))
    text, image = clip_config.text_to_config(CLIP), clip_config.image_to_config(TOWER)
    whole = {"architectures": ["CLIPModel"], "text_config": text, "vision_config": image, "projection_dim": 32}
    folder = write_folder(tmp_path / "folder", kinds.CLIP_IMAGE, TOWER, whole, "transformers")
    write_safetensors(folder / "model.safetensors", InMemory(state))
    for path in (tmp_path / "whole.safetensors", folder):
        found = part_of(path, ("image",), "a CLIP image tower")
        assert (found.kind, found.spec.width) == (kinds.CLIP_IMAGE, TOWER.width)
        assert part_of(path, ("clip",), "a text encoder").kind is kinds.CLIP
