"""Checkpoints of torch.save (.ckpt, .pt, .pth, .bin), read without running the program that they contain.

A file is a zip archive (torch 1.6 and later) or a row of pickles (before): a pickle that describes the tensors, and
the storages as raw bytes. The pickle goes through our own reader (`pickle_reader`), the storages are mapped when a
tensor is asked for. Whatever is not a tensor (loggers, callbacks, optimizers of classes that nobody has) is inert.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from maquette.weights.mapped_file import MappedFile, bad_file, quoted
from maquette.weights.pickle_names import Inert
from maquette.weights.pickle_reader import MAX_LENGTH, MAX_OPERATIONS, PickleReader
from maquette.weights.stored_zip import Entry, read_entries
from maquette.weights.torch_names import NAMES, StorageRef, TensorRef, persistent
from maquette.weights.view import InFile

MAX_LOOKS = 400_000
MAX_NESTING = 16
MAX_NAME = 1000
MAX_SHARING = 4  # tied weights are two or three names on one storage

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class _Located(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int  # in bytes, from the start of the file
    span: int  # how many elements of the storage, from there, the tensor reaches over


class Checkpoint(InFile):
    """The tensors of a file written by torch.save, memory-mapped.

    Tensors inside nested dictionaries have dotted names; if there is a `state_dict`, its tensors are all there is.
    Numbers and texts beside it are the metadata (`global_step`, `name`).

    Raises:
        MaquetteError: the file is damaged or dangerous, or holds no tensors that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        zipped = self._file.read(0, min(2, self._file.size)) == b"PK"
        root, storages = _read_zip(self._file) if zipped else _read_legacy(self._file)
        self._metadata = _scalars(root)
        self._entries = {
            name: _locate(path, name, tensor, storages) for name, tensor in _named_tensors(path, root).items()
        }
        _check_sharing(self._file, self._entries)

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        flat = self._file.elements(entry.dtype, entry.span, entry.offset)
        return flat.as_strided(entry.shape, entry.stride)


def _read_zip(file: MappedFile) -> tuple[object, Mapping[str, Entry]]:
    """The described object, and the storages by key."""
    entries = read_entries(file)
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise bad_file(file.path, "is a zip archive, but none that torch.save wrote", "give the weights inside it")
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "constants.pkl" in entries or any(name.startswith(folder + "code/") for name in entries):
        raise bad_file(file.path, "is a TorchScript program, not a checkpoint", "give the weights it was made from")
    order = entries.get(folder + "byteorder")
    if order is not None and file.read(order.offset, min(order.size, 6)) != b"little":
        raise bad_file(file.path, "was written on a big-endian machine", "convert it to safetensors there")
    offset, size = entries[pickles[0]]
    if size > MAX_LENGTH:
        raise bad_file(file.path, f"its pickle has {size} bytes, more than any checkpoint's", "use another file")
    root = PickleReader(file.path, file.read(offset, size), NAMES, persistent).read()
    prefix = folder + "data/"
    return root, {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}


def _read_legacy(file: MappedFile) -> tuple[object, Mapping[str, Entry]]:
    """The same of a file older than torch 1.6: magic, version, system, object, storage keys, then the storages."""
    head = file.head(MAX_LENGTH)
    sizes: dict[str, StorageRef] = {}

    def remember(identity: tuple[object, ...]) -> object:
        named = persistent(identity)
        if isinstance(named, StorageRef):
            sizes.setdefault(named.key, named)
        return named

    position, parts = 0, []
    for limit in (100, 100, 1000, MAX_OPERATIONS, MAX_OPERATIONS // 4):
        reader = PickleReader(file.path, head, NAMES, remember, position, limit)
        parts.append(reader.read())
        position = reader.position
    magic, _, system, root, keys = parts
    if magic != _LEGACY_MAGIC or not isinstance(keys, list):
        raise bad_file(file.path, "is a pickle, but none that torch.save wrote", "ask for a safetensors file")
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise bad_file(file.path, "was written on a big-endian machine", "convert it to safetensors there")
    storages = {}
    for key in keys:
        if not isinstance(key, str) or key not in sizes or key in storages:
            raise bad_file(file.path, "its list of storages does not fit its tensors")
        # Eight bytes with the number of elements, then the elements.
        size = sizes[key].size
        if position + 8 + size > file.size:
            raise bad_file(file.path, "its tensors reach beyond its end: it was cut short")
        if int.from_bytes(file.read(position, 8), "little") * sizes[key].kind.itemsize != size:
            raise bad_file(file.path, f"storage {quoted(key)} has two sizes")
        storages[key] = Entry(position + 8, size)
        position += 8 + size
    return root, storages


def _scalars(root: object) -> dict[str, str]:
    """The numbers and texts on the first floor of a checkpoint."""
    if not isinstance(root, dict):
        return {}
    plain = {key: value for key, value in root.items() if isinstance(value, str | int | float)}
    return {key: str(value) for key, value in plain.items() if isinstance(key, str)}


def _named_tensors(path: Path, root: object) -> dict[str, TensorRef]:
    """The tensors of the innermost `state_dict`, or of all dictionaries if there is none, by dotted name."""
    for _ in range(MAX_NESTING):
        if isinstance(root, dict) and isinstance(root.get("state_dict"), dict | Inert):
            root = root["state_dict"]
    tensors: dict[str, TensorRef] = {}
    waiting: list[tuple[str, object, int]] = [("", root, 0)]
    looks = 0
    while waiting:
        name, value, depth = waiting.pop()
        looks += 1 + sum(map(len, _tables(value)))
        if looks > MAX_LOOKS:
            raise bad_file(path, "its tables of tensors have no end", "do not trust it; ask for a safetensors file")
        if len(name) > MAX_NAME:
            raise bad_file(path, f"has a name of {len(name)} characters", "use another file")
        if isinstance(value, TensorRef):
            if name in tensors:
                raise bad_file(path, f"holds two tensors named {quoted(name)}", "use another file")
            tensors[name] = value
        elif isinstance(value, Inert) and value.kind.startswith("torch._utils._rebuild"):
            raise bad_file(path, f"tensor {quoted(name)} is sparse or quantised", "ask for plain tensors")
        elif depth < MAX_NESTING:
            # The last one is looked at first, so that the names keep the file's order.
            members = reversed(_members(value).items())
            waiting.extend((f"{name}.{key}" if name else str(key), item, depth + 1) for key, item in members)
    if not tensors:
        what = f"a pickled {quoted(root.kind)}" if isinstance(root, Inert) else "no tensors"
        raise bad_file(path, f"holds {what}", "save a state_dict, best as safetensors")
    return tensors


def _members(value: object) -> dict[str | int, object]:
    """What a dictionary holds under names, or a pickled torch module as its parameters, buffers and modules."""
    return {key: item for table in _tables(value) for key, item in table.items() if isinstance(key, str | int)}


def _tables(value: object) -> list[dict[object, object]]:
    """A dictionary, or those of a pickled torch module."""
    if isinstance(value, Inert) and value.state is not None:
        parts = [value.state.get(part) for part in ("_parameters", "_buffers", "_modules")]
        return [part for part in parts if isinstance(part, dict)]
    return [value] if isinstance(value, dict) else []


def _locate(path: Path, name: str, tensor: TensorRef, storages: Mapping[str, Entry]) -> _Located:
    """Where the tensor lies in the file, once it is sure that it lies within its storage."""
    storage, shape, stride = tensor.storage, tensor.shape, tensor.stride
    entry = storages.get(storage.key)
    if entry is None or entry.size < storage.size:
        raise bad_file(path, f"the storage of tensor {quoted(name)} is missing or cut short")
    count = math.prod(shape)
    span = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if count else 0
    if max(tensor.offset + span, count) * tensor.dtype.itemsize > storage.size:
        raise bad_file(path, f"tensor {quoted(name)} reaches beyond its storage")
    return _Located(tensor.dtype, shape, stride, entry.offset + tensor.offset * tensor.dtype.itemsize, span)


def _check_sharing(file: MappedFile, tensors: Mapping[str, _Located]) -> None:
    """Refuse a small file that claims to be a large model by naming one storage many times."""
    claimed = sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in tensors.values())
    if claimed > MAX_SHARING * file.size:
        raise bad_file(file.path, f"claims {claimed} bytes of tensors but has {file.size}", "use another file")
