"""Families and layouts are told from names and shapes alone: full published shapes, in files that are holes."""

import json
import math
import random
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_models import SMALL, original, write_original, write_tokenizers

import maquette
import maquette.engine.recognise
from maquette.engine import kinds
from maquette.engine.build import outline
from maquette.engine.hints import TELLING_BIASES, prediction_by_spread
from maquette.engine.kinds import Kind
from maquette.engine.parts import split
from maquette.engine.recognise import Wishes, recognise
from maquette.engine.report import describe_file
from maquette.errors import MaquetteError
from maquette.families.known import FAMILIES
from maquette.models import published
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import InMemory, Weights, prefixed, union


def write_hole(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None) -> Path:
    """A float16 file with these tensors, none of whose data is on the disk."""
    end, fields = 0, {"__metadata__": dict(metadata)} if metadata else {}
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        fields[name] = {"dtype": "F16", "shape": shape, "data_offsets": (begin, end)}
    header = json.dumps(fields).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + end)
    return path


def shapes_of(view: Weights) -> dict[str, tuple[int, ...]]:
    return {name: view.shape(name) for name in view}


def full(kind: Kind, spec: object, layout: str) -> Weights:
    """A published network's names and shapes in a layout."""
    network = outline(kind.network, spec)
    dialect = next(each for each in kind.dialects if each.name == layout)
    return dialect.write(InMemory(network.state_dict()), network)


DENOISERS = {
    "sd1": (kinds.UNET, published.SD1_UNET),
    "sd1-inpaint": (kinds.UNET, replace(published.SD1_UNET, in_channels=9)),
    "sd2": (kinds.UNET, published.SD2_UNET),  # a hole's biases do not lie apart: it is not v
    "sd2-inpaint": (kinds.UNET, replace(published.SD2_UNET, in_channels=9)),
    "sd2-depth": (kinds.UNET, replace(published.SD2_UNET, in_channels=5)),
    "sdxl": (kinds.UNET, published.SDXL_UNET),
    "sdxl-inpaint": (kinds.UNET, replace(published.SDXL_UNET, in_channels=9)),
    "sdxl-refiner": (kinds.UNET, published.SDXL_REFINER_UNET),
    "sd3": (kinds.MMDIT, published.SD3_MEDIUM),
    "sd3.5-medium": (kinds.MMDIT, published.SD35_MEDIUM),
    "sd3.5-large": (kinds.MMDIT, published.SD35_LARGE),
    "flux-dev": (kinds.FLUX, published.FLUX_DEV),
    "flux-schnell": (kinds.FLUX, published.FLUX_SCHNELL),
    "flux-fill": (kinds.FLUX, published.FLUX_FILL),
    "flux-control": (kinds.FLUX, published.FLUX_CONTROL),
    "ldm-churches": (kinds.UNET, published.LDM_CHURCHES_UNET),
    "ldm-class": (kinds.UNET, published.LDM_IMAGENET_F4_UNET),
    "ldm-text": (kinds.UNET, published.LDM_TEXT_UNET),
    "dit": (kinds.DIT, published.DIT["DiT-XL/2"]),
}


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("family", DENOISERS)
def test_a_published_denoiser_alone_is_named(family: str, layout: str, tmp_path: Path) -> None:
    kind, spec = DENOISERS[family]
    path = write_hole(tmp_path / "model.safetensors", shapes_of(full(kind, spec, layout)))
    found = recognise(path)
    assert found.family.name == family
    assert not found.title.startswith("custom")
    assert (found.parts["denoiser"].dialect.name, found.parts["denoiser"].spec) == (layout, spec)
    assert not found.surplus


def test_a_whole_published_file_is_described_without_its_data(tmp_path: Path) -> None:
    parts = (
        prefixed(full(kinds.UNET, published.SDXL_UNET, "original"), "model.diffusion_model."),
        prefixed(full(kinds.KL_STAGE, published.SD_VAE, "original"), "first_stage_model."),
        prefixed(full(kinds.CLIP, published.CLIP_L_TEXT, "transformers"), "conditioner.embedders.0.transformer."),
        prefixed(full(kinds.CLIP, published.OPEN_CLIP_G_TEXT, "OpenCLIP"), "conditioner.embedders.1.model."),
    )
    extra = {"denoiser.sigmas": (1000,), "conditioner.embedders.1.model.logit_scale": ()}
    path = write_hole(tmp_path / "xl.safetensors", shapes_of(union(parts)) | extra, {"modelspec.title": "XL"})
    assert path.stat().st_size > 6.9e9
    report = describe_file(path)
    assert (report["family"], report["title"]) == ("sdxl", "SDXL base")
    assert list(report["parts"]) == ["denoiser", "vae", "text_encoder", "text_encoder_2"]
    assert not any(part["missing"] or part["surplus"] for part in report["parts"].values())
    assert report["absent"] == report["surplus"] == []
    assert report["parts"]["denoiser"]["parameters"] == 2_567_463_684
    assert report["parts"]["denoiser"]["precision"] == {"float16": 1680}
    assert report["memory"]["float32"] == 4 * report["parameters"]
    assert report["training"] == {"modelspec.title": "XL"}
    json.dumps(report)


@pytest.mark.parametrize("family", SMALL)
def test_a_small_relative_is_told_by_its_structure(family: str, tmp_path: Path) -> None:
    found = recognise(write_original(family, tmp_path, tokenizers=False))
    assert (found.family.name, found.title) == (family, f"custom {family}")
    assert {name: part.spec for name, part in found.parts.items()} == {
        name: spec for name, (_, spec, *_) in SMALL[family].parts.items()
    }


def write_sd2(folder: Path, marks: Mapping[str, torch.Tensor] | None = None, **metadata: str) -> Path:
    path = folder / "sd2.safetensors"
    write_safetensors(path, union([original(SMALL["sd2-v"], only=("denoiser",)), InMemory(marks or {})]), metadata)
    return path


def prediction_of(found: maquette.engine.recognise.Recognition) -> tuple[str, str]:
    evidence = next(each for each in found.evidence if each.what == "prediction")
    return evidence.value, evidence.why


def test_what_shapes_cannot_tell_is_asked_for_or_told_beside_the_file_or_assumed_aloud(tmp_path: Path) -> None:
    path = write_sd2(tmp_path)
    assert next(each for each in recognise(path).evidence if each.what == "prediction").assumed
    assert prediction_of(recognise(path)) == ("v", "the default of sd2-v")
    found = recognise(path, Wishes(prediction="epsilon"))
    assert (found.family.name, found.family.defaults.width) == ("sd2", 512)
    assert prediction_of(found) == ("epsilon", "asked for")
    path.with_suffix(".yaml").write_text("model:\n  params:\n    parameterization: 'v'\n")
    assert prediction_of(recognise(path))[1] == "sd2.yaml beside the file"
    path.with_suffix(".yaml").write_text("network_config:\n  params:\n    linear_start: 0.00085\n")
    assert prediction_of(recognise(path)) == ("v", "the default of sd2-v")
    path.with_suffix(".yaml").write_text("model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n")
    assert prediction_of(recognise(path)) == ("epsilon", "sd2.yaml beside the file")
    path.with_suffix(".yaml").write_text("target: sgm.modules.diffusionmodules.denoiser_scaling.EpsScaling\n")
    assert prediction_of(recognise(path))[0] == "epsilon"
    path.with_suffix(".yaml").unlink()
    path = write_sd2(tmp_path, **{"modelspec.prediction_type": "epsilon"})
    assert prediction_of(recognise(path))[1] == "modelspec.prediction_type in the metadata"


@pytest.mark.parametrize(("factor", "prediction"), [(0.2, "v"), (0.05, "epsilon")])
@pytest.mark.parametrize("name", TELLING_BIASES)
def test_where_nothing_else_tells_a_bias_of_sd2_does(factor: float, prediction: str, name: str) -> None:
    bias = torch.linspace(-1, 1, 320, dtype=torch.float16)  # its spread is 0.58
    told = prediction_by_spread(InMemory({name: factor * bias / 0.58}))
    assert told is not None
    assert told[0] == prediction


def test_the_bias_of_sd2_counts_after_what_is_said(tmp_path: Path) -> None:
    unet = prefixed(full(kinds.UNET, published.SD2_UNET, "original"), "model.diffusion_model.")
    path = write_hole(tmp_path / "sd2.safetensors", shapes_of(unet))
    found = recognise(path)  # all numbers are zero
    assert prediction_of(found)[0] == "epsilon"
    assert TELLING_BIASES[0] in prediction_of(found)[1]
    assert not any(each.assumed for each in found.evidence)
    assert found.family.defaults.width == 512
    path.with_suffix(".yaml").write_text("parameterization: v\n")
    assert prediction_of(recognise(path)) == ("v", "sd2.yaml beside the file")


def test_marks_tell_v_and_zero_terminal_snr(tmp_path: Path) -> None:
    marks = {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}
    path = tmp_path / "xl.safetensors"
    write_safetensors(path, union([original(SMALL["sdxl"]), InMemory(marks)]))
    found = recognise(path)
    assert prediction_of(found) == ("v", "the tensor v_pred")
    assert found.family.process.at(999.0).alpha == 0.0
    assert not found.surplus


def test_marks_count_before_metadata_and_noise_only_with_v(tmp_path: Path) -> None:
    path = write_sd2(tmp_path, {"v_pred": torch.zeros(1)}, **{"modelspec.prediction_type": "epsilon"})
    assert prediction_of(recognise(path)) == ("v", "the tensor v_pred")
    path = write_sd2(tmp_path, {"ztsnr": torch.zeros(1)}, **{"modelspec.prediction_type": "epsilon"})
    with pytest.warns(UserWarning, match="the tensor ztsnr asks for zero terminal SNR, which needs v; .* epsilon"):
        assert recognise(path).family.process.at(999.0).alpha > 0.0


def test_metadata_that_speak_of_noise_say_nothing_of_a_flow(tmp_path: Path) -> None:
    """kohya's scripts write epsilon whatever they train."""
    path = tmp_path / "sd3.safetensors"
    write_safetensors(path, original(SMALL["sd3"]), {"modelspec.prediction_type": "epsilon"})
    assert prediction_of(recognise(path))[0] == "velocity"


def test_a_yaml_says_nothing_of_a_flow(tmp_path: Path) -> None:
    path = write_original("sd3", tmp_path, tokenizers=False)
    path.with_suffix(".yaml").write_text("parameterization: v\n")
    assert prediction_of(recognise(path))[0] == "velocity"


def test_the_wrong_family_is_refused_and_distilled_ones_are_opened_by_name(tmp_path: Path) -> None:
    path = write_original("sdxl", tmp_path, tokenizers=False)
    assert recognise(path, Wishes(family="sdxl-turbo")).family.defaults.steps == 1
    with pytest.raises(MaquetteError, match="is not of the family 'sd1'"):
        recognise(path, Wishes(family="sd1"))
    with pytest.raises(MaquetteError, match="there is no family 'sd9'; known are sd1"):
        recognise(path, Wishes(family="sd9"))


def test_every_tensor_is_accounted_for(tmp_path: Path) -> None:
    path = tmp_path / "more.safetensors"
    write_safetensors(path, union([original(SMALL["sd1"]), InMemory({"stray.weight": torch.zeros(3)})]))
    assert recognise(path).surplus == ("stray.weight",)
    write_tokenizers("sd1", tmp_path)
    with pytest.warns(UserWarning, match=r"1 tensors that belong to no part are not read: stray\.weight"):
        maquette.open(path)
    view = original(SMALL["sd1"])
    write_safetensors(
        path, {name: view[name] for name in view if not name.endswith("input_blocks.2.0.out_layers.3.bias")}
    )
    assert describe_file(path)["parts"]["denoiser"]["missing"] == ["input_blocks.2.0.out_layers.3.bias"]
    with pytest.raises(MaquetteError, match="1 missing"):
        maquette.open(path)


def test_a_file_without_its_parts_says_what_to_give(tmp_path: Path) -> None:
    path = write_original("flux-dev", tmp_path, only=("denoiser",), tokenizers=False)
    wanted = r"without a first stage \(vae=FILE\) and text_encoder \(CLIP; text=FILE\) and text_encoder_2 \(T5; text"
    with pytest.raises(MaquetteError, match=wanted):
        maquette.open(path)
    vae = write_original("sd1", tmp_path, only=("vae",), tokenizers=False)
    with pytest.raises(MaquetteError, match="holds no denoiser, only: KL autoencoder"):
        maquette.open(vae)


def test_families_are_found_by_the_name_that_they_have() -> None:
    assert all(name == family.name for name, family in FAMILIES.items())


@pytest.mark.parametrize("seed", range(40))
def test_damaged_shapes_are_refused(seed: int) -> None:
    """Some tensors of another shape, or gone: an error that users can read, or a network that fits what is there."""
    chance = random.Random(seed)
    view = original(SMALL[chance.choice(("sd1", "sdxl", "sd3.5-medium", "flux-dev", "dit"))])
    tensors = {name: torch.empty(view.shape(name), device="meta") for name in view}
    for name in chance.sample(list(tensors), 3):
        shape = [chance.choice((0, 1, 3, 32, 64, 128)) for _ in range(chance.randrange(5))]
        tensors[name] = torch.empty(shape, device="meta")
    tensors.pop(chance.choice(list(tensors)))
    with pytest.raises(MaquetteError):
        for part in split(InMemory(tensors), Path("damaged.safetensors")).parts:
            part.read(part.network())
