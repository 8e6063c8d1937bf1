from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import maquette
from maquette.cli import main as command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch, model) -> Path:
    """An empty working folder, and a program that opens the model without weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: model)
    return tmp_path


def test_a_picture_of_our_own_is_identical_and_the_exit_status_0(folder: Path, capsys) -> None:
    assert command.run(["txt2img", "a red apple", "--seed", "7", "--out", "x.png"]) == 0
    capsys.readouterr()
    assert command.run(["reproduce", "x.png", "--out", "new/y.png"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("identical: the latent is equal, all pixels are equal\n", "")
    with Image.open("x.png") as first, Image.open("new/y.png") as second:
        assert first.tobytes() == second.tobytes()


def test_a_picture_begun_with_one_that_had_no_path_is_given_it_again(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for colour in ("red", "blue"):
        Image.new("RGB", (32, 32), colour).save(f"{colour}.png")
    with Image.open("red.png") as red:
        maquette.open("mini").paint(prompt="a", image=red, strength=0.5, seed=7, steps=2).save("x.png")
    assert command.run(["reproduce", "x.png"]) == 2
    assert "give it again (reproduce --image, --mask)" in capsys.readouterr().err
    assert command.run(["reproduce", "x.png", "--image", "red.png"]) == 0
    assert capsys.readouterr().out.startswith("identical")
    assert command.run(["reproduce", "x.png", "--image", "blue.png"]) == 2
    assert "blue.png is another picture than the one that was used" in capsys.readouterr().err


def test_a_picture_of_another_program_is_compared_and_the_exit_status_1(folder: Path, capsys) -> None:
    info = PngInfo()
    info.add_text(
        "parameters", "a cat\nSteps: 3, Sampler: Restart, Seed: 7, Size: 32x16, Model: x, RNG: CPU, Tiling: True"
    )
    Image.new("RGB", (32, 16)).save("x.png", pnginfo=info)
    assert command.run(["reproduce", "x.png", "--model", "mini"]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("different: no hash of the latent is told, pixels differ by at most")
    assert shown.err.splitlines() == [
        "not taken over: Sampler 'Restart': this method is not here",
        "not taken over: Tiling 'True': there is no such setting here",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png"], "x.png carries no settings"),
        (["missing.png"], "there is no file missing.png"),
        (["x.png", "--out", "y.gif"], "x.png carries no settings"),
        ([], "Missing argument"),
    ],
)
def test_a_mistake_is_one_line_and_the_exit_status_2(arguments: list[str], message: str, folder: Path, capsys) -> None:
    Image.new("RGB", (8, 8)).save("x.png")
    assert command.run(["reproduce", *arguments]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert message in shown.err


def test_the_model_is_opened_as_it_was(folder: Path, model, monkeypatch) -> None:
    model.opened_with = {"vae": "other.safetensors", "dtype": "bfloat16", "text": ["a", "b"], "averaged": True}
    assert command.run(["txt2img", "a red apple", "--seed", "7", "--out", "x.png"]) == 0
    asked: list[dict] = []
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: (asked.append({"name": name, **how}), model)[1])
    assert command.run(["reproduce", "x.png", "--dtype", "float32"]) == 0
    assert command.run(["reproduce", "x.png", "--model", "mini"]) == 0
    told = {"vae": "other.safetensors", "text": ["a", "b"], "averaged": True}
    assert asked == [{"name": "gaussian", **told, "dtype": "float32"}, {"name": "mini", **told, "dtype": "bfloat16"}]


def test_a_strangers_picture_cannot_say_anything_else(folder: Path, model, monkeypatch) -> None:
    model.opened_with = {
        "vae": 5,
        "text": [1],
        "device": "cuda",
        "embedding": ["x=y"],
        "averaged": "yes",
        "stream": True,
    }
    assert command.run(["txt2img", "a red apple", "--seed", "7", "--out", "x.png"]) == 0
    asked: list[dict] = []
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: (asked.append(how), model)[1])
    assert command.run(["reproduce", "x.png"]) == 0
    assert asked == [{}]


def test_what_a_stranger_wrote_does_not_command_the_terminal(folder: Path, capsys) -> None:
    info = PngInfo()
    told = "Steps: 3, Sampler: Euler, Seed: 7, Size: 32x16, Model: x\x1b]0;a, Version: 1\x1b]0;owned\x07"
    info.add_text("parameters", f"a cat\n{told}, Tiling: \x1b[2J")
    Image.new("RGB", (32, 16)).save("x.png", pnginfo=info)
    assert command.run(["reproduce", "x.png", "--model", "mini"]) == 1
    shown = capsys.readouterr()
    assert "Tiling" in shown.err and not {"\x1b", "\x07"} & set(shown.out + shown.err)
