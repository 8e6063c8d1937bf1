"""Every kind of damage to a model's folder is one clear error that names the file; so are wrong names and settings."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import write_original

import maquette
from maquette.cli.plain import one_line
from maquette.engine.convert import convert
from maquette.engine.open import names
from maquette.engine.recognise import recognise
from maquette.errors import MaquetteError

UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
Harm = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folders")
    convert(recognise(write_original("sd1", folder)), folder / "sd1", "diffusers", None, [])
    return folder / "sd1"


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refusal(folder: Path, **told: Any) -> str:
    with pytest.raises(MaquetteError) as caught:
        maquette.open(folder, device=told.pop("device", "cpu"), **told)
    return one_line(str(caught.value))


def test_the_whole_folder_opens(whole: Path) -> None:
    model = maquette.open(whole, device="cpu")
    assert model.name == "sd1" and model.dtype == torch.float32
    assert model.hash == hashlib.sha256((whole / UNET).read_bytes()).hexdigest()[:10]


@pytest.mark.parametrize(
    "missing", ["model_index.json", UNET, VAE, TEXT, "tokenizer/merges.txt", "unet", "vae", "tokenizer"]
)
def test_what_is_missing_is_named(folder: Path, missing: str) -> None:
    path = folder / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert Path(missing).parts[0] in refusal(folder)


def test_a_missing_text_encoder_is_asked_for(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder")
    assert "text_encoder" in refusal(folder)


JSON = ["model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
        "scheduler/scheduler_config.json"]  # fmt: skip


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00", "[" * 100_000], ids=range(6))
@pytest.mark.parametrize("file", JSON)
def test_damaged_json_is_named(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    said = refusal(folder)
    assert str(folder / file) in said and len(said) < 400


@pytest.mark.parametrize(
    "file",
    ["unet/config.json", *(f"tokenizer/{name}" for name in ("tokenizer.json", "vocab.json", "tokenizer_config.json"))],
)
def test_json_that_is_too_long_is_not_read(folder: Path, file: str) -> None:
    if file == "tokenizer/tokenizer.json":  # else it is not needed
        (folder / "tokenizer/vocab.json").unlink()
    with (folder / file).open("wb") as damaged:
        damaged.truncate(65 << 20)  # takes no room on the disk
    assert f"{folder / file}: is longer than the" in refusal(folder)


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:50]),
        lambda path: path.write_bytes(bytes(1000)),
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        lambda path: path.write_bytes(b"<!DOCTYPE html>"),
    ],
    ids=["empty", "cut short", "cut in the header", "zeros", "Git LFS", "web page"],
)
def test_damaged_weights_are_named(folder: Path, file: str, harm: Harm) -> None:
    harm(folder / file)
    assert str(folder / file) in refusal(folder)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("unet/config.json", {"block_out_channels": [32, 96]}),
        ("unet/config.json", {"cross_attention_dim": 96}),
        ("unet/config.json", {"block_out_channels": "wide"}),
        ("unet/config.json", {"block_out_channels": [32, -1]}),
        ("unet/config.json", {"norm_num_groups": 7}),
        ("unet/config.json", {"act_fn": "relu"}),
        ("unet/config.json", {"a_new_option": 3}),
        ("unet/config.json", {"_class_name": "Nothing"}),
        ("vae/config.json", {"latent_channels": 8}),
        ("vae/config.json", {"scaling_factor": "large"}),
        ("vae/config.json", {"block_out_channels": [32, 32]}),
        ("text_encoder/config.json", {"hidden_size": 48}),
        ("text_encoder/config.json", {"num_hidden_layers": 9}),
        ("text_encoder/config.json", {"hidden_act": "tanh"}),
        ("scheduler/scheduler_config.json", {"prediction_type": "guess"}),
        ("scheduler/scheduler_config.json", {"beta_schedule": "steep"}),
        ("scheduler/scheduler_config.json", {"beta_start": -1}),
        ("scheduler/scheduler_config.json", {"beta_end": "0.1"}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 1}),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1, 0.2]}),
        ("tokenizer/tokenizer_config.json", {"pad_token": "<none>"}),
    ],
)
def test_options_that_do_not_fit_are_refused(folder: Path, file: str, change: dict[str, Any]) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    said = refusal(folder)
    of_a_file = str(folder / Path(file).parent) in said or Path(file).name in said
    assert of_a_file or (f"{folder}: the" in said and "of its parts differ" in said), said


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_tensors_that_are_missing_or_of_another_shape_are_refused(folder: Path, file: str) -> None:
    path = folder / file
    tensors = load_file(path)
    name = sorted(tensors)[len(tensors) // 2]
    for changed in (
        {key: tensor for key, tensor in tensors.items() if key != name},
        {**tensors, name: torch.zeros(3, 5, 7)},
    ):
        save_file(changed, path)
        assert str(path.parent) in refusal(folder)


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_unknown_tensors_are_refused_in_the_denoiser_and_named_elsewhere(folder: Path, file: str) -> None:
    path = folder / file
    save_file({**load_file(path), "something.else": torch.zeros(3)}, path)
    if file == UNET:
        assert str(path.parent) in refusal(folder)
    else:
        with pytest.warns(UserWarning, match=r"1 tensors of its .* are not read: something\.else"):
            maquette.open(folder, device="cpu")


def test_the_weights_of_another_part_are_refused(folder: Path) -> None:
    shutil.copy(folder / VAE, folder / UNET)
    assert str(folder / "unet") in refusal(folder)


def test_more_words_than_the_tower_knows_are_refused(folder: Path) -> None:
    path = folder / "tokenizer/vocab.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": 100_000}))
    assert "tokenizer" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["", "nothing", "/no/such/model", "~nobody/model", "a" * 5000, "nul\x00byte", "/proc/self/mem", "."],
    ids=repr,
)
def test_a_name_that_is_no_model_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(refusal(name)) < 6000  # type: ignore[arg-type]


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    said = refusal(tmp_path)
    assert f"{tmp_path}: is no model folder, for it holds no model_index.json; give the folder that does, or" in said


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("unet/config.json", "{", "; download it again"),
        ("unet/config.json", "[]", "unet/config.json: holds no JSON object; download it again"),
        ("vae", None, "vae: is missing; the model's folder is incomplete, download it again"),
        ("tokenizer/vocab.json", None, "(no tokenizer.json); it needs vocab.json and merges.txt, or tokenizer.json: "),
        ("tokenizer/merges.txt", None, "(no merges.txt); it needs vocab.json and merges.txt, or tokenizer.json: "),
    ],
)
def test_what_to_do_about_a_damaged_folder_is_said(folder: Path, file: str, content: str | None, reason: str) -> None:
    path = folder / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if content is not None:
        path.write_text(content)
    said = refusal(folder)
    assert reason in said and "download" in said and "Errno" not in said


@pytest.mark.parametrize("device", ["banana", "cuda:99", "meta", "", "cpu:x"])
def test_a_device_that_is_not_there_is_told(whole: Path, device: str) -> None:
    assert f"device {device!r} cannot be used here" in refusal(whole, device=device)


@pytest.mark.parametrize("dtype", ["float12", "int8", torch.int32, "", 5])
def test_an_unknown_precision_is_told(whole: Path, dtype: Any) -> None:
    assert "unknown precision" in refusal(whole, dtype=dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, torch.float64])
def test_a_known_precision_is_taken(whole: Path, dtype: Any) -> None:
    model = maquette.open(whole, device="cpu", dtype=dtype)
    assert model.dtype == (getattr(torch, dtype) if isinstance(dtype, str) else dtype)


def test_the_models_of_the_package_are_folders_with_an_index() -> None:
    from maquette.engine.open import ASSETS

    assert names() == sorted(names())
    assert all((ASSETS / name / "model_index.json").is_file() for name in names())
