"""Opening files and folders: the format by content, parts by their index, the right file of several."""

import json
from pathlib import Path

import pytest
import torch

from maquette.errors import MaquetteError
from maquette.weights.open_file import open_weights
from maquette.weights.safetensors_file import write_safetensors

ONE = {"w": torch.arange(3.0)}
OTHER = {"w": torch.arange(3.0) + 10}


@pytest.mark.parametrize("name", ["model", "model.bin", "model.ckpt", "model.gguf", "model.json"])
def test_the_name_does_not_matter(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_safetensors(path, ONE)
    assert open_weights(path)["w"].tolist() == [0, 1, 2]
    torch.save(OTHER, path)
    assert open_weights(path)["w"].tolist() == [10, 11, 12]
    torch.save(OTHER, path, _use_new_zipfile_serialization=False)
    assert open_weights(path)["w"].tolist() == [10, 11, 12]


@pytest.mark.parametrize("length", range(0x60, 0x160, 8))
def test_a_header_length_that_looks_like_text_is_a_length(tmp_path: Path, length: int) -> None:
    write_safetensors(tmp_path / "a", ONE, {"pad": "x" * (length - 85)})
    assert open_weights(tmp_path / "a")["w"].tolist() == [0, 1, 2]


def sharded(folder: Path, name: str = "model.safetensors.index.json") -> Path:
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "model-00001-of-00002.safetensors", {"a": torch.ones(2), "b": torch.zeros(2)})
    write_safetensors(folder / "model-00002-of-00002.safetensors", {"c": torch.full((2,), 3.0)})
    places = {"a": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 24}, "weight_map": places}))
    return folder


def test_parts_are_one_model(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    for path in (folder, folder / "model.safetensors.index.json"):
        view = open_weights(path)
        assert {name: tensor.tolist() for name, tensor in view.items()} == {"a": [1, 1], "b": [0, 0], "c": [3, 3]}
        assert view.source("c") == folder / "model-00002-of-00002.safetensors"


@pytest.mark.parametrize("name", ["model.safetensors.index.fp16.json", "model.fp16.safetensors.index.json"])
def test_parts_of_a_variant(tmp_path: Path, name: str) -> None:
    folder = sharded(tmp_path, name)
    write_safetensors(folder / "model.safetensors", ONE)
    assert set(open_weights(folder, "fp16")) == {"a", "b", "c"}
    assert set(open_weights(folder)) == {"w"}


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        MaquetteError, match=r"'model-00002-of-00002.safetensors', which is missing; download all parts"
    ):
        open_weights(folder)


def test_the_file_of_a_folder(tmp_path: Path) -> None:
    torch.save(OTHER, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    assert open_weights(tmp_path)["w"].tolist() == [10, 11, 12]
    write_safetensors(tmp_path / "model.fp16.safetensors", ONE)
    assert open_weights(tmp_path)["w"].tolist() == [0, 1, 2]
    write_safetensors(tmp_path / "model.safetensors", OTHER)
    assert open_weights(tmp_path)["w"].tolist() == [10, 11, 12]
    assert open_weights(tmp_path, "fp16")["w"].tolist() == [0, 1, 2]


def test_a_choice_between_files_is_the_users(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        write_safetensors(tmp_path / name, ONE)
    with pytest.raises(MaquetteError, match=r"holds 'a.safetensors', 'b.safetensors'; say which"):
        open_weights(tmp_path)
    with pytest.raises(MaquetteError, match="say which"):
        open_weights(tmp_path, "fp16")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<!DOCTYPE html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\x1f\x8b\x08\x00", "is a compressed archive"),
        (bytes(100), "the download was not finished"),
        (b"", "is empty"),
        (b"hello", "is neither safetensors nor a torch checkpoint nor GGUF"),
        (b'{"dim": 3}', "is a JSON text but no index of weights"),
    ],
)
def test_what_is_no_weights_file_is_told_apart(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(MaquetteError, match=problem) as caught:
        open_weights(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match=r"nowhere: cannot be opened \(No such file or directory\); check the path"):
        open_weights(tmp_path / "nowhere")
    with pytest.raises(MaquetteError, match="holds no weights"):
        open_weights(tmp_path)
    with pytest.raises(MaquetteError, match="is not a path"):
        open_weights("a\0b")
