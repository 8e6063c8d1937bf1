"""The safetensors format: a length, a JSON header, then the tensors' bytes.

The header's length is checked against the file's size before anything is parsed; the format's own library then judges
the header (types, shapes, no overlaps, no holes), and each tensor is mapped from the file when it is asked for.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.weights.atomic_file import replacing
from maquette.weights.mapped_file import MappedFile, bad_file, quoted
from maquette.weights.view import InFile, Weights

# Bounds on a header: published ones have some thousand tensors and some megabytes. The library buffers every JSON value
# in 32 bytes and more, and ends the process if there is no memory, so the signs between values are counted first.
MAX_HEADER = 16 << 20
MAX_SIGNS = 600_000

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}


class _Entry(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # from the start of the file


class SafetensorsFile(InFile):
    """One safetensors file, memory-mapped.

    Raises:
        MaquetteError: the file is damaged, cut short, or holds a type that torch has not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        start = 8 + _check_header(self._file)
        try:
            with safe_open(path, framework="np") as library:
                self._metadata: dict[str, str] = library.metadata() or {}
                self._entries = _entries(path, library, start)
        except SafetensorError as error:
            reason = str(error)
            if "IncompleteBuffer" in reason or "incomplete" in reason:
                reason = "its tensors do not fill the file, or reach beyond its end: it was cut short"
                raise bad_file(path, reason) from error
            raise bad_file(path, f"has a bad safetensors header: {quoted(reason)}") from error

    def __getitem__(self, name: str) -> Tensor:
        return self._file.tensor(*self._entries[name])


def _check_header(file: MappedFile) -> int:
    """The length of the header, if it lies in the file and costs no more than a real one."""
    if file.size < 8:
        raise bad_file(file.path, f"has {file.size} bytes, too few for a safetensors header")
    length: int = struct.unpack("<Q", file.read(0, 8))[0]
    if length > file.size - 8:
        raise bad_file(file.path, f"its header claims {length} bytes, the file has {file.size}: cut short or damaged")
    if length > MAX_HEADER:
        raise bad_file(file.path, f"its header has {length} bytes, more than {MAX_HEADER}", "use another file")
    header = file.read(8, length)
    if sum(header.count(sign) for sign in (b",", b":", b"[", b"{")) > MAX_SIGNS:
        raise bad_file(file.path, "its header has too many entries", "use another file")
    return length


def _entries(path: Path, library: Any, start: int) -> dict[str, _Entry]:
    """Where each tensor lies; the library has made sure that together they fill the file, in this order."""
    entries = {}
    for name in library.offset_keys():
        tensor = library.get_slice(name)
        code, shape = tensor.get_dtype(), tuple(tensor.get_shape())
        if code not in DTYPES:
            raise bad_file(path, f"tensor {quoted(name)} has the type {code}", "use a file in another precision")
        entries[name] = _Entry(DTYPES[code], shape, start)
        start += math.prod(shape) * DTYPES[code].itemsize
    return entries


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to `path`, one after another, so that it is either there whole or unchanged.

    A view is read tensor by tensor: memory holds one at a time. Metadata are text to text.

    Raises:
        MaquetteError: a tensor's type is foreign to the format, or the file cannot be written (disk full).
    """
    layout = {name: _dtype_and_shape(tensors, name) for name in tensors}
    for name, (dtype, _) in layout.items():
        if dtype not in _CODES:
            raise MaquetteError(f"{path}: tensor {name!r} has type {dtype}, which safetensors lacks; cast it first")
    # The widest types first, as the library does, so that every tensor stays aligned.
    order = sorted(layout, key=lambda name: (-layout[name][0].itemsize, name))
    with replacing(path) as file:
        file.write(_header(order, layout, metadata or {}))
        for name in order:
            _write_tensor(file, path, name, tensors[name], *layout[name])


def _dtype_and_shape(tensors: Mapping[str, Tensor], name: str) -> tuple[torch.dtype, tuple[int, ...]]:
    if isinstance(tensors, Weights):
        return tensors.dtype(name), tensors.shape(name)
    return tensors[name].dtype, tuple(tensors[name].shape)


def _header(
    order: list[str], layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    fields: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        dtype, shape = layout[name]
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        fields[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write_tensor(
    file: BinaryIO, path: Path, name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        raise MaquetteError(
            f"{path}: tensor {name!r} was announced as {dtype} {shape}, but is {tensor.dtype} {tuple(tensor.shape)}; "
            "mend the view that gives it"
        )
    if tensor.device.type == "meta":
        raise MaquetteError(f"{path}: tensor {name!r} has a shape but no data; load it before writing")
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    file.write(flat.view(torch.uint8).numpy().data)
