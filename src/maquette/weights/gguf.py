"""The GGUF format (versions 2 and 3): metadata, a table of tensors, then their bytes, often quantised.

Every length and count is checked against what is left of the file before it is believed; a tensor is turned back into
numbers when it is asked for.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.weights.dequantise import QUANTS, Quant, dequantise
from maquette.weights.mapped_file import MappedFile, bad_file, quoted
from maquette.weights.view import InFile

MAX_HEADER = 64 << 20
MAX_ITEMS = 400_000  # metadata, tensors and words of word lists together
MAX_NAME = 1000
MAX_TEXT = 64 << 10
MAX_LIST = 64  # longer lists (vocabularies) are skipped
MAX_DIMENSIONS = 8

_PLAIN: Mapping[int, torch.dtype] = {
    0: torch.float32,
    1: torch.float16,
    24: torch.int8,
    25: torch.int16,
    26: torch.int32,
    27: torch.int64,
    28: torch.float64,
    30: torch.bfloat16,
}
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT, _LIST = 8, 9
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # written where a tensor had to be reshaped to fit the blocks

Value = int | float | bool | str | list[int | float | bool | str] | None  # None: skipped


class _Entry(NamedTuple):
    kind: torch.dtype | Quant
    shape: tuple[int, ...]
    offset: int
    size: int


class GGUFFile(InFile):
    """One GGUF file, memory-mapped; quantised tensors are given as float32.

    Raises:
        MaquetteError: the file is damaged, or its quantisation is not one of `dequantise.QUANTS`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        header = _Header(path, self._file.head(MAX_HEADER))
        tensor_count, value_count = header.start()
        values = {header.name(): header.value() for _ in header.count(value_count)}
        self._metadata = {key: str(value) for key, value in values.items() if isinstance(value, str | int | float)}
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 16 or alignment & (alignment - 1):
            raise bad_file(path, "has an alignment that is no power of two")
        self._entries: dict[str, _Entry] = {}
        for _ in header.count(tensor_count):
            name, entry = header.entry()
            if name in self._entries:
                raise bad_file(path, f"holds two tensors named {quoted(name)}")
            self._entries[name] = entry
        self._place(-(-header.position // alignment) * alignment)
        self._reshape(values)

    def _place(self, start: int) -> None:
        """Turn the entries' offsets into places in the file, once it is sure that they fit and do not overlap."""
        placed = sorted((entry.offset, entry.offset + entry.size, name) for name, entry in self._entries.items())
        for (_, end, name), (begin, _, _) in pairwise([*placed, (self._file.size - start, 0, "")]):
            if end > begin:
                raise bad_file(self.path, f"tensor {quoted(name)} reaches into the next one or beyond the end")
        self._entries = {name: entry._replace(offset=start + entry.offset) for name, entry in self._entries.items()}

    def _reshape(self, values: Mapping[str, Value]) -> None:
        for key, value in values.items():
            name = key.removeprefix(_ORIGINAL_SHAPE)
            if name == key or name not in self._entries or not isinstance(value, list):
                continue
            shape = tuple(size for size in value if isinstance(size, int) and size > 0)
            if len(shape) != len(value) or math.prod(shape) != math.prod(self._entries[name].shape):
                raise bad_file(self.path, f"tensor {quoted(name)} has an original shape of another size")
            self._entries[name] = self._entries[name]._replace(shape=shape)

    def __getitem__(self, name: str) -> Tensor:
        kind, shape, offset, size = self._entries[name]
        if isinstance(kind, Quant):
            return dequantise(kind, self._file.elements(torch.uint8, size, offset)).reshape(shape)
        return self._file.tensor(kind, shape, offset)

    def dtype(self, name: str) -> torch.dtype:
        kind = self._entries[name].kind
        return torch.float32 if isinstance(kind, Quant) else kind

    def encoding(self, name: str) -> str:
        kind = self._entries[name].kind
        return kind.name if isinstance(kind, Quant) else super().encoding(name)


class _Header:
    """Reads the header's values one after another; `position` is where the next one starts."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.position = 0
        self._data = data
        self._items = 0

    def start(self) -> tuple[int, int]:
        """The numbers of tensors and of metadata, after magic and version."""
        if self._take(4) != b"GGUF":
            raise bad_file(self.path, "does not start as a GGUF file")
        version = self._number("<I")
        if version not in (2, 3):
            reason = "is big-endian" if version in (2 << 24, 3 << 24) else f"is GGUF version {version}"
            raise bad_file(self.path, f"{reason}; versions 2 and 3, little-endian, can be read", "convert it")
        return self._number("<Q"), self._number("<Q")

    def count(self, number: int, size: int = 1) -> range:
        """A range over `number` items of at least `size` bytes, if so many can still come."""
        self._items += number
        if number * size > len(self._data) - self.position or self._items > MAX_ITEMS:
            raise self._cut_short(f"claims {number} items")
        return range(number)

    def name(self) -> str:
        length = self._number("<Q")
        if length > MAX_NAME:
            raise self._cut_short(f"has a name of {length} bytes")
        return self._take(length).decode("utf-8", "replace")

    def value(self) -> Value:
        kind = self._number("<I")
        if kind == _TEXT:
            return self._text()
        if kind == _LIST:
            return self._list()
        return self._scalar(kind)

    def entry(self) -> tuple[str, _Entry]:
        """A tensor's name, type and shape, and its place counted from the start of the tensors' data."""
        name = self.name()
        rank = self._number("<I")
        if rank > MAX_DIMENSIONS:
            raise bad_file(self.path, f"tensor {quoted(name)} has {rank} dimensions")
        sizes = [self._number("<Q") for _ in range(rank)]  # the row's length first
        code, offset = self._number("<I"), self._number("<Q")
        kind: torch.dtype | Quant
        if code in _PLAIN:
            kind, elements, width = _PLAIN[code], 1, _PLAIN[code].itemsize
        elif code in QUANTS:
            kind, elements, width = QUANTS[code], QUANTS[code].elements, QUANTS[code].size
        else:
            known = ", ".join(quant.name for quant in QUANTS.values())
            raise bad_file(self.path, f"tensor {quoted(name)} has ggml type {code}", f"use F32, F16, BF16 or {known}")
        if (elements > 1 and (not sizes or sizes[0] % elements)) or 0 in sizes:
            raise bad_file(self.path, f"tensor {quoted(name)} has rows that are no whole blocks")
        return name, _Entry(kind, tuple(reversed(sizes)), offset, math.prod(sizes) // elements * width)

    def _text(self) -> str | None:
        length = self._number("<Q")
        text = self._take(length)
        return text.decode("utf-8", "replace") if length <= MAX_TEXT else None

    def _list(self) -> Value:
        kind, number = self._number("<I"), self._number("<Q")
        if kind == _TEXT:
            words = [self._text() for _ in self.count(number, 8)]
            return [word for word in words if word is not None] if number <= MAX_LIST else None
        if kind not in _FORMATS:
            raise bad_file(self.path, f"has a list of the unknown type {kind}")
        if number <= MAX_LIST:
            return [self._scalar(kind) for _ in range(number)]
        self._skip(number * struct.calcsize(_FORMATS[kind]))
        return None

    def _scalar(self, kind: int) -> int | float | bool:
        if kind not in _FORMATS:
            raise bad_file(self.path, f"has metadata of the unknown type {kind}")
        scalar: int | float | bool = struct.unpack(_FORMATS[kind], self._take(struct.calcsize(_FORMATS[kind])))[0]
        return scalar

    def _number(self, layout: str) -> int:
        number: int = struct.unpack(layout, self._take(struct.calcsize(layout)))[0]
        return number

    def _skip(self, length: int) -> int:
        """Move on by `length` bytes and return where they start."""
        start = self.position
        if length > len(self._data) - start:
            raise self._cut_short(f"claims {length} bytes where {len(self._data) - start} are left")
        self.position = start + length
        return start

    def _take(self, length: int) -> bytes:
        start = self._skip(length)
        return self._data[start : self.position]

    def _cut_short(self, reason: str) -> MaquetteError:
        return bad_file(self.path, f"{reason}: its GGUF header is cut short or damaged")
