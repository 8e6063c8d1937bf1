"""Our safetensors reader and writer against the format's own library."""

import errno
import json
import os
import re
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.weights import mapped_file
from maquette.weights.safetensors_file import DTYPES, SafetensorsFile, write_safetensors
from maquette.weights.view import InMemory

TENSORS = {
    "matrix": torch.randn(5, 7),
    "number": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "half": torch.randn(3).half(),
    "ünïcode \n": torch.arange(9).reshape(3, 3),
    "transposed": torch.randn(4, 6).t(),
    "slice": torch.randn(10)[3:7],
    "flags": torch.tensor([True, False, True]),
}
METADATA = {"format": "pt", "note": "é"}


def same(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(bits(left), bits(right))


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({name: t.contiguous() for name, t in TENSORS.items()}, path, METADATA)
    view = SafetensorsFile(path)
    assert set(view) == set(TENSORS) and len(view) == len(TENSORS)
    assert all(same(view[name], tensor) for name, tensor in TENSORS.items())
    assert all((view.shape(name), view.dtype(name)) == (t.shape, t.dtype) for name, t in TENSORS.items())
    assert view.metadata == METADATA
    assert view.source("matrix") == path


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, TENSORS, METADATA)
    read = safetensors.torch.load_file(path)
    assert set(read) == set(TENSORS)
    assert all(same(read[name], tensor) for name, tensor in TENSORS.items())
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == METADATA


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_type_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    raw = torch.arange(64, dtype=torch.uint8) % (2 if dtype == torch.bool else 64)
    tensor = raw.view(dtype)
    write_safetensors(tmp_path / "a", {"x": tensor})
    assert same(SafetensorsFile(tmp_path / "a")["x"], tensor)
    assert same(safetensors.torch.load_file(tmp_path / "a")["x"], tensor)


def test_the_same_tensors_make_the_same_file(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", TENSORS, METADATA)
    write_safetensors(tmp_path / "b", dict(reversed(TENSORS.items())), METADATA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tensors_that_are_not_aligned_are_read(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    header += b" " * (-(8 + len(header)) % 4 + 1)
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<3f", 1, 2, 3))
    assert SafetensorsFile(tmp_path / "a")["x"].tolist() == [1, 2, 3]


def test_tensors_across_the_edges_of_mappings_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_file, "WINDOW", 1 << 16)
    tensors = {str(n): torch.randn(5000 + 3000 * n) for n in range(8)}
    write_safetensors(tmp_path / "a", tensors)
    view = SafetensorsFile(tmp_path / "a")
    read = {name: view[name] for name in view}
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_writing_into_a_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", {"x": torch.ones(4)})
    SafetensorsFile(tmp_path / "a")["x"].zero_()
    assert SafetensorsFile(tmp_path / "a")["x"].tolist() == [1, 1, 1, 1]


def test_the_header_of_a_huge_file_is_read_without_its_data(tmp_path: Path) -> None:
    count, size = 700, 10_000_000
    fields = {
        f"{n}.weight": {"dtype": "F16", "shape": [5000, 1000], "data_offsets": [n * size, (n + 1) * size]}
        for n in range(count)
    }
    header = json.dumps(fields).encode()
    header += b" " * (-len(header) % 8)
    with (tmp_path / "big").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + count * size)  # a hole: 7 GB that take no room
    view = SafetensorsFile(tmp_path / "big")
    assert len(view) == count
    assert not view["699.weight"][-1].any()
    assert int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") < 6e9


class Failing(InMemory):
    def __getitem__(self, name: str) -> Tensor:
        if name == "a":
            raise MaquetteError("the second tensor is bad")
        return super().__getitem__(name)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"old": torch.ones(2)})
    with pytest.raises(MaquetteError, match="second tensor"):
        write_safetensors(path, Failing({"big": torch.ones(2, dtype=torch.float64), "a": torch.ones(2)}))
    assert os.listdir(tmp_path) == ["a.safetensors"]  # noqa: PTH208
    assert list(SafetensorsFile(path)) == ["old"]


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        MaquetteError, match=re.escape(f"{tmp_path / 'a'}: cannot be written (No space left on device)")
    ):
        write_safetensors(tmp_path / "a", TENSORS)
    assert not list(tmp_path.iterdir())


def test_a_file_too_large_for_the_limit_is_an_error(tmp_path: Path) -> None:
    import resource
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        with pytest.raises(MaquetteError, match="cannot be written"):
            write_safetensors(tmp_path / "a", {"x": torch.zeros(1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match="No such file"):
        write_safetensors(tmp_path / "nowhere" / "a", TENSORS)


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (torch.zeros(2, device="meta"), "has a shape but no data"),
        (torch.zeros(2, dtype=torch.complex128), "which safetensors lacks"),
    ],
)
def test_tensors_that_cannot_be_written_are_named(tmp_path: Path, tensor: Tensor, problem: str) -> None:
    with pytest.raises(MaquetteError, match=f"tensor 'x' .*{problem}"):
        write_safetensors(tmp_path / "a", {"x": tensor})
    assert not list(tmp_path.iterdir())
