import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import maquette
from maquette.cli import main as command
from maquette.errors import MaquetteError
from maquette.workflows.picture import read_request


@pytest.fixture
def folder(tmp_path: Path, monkeypatch, model) -> Path:
    """An empty working folder, and a program that opens the model without weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: model)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_prints_the_path_of_a_picture_that_tells_its_settings(folder: Path, capsys) -> None:
    options = "--seed 7 --steps 3 --guidance 1.5 --sampler euler_a --schedule karras --size 24x16 --negative blue"
    assert command.run(["txt2img", "a red apple", *options.split(), "--out", "new/apple.png"]) == 0
    assert capsys.readouterr().out == "new/apple.png\n"
    assert files(folder) == ["new/apple.png"]
    wanted = {
        **{"prompt": "a red apple", "negative": "blue", "model": "gaussian", "seed": 7, "count": 1, "steps": 3},
        **{"guidance": 1.5, "sampler": "euler_a", "schedule": "karras", "width": 24, "height": 16},
    }
    told = read_request(folder / "new/apple.png").model_dump()
    assert {name: told[name] for name in wanted} == wanted


def test_several_pictures_go_to_new_names(folder: Path, capsys) -> None:
    for _ in range(2):
        assert command.run(["txt2img", "红苹果", "--seed", "7", "--count", "2"]) == 0
    names = ["红苹果-7-1.png", "红苹果-7-2.png", "红苹果-7-again-1-1.png", "红苹果-7-again-1-2.png"]
    assert capsys.readouterr().out.split() == [f"outputs/{name}" for name in names]
    assert files(folder) == sorted(f"outputs/{name}" for name in names)


def test_the_same_seed_gives_the_same_pixels(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        assert command.run(["txt2img", "", "--seed", "7", "--out", name]) == 0
    with Image.open("a.png") as a, Image.open("b.png") as b:
        assert a.tobytes() == b.tobytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line(unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "maquette", "--version"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("maquette: the output cannot be written (No space left on device); ")


BAD = [
    (["--steps", "0"], "steps must be at least 1, got 0"),
    (["--steps", "many"], "Invalid value for '--steps'"),
    (["--stepz", "3"], "No such option: --stepz"),
    (["--sampler", "eular"], "did you mean euler"),
    (["--schedule", "karas"], "did you mean karras?"),
    (["--size", "100x64"], "width must be a multiple of 8; the nearest is 96"),
    (["--size", "big"], "size 'big' is not WIDTHxHEIGHT"),
    (["--size", "80000x80000"], "must be at most 8192"),
    (["--count", "0"], "count must be at least 1"),
    (["--seed", "-1"], "seed must be at least 0"),
    (["--guidance", "nan"], "guidance must be a finite number"),
    (["--out", "x.jpg"], "give a name that ends in .png"),
    (["--out", "new\x1b[2J\nline/x.gif"], "give a name that ends in .png"),
    (["another word"], "unexpected extra argument"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[" ".join(options) for options, _ in BAD])
def test_a_mistake_is_one_line_and_leaves_no_file(options: list[str], message: str, folder: Path, capsys) -> None:
    assert command.run(["txt2img", "a red apple", *options]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("maquette: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert "\x1b" not in shown.err
    assert files(folder) == []


@pytest.mark.parametrize("arguments", [["paint"], ["txt2img"], ["train"], ["--bad"]])
def test_a_command_that_is_none_is_one_line(arguments: list[str], folder: Path, capsys) -> None:
    assert command.run(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("maquette: ")
    assert error.count("\n") == 1


def test_a_model_that_does_not_open_is_one_line(folder: Path, monkeypatch, capsys) -> None:
    def refuse(name: str, **how: object) -> None:
        raise MaquetteError(f"no model is called\n{name}")

    monkeypatch.setitem(vars(maquette), "open", refuse)
    assert command.run(["txt2img", "", "--model", "maxi"]) == 2
    assert capsys.readouterr().err == "maquette: no model is called maxi\n"
    monkeypatch.setenv("MAQUETTE_DEBUG", "1")
    assert command.run(["txt2img", ""]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_leaves_no_file(folder: Path, monkeypatch, capsys) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert command.run(["txt2img", "a red apple", "--out", "x.png"]) == 2
    assert "x.png: cannot be written (No space left on device)" in capsys.readouterr().err
    assert files(folder) == []


def test_device_and_precision_reach_the_model(folder: Path, monkeypatch, model) -> None:
    asked = []
    monkeypatch.setitem(vars(maquette), "open", lambda name, **how: (asked.append((name, how)), model)[1])
    assert command.run(["txt2img", "", "--model", "a/b", "--device", "cpu", "--dtype", "float32"]) == 0
    assert asked == [("a/b", {"device": "cpu", "dtype": "float32"})]


INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
import maquette
from maquette.cli.main import main
def wait(name, **how):
    print("opening", flush=True)
    while True:  # signal.pause could miss one that came just before it
        time.sleep(0.02)
vars(maquette)["open"] = wait
sys.argv = ["maquette", "txt2img", "a red apple", "--out", "x.png"]
main()
"""


def test_ctrl_c_ends_quietly(folder: Path) -> None:
    command_line = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "opening\n"
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, error) == (130, "", "")
    assert files(folder) == []


def test_no_arguments_is_help(capsys) -> None:
    assert command.run([]) == 0
    assert "txt2img" in capsys.readouterr().out


def test_version(capsys) -> None:
    assert command.run(["--version"]) == 0
    assert capsys.readouterr().out == f"maquette {maquette.__version__}\n"
