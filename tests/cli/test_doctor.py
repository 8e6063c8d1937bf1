from pathlib import Path

import torch
from safetensors.torch import save_file

from maquette.cli import doctor
from maquette.cli.main import run
from maquette.engine import open


def test_says_what_the_machine_has(capsys) -> None:
    assert run(["doctor"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["torch"] == torch.__version__
    assert f"{torch.get_num_threads()} threads" in lines["cpu"]
    assert "GiB of memory" in lines["cpu"]
    assert "billion parameters in float32" in lines["room"]


def test_free_memory_is_a_part_of_all() -> None:
    for place in doctor.places():
        assert 0 < place.free <= place.total


def place(free: int) -> doctor.Place:
    return doctor.Place("cpu", "", 2 * free, free)


def test_says_which_model_fits(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "tiny"
    for part, rows in (("unet", 1500), ("vae", 500)):
        (folder / part).mkdir(parents=True)
        save_file({"weight": torch.zeros(rows, 1000, dtype=torch.float16)}, folder / part / "model.safetensors")
    (folder / "model_index.json").write_text("{}")
    monkeypatch.setattr(open, "ASSETS", tmp_path)
    four_bytes_each = doctor.GIB + 8_000_000
    assert list(doctor.models([place(four_bytes_each), place(four_bytes_each - 1), place(0)])) == [
        ("model", "tiny: 2.0M parameters (unet 1.5M, vae 0.5M), 4.0 MB on disk"),
        ("", "fits in float32, bfloat16 or float16 on cpu"),
        ("", "fits in bfloat16 or float16 on cpu"),
        ("", "does not fit on cpu"),
    ]


def test_room_is_what_is_left_after_the_working_memory() -> None:
    text = doctor.room(place(doctor.GIB + 4_000_000_000))
    assert text == "1.0 billion parameters in float32, 2.0 billion parameters in bfloat16 or float16"
    assert doctor.room(place(0)).startswith("0.0 billion")
