"""A file's byte ranges as tensors: memory-mapped, copied on write, never beyond the end of the file.

A tensor that is gone leaves no pages behind: a model whose tensors are copied one by one, to another type or layout,
never takes much more memory than the copies.
"""

import math
import mmap
import os
import stat
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from maquette.errors import MaquetteError

# Tensors share mappings of this size: one mapping per tensor would spend a file descriptor on each, and one mapping of
# the whole file is refused by the kernel when the file is larger than the memory (private mappings are accounted for).
WINDOW = 256 << 20
# Advice that a range's pages may go (where the system knows it); read again, they come back from the file.
_FORGET: int | None = getattr(mmap, "MADV_DONTNEED", None)


def bad_file(path: Path, reason: str, remedy: str = "download it again") -> MaquetteError:
    """The error for a file that cannot be read: which file, why, and what to do."""
    return MaquetteError(f"{path}: {reason}; {remedy}")


def quoted(text: object) -> str:
    """Text from a stranger's file, made fit for a one-line message: escaped, and cut at 100 characters."""
    shown = text if isinstance(text, str) else type(text).__name__
    return repr(shown if len(shown) <= 100 else shown[:100] + "...")


class MappedFile:
    """A regular file opened for reading.

    Tensors are private: writing into one changes neither the file nor another process. Two reads of one range share
    memory, though, so whoever writes in place must not read that range again.

    Raises:
        MaquetteError: the path is missing, unreadable, or no regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a named pipe must not block
        try:
            self._descriptor = os.open(path, flags)
        except OSError as error:
            raise bad_file(path, f"cannot be opened ({error.strerror})", "check the path") from error
        except ValueError as error:  # a NUL in the name
            raise MaquetteError(f"{quoted(str(path))}: is not a path ({error}); check the path") from error
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise bad_file(path, "is not a regular file", "give the path of a weights file")
        self.size = status.st_size
        self._windows: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, copied."""
        self._check(offset, length)
        if length == 0:
            return b""
        mapping, start = self._map(offset, offset + length)
        return mapping[start : start + length]

    def head(self, limit: int) -> mmap.mmap:
        """The start of the file, at most `limit` bytes of it, as a mapping whose slices are bytes."""
        if self.size == 0:
            raise bad_file(self.path, "is empty")
        return self._new_map(0, min(self.size, limit))

    def tensor(self, dtype: torch.dtype, shape: Sequence[int], offset: int) -> Tensor:
        """The tensor of `shape`, row-major, that lies at byte `offset`."""
        count = math.prod(shape)
        return self.elements(dtype, count, offset).reshape(tuple(shape))

    def elements(self, dtype: torch.dtype, count: int, offset: int) -> Tensor:
        """`count` elements from byte `offset` on, as a (count,) tensor: mapped, or copied if they are not aligned."""
        length = count * dtype.itemsize
        self._check(offset, length)
        if count == 0:
            return torch.empty(0, dtype=dtype)
        if offset % dtype.itemsize:
            mapping, start = self._own_map(offset, offset + length)  # gone after the copy, so that memory holds one
            return torch.frombuffer(mapping, dtype=torch.uint8, count=length, offset=start).clone().view(dtype)
        mapping, start = self._map(offset, offset + length)
        memory = memoryview(mapping)[start : start + length]
        if _FORGET is not None:
            weakref.finalize(memory, _forget, mapping, start, start + length, _FORGET).atexit = False
        return torch.frombuffer(memory, dtype=dtype, count=count)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise bad_file(self.path, f"bytes {offset} to {offset + length} were wanted of {self.size}")

    def _map(self, start: int, stop: int) -> tuple[mmap.mmap, int]:
        """A mapping that holds bytes `start` to `stop`, and where `start` lies in it."""
        index = start // WINDOW
        if (stop - 1) // WINDOW != index:
            return self._own_map(start, stop)
        base = index * WINDOW
        window = self._windows.get(index)
        if window is None:
            window = self._new_map(base, min(WINDOW, self.size - base))
            self._windows[index] = window
        return window, start - base

    def _own_map(self, start: int, stop: int) -> tuple[mmap.mmap, int]:
        """A mapping that nobody shares, and where `start` lies in it."""
        base = start - start % mmap.ALLOCATIONGRANULARITY
        return self._new_map(base, stop - base), start - base

    def _new_map(self, offset: int, length: int) -> mmap.mmap:
        try:
            return mmap.mmap(self._descriptor, length, access=mmap.ACCESS_COPY, offset=offset)
        except (OSError, ValueError) as error:  # ValueError: the file has shrunk since it was opened
            raise bad_file(self.path, f"cannot be mapped into memory ({error})", "try again") from error


def _forget(mapping: mmap.mmap, start: int, stop: int, advice: int) -> None:
    """Take the pages that lie wholly between `start` and `stop` out of memory."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = stop - stop % mmap.PAGESIZE - first
    if length > 0:
        mapping.madvise(advice, first, length)
