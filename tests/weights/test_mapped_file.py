"""What a mapped file leaves in memory: nothing of tensors that are gone."""

import mmap
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maquette.weights.mapped_file import MappedFile

SMAPS = Path("/proc/self/smaps")
SIZE = 1 << 20
needs_smaps = pytest.mark.skipif(not SMAPS.exists(), reason="only Linux tells which pages are in memory")


@pytest.fixture
def file(tmp_path: Path) -> MappedFile:
    """Four tensors of a megabyte, which begin and end within pages."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * (4 * SIZE // 256) + b"end.")
    return MappedFile(path)


def resident(file: MappedFile) -> int:
    """Bytes of the file that this process has in memory."""
    sizes = re.findall(rf"{re.escape(str(file.path))}\n(?:.*\n)*?Rss: +(\d+) kB", SMAPS.read_text())
    return sum(map(int, sizes)) * 1024


def nth(file: MappedFile, index: int) -> Tensor:
    return file.tensor(torch.uint8, (SIZE,), index * SIZE + 4)


@needs_smaps
def test_pages_go_with_their_tensor(file: MappedFile) -> None:
    kept, gone = nth(file, 0), nth(file, 2)
    sums = int(kept.sum()), int(gone.sum())
    both = resident(file)
    copy = gone.clone()
    del gone
    assert resident(file) <= both - SIZE + 2 * mmap.PAGESIZE
    assert (int(kept.sum()), int(copy.sum())) == sums
    assert torch.equal(nth(file, 2), copy)


@needs_smaps
def test_a_part_of_a_tensor_keeps_its_pages(file: MappedFile) -> None:
    whole = nth(file, 1)
    part = whole[SIZE // 2 :]
    whole.sum()
    before = resident(file)
    del whole
    assert resident(file) == before
    assert int(part.sum()) == 255 * SIZE // 4


def test_what_was_written_into_a_neighbour_stays(file: MappedFile) -> None:
    left, middle, right = (nth(file, index) for index in range(3))
    left.fill_(7)
    right.fill_(9)
    middle.sum()
    del middle
    assert left.eq(7).all() and right.eq(9).all()
