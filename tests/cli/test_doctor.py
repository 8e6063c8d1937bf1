from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maquette.cli import doctor
from maquette.cli.main import run


def test_says_what_the_machine_has(capsys) -> None:
    assert run(["doctor"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["torch"] == torch.__version__
    assert f"{torch.get_num_threads()} threads" in lines["processor"]
    assert "GiB free" in lines["memory"]
    assert "billion parameters in float32" in lines["room"]


def test_free_memory_is_a_part_of_all() -> None:
    total, free = doctor.memory()
    assert 0 < free <= total


@pytest.mark.parametrize(
    ("free", "verdict"),
    [
        (doctor.GIB + 8_000_000, "fits in float32, fits in bfloat16"),
        (doctor.GIB + 7_999_999, "does not fit in float32, fits in bfloat16"),
        (0, "does not fit in float32, does not fit in bfloat16"),
    ],
)
def test_says_which_model_fits(free: int, verdict: str, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "assets" / "tiny"
    for part, rows in (("unet", 1500), ("vae", 500)):
        (folder / part).mkdir(parents=True)
        save_file({"weight": torch.zeros(rows, 1000, dtype=torch.float16)}, folder / part / "model.safetensors")
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    [(name, text)] = doctor.models(free)
    assert name == "model tiny"
    assert text == f"2.0M parameters (unet 1.5M, vae 0.5M), 4.0 MB on disk; {verdict}"
