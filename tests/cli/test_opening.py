"""The options of commands that open a model reach `maquette.open` as it takes them."""

from pathlib import Path

import pytest

import maquette
from maquette.cli import main as command
from maquette.cli.opening import read_embedding_option, read_lora_option
from maquette.errors import MaquetteError


@pytest.fixture
def asked(tmp_path: Path, monkeypatch, model) -> list[tuple[str, dict]]:
    """What the command asks of `maquette.open`."""
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, dict]] = []
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: (calls.append((name, how)), model)[1])
    return calls


def test_every_option_reaches_the_model(asked) -> None:
    options = "--family sd1 --prediction v --vae v.pt --text a --text b --tokenizer t --variant fp16 --averaged"
    adapters = (
        "--lora one.safetensors:0.5 --lora two.safetensors --embedding sks=s.pt --device cpu --dtype float32 --stream"
    )
    line = f"txt2img words --model m.ckpt --out x.png {options} {adapters}"
    assert command.run(line.split()) == 0
    assert asked == [
        (
            "m.ckpt",
            {
                "family": "sd1",
                "prediction": "v",
                "vae": Path("v.pt"),
                "text": [Path("a"), Path("b")],
                "tokenizer": [Path("t")],
                "loras": [("one.safetensors", 0.5), ("two.safetensors", 1.0)],
                "embeddings": {"sks": "s.pt"},
                "variant": "fp16",
                "averaged": True,
                "device": "cpu",
                "dtype": "float32",
                "stream": True,
            },
        )
    ]


def test_what_is_not_given_is_not_said(asked) -> None:
    assert command.run(["txt2img", "words", "--out", "x.png"]) == 0
    assert asked == [("mini", {})]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:-0.25", ("a.safetensors", -0.25)),
        ("dir/a:b.safetensors:2", ("dir/a:b.safetensors", 2.0)),
        (r"C:\a.safetensors", (r"C:\a.safetensors", 1.0)),
    ],
)
def test_lora_option(text: str, expected: tuple[str, float]) -> None:
    assert read_lora_option(text) == expected


def test_a_file_whose_name_ends_like_a_scale_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a:1").touch()
    assert read_lora_option(str(tmp_path / "a:1")) == (str(tmp_path / "a:1"), 1.0)


@pytest.mark.parametrize("text", ["a.safetensors:much", "a.pt:"])
def test_a_scale_that_is_no_number(text: str) -> None:
    with pytest.raises(MaquetteError, match="is no number; give FILE or FILE:SCALE"):
        read_lora_option(text)


@pytest.mark.parametrize("text", ["sks", "=a.pt", "sks="])
def test_an_embedding_without_word_or_file(text: str) -> None:
    with pytest.raises(MaquetteError, match="give WORD=FILE"):
        read_embedding_option(text)
