"""A folder is trained in by one at a time, and let go of by whoever dies."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import silent, write_recipe

from maquette.cli.main import run as command
from maquette.errors import MaquetteError
from maquette.training.lock import locked
from maquette.training.run import Run, train

HOLD = """
import sys
from pathlib import Path
from maquette.training.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_in_a_folder_is_refused_in_a_line(tmp_path: Path, capsys) -> None:
    recipe, folder = write_recipe(tmp_path / "tiny.toml"), tmp_path / "run"
    with locked(folder):
        assert command(["train", str(recipe), "--out", str(folder), "--resume"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "another training runs in this folder; wait for it" in told
    assert not (folder / "recipe.toml").exists()


def test_another_process_holds_it_until_it_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(MaquetteError, match="another training runs"), locked(tmp_path):
            pass
        other.kill()
        other.wait()
        with locked(tmp_path):
            pass


def test_after_an_error_the_folder_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(tmp_path / "tiny.toml")
    monkeypatch.setattr(Run, "train_clip", lambda run: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            train(recipe, folder=tmp_path / "run", stage="clip", resume=True, console=silent())
