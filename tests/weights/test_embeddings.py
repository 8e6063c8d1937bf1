"""Textual inversion files of every spelling."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from maquette.errors import MaquetteError
from maquette.weights.embeddings import read_embedding
from maquette.weights.open_file import open_weights
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import InMemory

SD1 = {"clip_l": 768}
SDXL = {"clip_l": 768, "clip_g": 1280}
THREE = torch.randn(3, 768)


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_the_papers_file(tmp_path: Path, zipped: bool) -> None:
    """A ParameterDict, beside it the placeholder's token as a tensor, as the paper's code saves them."""
    content = {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": nn.ParameterDict({"*": nn.Parameter(THREE)}),
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert equal(read_embedding(open_weights(tmp_path / "a.pt"), SD1), {"clip_l": THREE})


def test_automatic1111s_file(tmp_path: Path) -> None:
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": THREE}, "name": "toy", "step": 500}
    torch.save(content, tmp_path / "a.pt")
    weights = open_weights(tmp_path / "a.pt")
    assert equal(read_embedding(weights, SD1), {"clip_l": THREE})
    assert weights.metadata == {"name": "toy", "step": "500"}


@pytest.mark.parametrize("vectors", [THREE, THREE[0], THREE[:1].half()], ids=["three", "one, flat", "one, half"])
def test_diffusers_file(tmp_path: Path, vectors: Tensor) -> None:
    torch.save({"<toy>": vectors}, tmp_path / "learned_embeds.bin")
    expected = {"clip_l": vectors.reshape(-1, 768).float()}
    assert equal(read_embedding(open_weights(tmp_path / "learned_embeds.bin"), SD1), expected)


def test_safetensors_files(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", {"emb_params": THREE})
    assert equal(read_embedding(open_weights(tmp_path / "a"), SD1), {"clip_l": THREE})
    both = {"clip_l": THREE, "clip_g": torch.randn(3, 1280)}
    write_safetensors(tmp_path / "b", both)
    assert equal(read_embedding(open_weights(tmp_path / "b"), SDXL), both)


def test_what_is_for_encoders_that_the_model_has_not_is_left() -> None:
    vectors = {"clip_l": THREE, "clip_g": torch.randn(3, 1280), "t5xxl": torch.randn(3, 4096)}
    for widths in (SD1, SDXL, {"clip_g": 1280}):
        expected = {name: vectors[name] for name in widths}
        assert equal(read_embedding(InMemory(vectors), widths), expected)


def test_names_decide_where_widths_cannot() -> None:
    both = {"clip_g": torch.randn(2, 8), "clip_l": torch.randn(2, 8)}
    widths = {"clip_l": 8, "clip_g": 8}
    assert equal(read_embedding(InMemory(both), widths), both)
    with pytest.raises(MaquetteError, match="width 8 fit more than one"):
        read_embedding(InMemory({"<toy>": both["clip_l"]}), widths)


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"<toy>": torch.zeros(2, 1024)}, r"width 1024 fit none of this model's text encoders, clip_l \(768\)"),
        ({"<a>": torch.zeros(2, 768), "<b>": torch.zeros(2, 768)}, "too many for an embedding of 1 text encoder"),
        ({"clip_g": torch.zeros(2, 1280), "t5xxl": torch.zeros(2, 4096)}, "too many for an embedding of 1"),
        ({"t5xxl": torch.zeros(2, 4096)}, "width 4096 fit none"),
        ({"clip_l": torch.zeros(2, 1024)}, r"'clip_l' has shape \(2, 1024\)"),
        ({"<toy>": torch.zeros(76, 768)}, "expected 1 to 75 vectors"),
        ({"<toy>": torch.zeros(0, 768)}, "expected 1 to 75 vectors"),
        ({"<toy>": torch.zeros(1, 2, 768)}, "expected 1 to 75 vectors"),
        ({"<toy>": torch.tensor(1.0)}, "width 0 fit none"),
        ({"<toy>": torch.full((2, 768), float("nan"))}, "holds infinities or no numbers"),
    ],
)
def test_what_does_not_fit_is_an_error(tensors: dict[str, Tensor], problem: str) -> None:
    with pytest.raises(MaquetteError, match=problem):
        read_embedding(InMemory(tensors), SD1)


def test_two_for_one_encoder_are_an_error() -> None:
    with pytest.raises(MaquetteError, match="two embeddings for clip_l"):
        read_embedding(InMemory({"<a>": THREE, "<b>": THREE}), SDXL)
