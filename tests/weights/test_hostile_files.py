"""A thousand damaged and hostile files: each gives one clear error, runs nothing, and costs little."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
MEGABYTES, SECONDS = 200, 2.0


def run(script: str, *arguments: object) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    run("hostile_files.py", folder, folder / "canary")
    return folder


def reports(folder: Path) -> list[dict[str, Any]]:
    return json.loads(run("open_files.py", folder, MEGABYTES))


def test_each_hostile_file_is_refused_with_its_name_and_a_reason(folder: Path) -> None:
    found = reports(folder / "refuse")
    assert len(found) >= 500
    wrong = [
        report
        for report in found
        if report["kind"] != "MaquetteError"
        or not report["message"].startswith(report["path"] + ": ")
        or not 10 < len(report["message"]) - len(report["path"]) < 400
        or not report["message"].isprintable()
    ]
    assert not wrong
    assert not [report for report in found if report["seconds"] > SECONDS]
    assert not (folder / "canary").exists()


def test_damaged_files_are_read_or_refused_and_nothing_else(folder: Path) -> None:
    found = reports(folder / "survive")
    kinds = [report["kind"] for report in found]
    assert set(kinds) == {"fine", "MaquetteError"}, [r for r in found if r["kind"] not in ("fine", "MaquetteError")]
    assert not [report for report in found if report["seconds"] > SECONDS]


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Python's own unpickler runs each of them: were it used anywhere, the test above would see the canary."""
    canary = tmp_path / "canary"
    script = (
        "import json, os, pickle, sys; sys.path.insert(0, sys.argv[1]); canary = sys.argv[2]\n"
        "from hostile_pickles import live_attacks\n"
        "silent = []\n"
        "for name, data in live_attacks(canary).items():\n"
        "    try: pickle.loads(data)\n"
        "    except Exception: pass\n"
        "    silent += [] if os.path.lexists(canary) else [name]\n"
        "    if os.path.lexists(canary): os.remove(canary)\n"
        "print(json.dumps([len(live_attacks(canary)), silent]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(FOLDER), str(canary)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    count, silent = json.loads(done.stdout.splitlines()[-1])
    assert count >= 60
    assert silent == []
