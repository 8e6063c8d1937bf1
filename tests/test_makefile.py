"""`make picture`: words reach the program as they were typed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")

WORDS = [
    "a cat, $HOME",
    "$(shell touch made) $$ ${PATH} $",
    'it\'s a "cat" `touch made` \\ # 100 %; ! *',
    "蓝色背景上的红苹果，￥",
    "two\nlines",
]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder that is set up, and whose program writes down what it was told."""
    shutil.copy(MAKEFILE, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    program = tmp_path / ".venv/bin/maquette"
    program.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > told\n')
    program.chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", ".venv/.runtime"):
        (tmp_path / name).touch()
    return tmp_path


def told(here: Path, *arguments: str, **environment: str) -> list[str]:
    surroundings = {"PATH": os.environ["PATH"], "HOME": "/home/x", **environment}
    subprocess.run(["make", "picture", *arguments], cwd=here, env=surroundings, check=True, capture_output=True)
    assert not (here / "made").exists()
    return (here / "told").read_text("utf-8").split("\0")[:-1]


@pytest.mark.parametrize("words", WORDS)
def test_words_reach_the_program_as_they_were_typed(here: Path, words: str) -> None:
    wanted = ["txt2img", words, "--seed", "8"]
    assert told(here, f"PROMPT={words}", "SEED=8") == wanted
    assert told(here, PROMPT=words, SEED="8") == wanted


def test_without_words_there_are_some(here: Path) -> None:
    assert told(here) == ["txt2img", "a red apple on a blue background", "--seed", "7"]
