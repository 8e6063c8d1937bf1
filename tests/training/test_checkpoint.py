"""Checkpoints come back as they were, and nothing that is damaged or half-written is taken for one."""

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maquette.errors import MaquetteError
from maquette.training.checkpoint import Checkpoint, newest, read, save


def made(step: int, size: int = 10) -> Checkpoint:
    tensors = {"a.b": torch.arange(size) + float(step), "scalar": torch.tensor(0.5), "half": torch.ones(3).half()}
    return Checkpoint(step, tensors, {"task": "test"})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files(*steps: int) -> list[str]:
    return [f"step-{step:08d}.{ending}" for step in steps for ending in ("json", "safetensors")]


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    save(tmp_path / "new", made(7))
    found, complaints = newest(tmp_path / "new")
    assert found is not None and complaints == []
    assert (found.step, found.record) == (7, {"task": "test"})
    expected = made(7).tensors
    assert found.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found.tensors[name], tensor) and found.tensors[name].dtype == tensor.dtype


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 30, 200):
        save(tmp_path, made(step))
    assert names(tmp_path) == files(30, 200)
    found, _ = newest(tmp_path)
    assert found is not None and found.step == 200


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "nothing") == (None, [])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(content)


def replace(text: str) -> Callable[[Path], None]:
    return lambda path: path.with_suffix(".json").write_text(text) and None


DAMAGES: dict[str, Callable[[Path], None]] = {
    "weights cut short": cut,
    "a bit flipped": flip,
    "weights missing": Path.unlink,
    "weights empty": lambda path: path.write_bytes(b"") and None,
    "record cut short": lambda path: cut(path.with_suffix(".json")),
    "record empty": replace(""),
    "record of another kind": replace("[1, 2]"),
    "record without digest": replace('{"step": 9}'),
    "record with a wrong digest": replace('{"step": 9, "digest": "00", "record": {}}'),
    "record with no text": lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe\x00") and None,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_behind_a_damaged_one_is_the_one_before(damage: Callable[[Path], None], tmp_path: Path) -> None:
    for step in (4, 9):
        save(tmp_path, made(step))
    damage(tmp_path / "step-00000009.safetensors")
    found, complaints = newest(tmp_path)
    assert found is not None and found.step == 4
    assert len(complaints) == 1 and "step-00000009" in complaints[0]
    with pytest.raises(MaquetteError, match="step-00000009"):
        read(tmp_path / "step-00000009.json")


def test_if_all_are_damaged_each_is_told(tmp_path: Path) -> None:
    for step in (4, 9):
        save(tmp_path, made(step))
        flip(tmp_path / f"step-{step:08d}.safetensors")
    found, complaints = newest(tmp_path)
    assert found is None and len(complaints) == 2


def test_saving_drops_damaged_ones_ahead_and_keeps_the_sound_one_behind(tmp_path: Path) -> None:
    for step in (4, 9):
        save(tmp_path, made(step))
    cut(tmp_path / "step-00000009.safetensors")
    save(tmp_path, made(6))
    assert names(tmp_path) == files(4, 6)


def test_saving_sweeps_away_weights_without_a_record(tmp_path: Path) -> None:
    save(tmp_path, made(4))
    (tmp_path / "step-00000005.safetensors").write_bytes(b"left by a kill between two files")
    assert newest(tmp_path)[0].step == 4
    save(tmp_path, made(6))
    assert names(tmp_path) == files(4, 6)


def test_a_disk_that_fills_up_leaves_what_was_there(tmp_path: Path) -> None:
    save(tmp_path, made(4))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(MaquetteError, match=r"step-00000009\.safetensors: cannot be written"):
            save(tmp_path, made(9, size=1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == files(4)


@pytest.mark.parametrize("write", [1, 2], ids=["weights", "record"])
def test_a_disk_that_is_full_at_either_file_is_told(
    write: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, made(4))
    fsync, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2 * write - 1:  # each file is flushed, then its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MaquetteError, match="No space left on device"):
        save(tmp_path, made(9))
    monkeypatch.undo()
    found, complaints = newest(tmp_path)
    assert found is not None and found.step == 4 and complaints == []
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
    save(tmp_path, made(10))
    assert names(tmp_path) == files(4, 10)
