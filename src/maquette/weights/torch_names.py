"""What the names in a torch.save pickle stand for: types, storages, and the functions that describe a tensor.

None of torch's own functions is called; each has a stand-in that checks its arguments and returns a description.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import torch

from maquette.weights.pickle_names import Inert, Known, Refused, hashable


@dataclass(frozen=True, slots=True)
class StorageKind:
    """A class of storages; without a type its sizes are in bytes."""

    dtype: torch.dtype | None

    @property
    def itemsize(self) -> int:
        return 1 if self.dtype is None else self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage of `count` elements, named by its key in the file."""

    key: str
    kind: StorageKind
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.kind.itemsize


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor as a strided part of a storage; offset and stride are in elements."""

    storage: StorageRef
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def persistent(identity: tuple[object, ...]) -> StorageRef | Inert:
    """What torch's persistent ids name: ("storage", class, key, device, count), in old files also ("module", class)."""
    match identity:
        case ("storage", StorageKind() as kind, str(key), _, int(count), *view) if 0 <= count < 1 << 62:
            if view in ([], [None]):
                return StorageRef(key, kind, count)
        case ("module", Inert() as module, *_):
            return module
    raise Refused("its pickle names a storage in an unknown way")


def _typed_tensor(arguments: tuple[object, ...]) -> TensorRef:
    """`_rebuild_tensor` and `_rebuild_tensor_v2`: storage, offset, shape, stride, and what training needs."""
    match arguments:
        case (StorageRef() as storage, int(offset), tuple(shape), tuple(stride), *_) if storage.kind.dtype is not None:
            return _tensor(storage, storage.kind.dtype, offset, shape, stride)
    raise Refused("its pickle describes a tensor in an unknown way")


def _untyped_tensor(arguments: tuple[object, ...]) -> TensorRef:
    """`_rebuild_tensor_v3`: the same on a storage of bytes, with the type as the seventh argument."""
    match arguments:
        case (StorageRef() as storage, int(offset), tuple(shape), tuple(stride), _, _, torch.dtype() as dtype, *_):
            return _tensor(storage, dtype, offset, shape, stride)
    raise Refused("its pickle describes a tensor in an unknown way")


def _tensor(
    storage: StorageRef, dtype: torch.dtype, offset: int, shape: tuple[object, ...], stride: tuple[object, ...]
) -> TensorRef:
    if not _are_sizes(shape) or not _are_sizes(stride) or len(shape) != len(stride) or offset < 0:
        raise Refused("its pickle gives a tensor an impossible shape")
    return TensorRef(storage, dtype, offset, shape, stride)


def _are_sizes(values: tuple[object, ...]) -> TypeGuard[tuple[int, ...]]:
    return len(values) <= 16 and all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _parameter(arguments: tuple[object, ...]) -> object:
    """A parameter is its tensor, its first argument."""
    match arguments:
        case (TensorRef() | Inert() as tensor, *_):
            return tensor
    raise Refused("its pickle describes a parameter in an unknown way")


def _subclass(arguments: tuple[object, ...]) -> object:
    """A tensor of another class is a function, the class, and the function's arguments."""
    match arguments:
        case (Known() as known, _, tuple(inner), *_) if known.function is not _subclass:
            return known.function(inner)
    raise Refused("its pickle describes a tensor in an unknown way")


def _dictionary(arguments: tuple[object, ...]) -> dict[object, object]:
    """An OrderedDict: empty, or a list of pairs as Python 2 wrote it."""
    if not arguments:
        return {}
    match arguments:
        case (list(pairs),) if all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            found = {hashable(key): value for key, value in pairs}
            pairs.clear()  # it is used once: a hostile file would have it copied again and again
            return found
    raise Refused("its pickle describes a dictionary in an unknown way")


def _default_dictionary(_: tuple[object, ...]) -> dict[object, object]:
    return {}


def _size(arguments: tuple[object, ...]) -> tuple[int, ...]:
    match arguments:
        case (tuple(values),) if _are_sizes(values):
            return values
    raise Refused("its pickle describes a shape in an unknown way")


_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_DTYPES = {
    *_STORAGES.values(),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
}

NAMES: Mapping[str, object] = {
    "collections.OrderedDict": Known(_dictionary),
    "collections.defaultdict": Known(_default_dictionary),
    "torch.Size": Known(_size),
    "torch._utils._rebuild_tensor": Known(_typed_tensor),
    "torch._utils._rebuild_tensor_v2": Known(_typed_tensor),
    "torch._utils._rebuild_tensor_v3": Known(_untyped_tensor),
    "torch._utils._rebuild_parameter": Known(_parameter),
    "torch._utils._rebuild_parameter_with_state": Known(_parameter),
    "torch._tensor._rebuild_from_type_v2": Known(_subclass),
    "torch.storage.UntypedStorage": StorageKind(None),
    "torch.UntypedStorage": StorageKind(None),
    **{f"torch.{name}Storage": StorageKind(dtype) for name, dtype in _STORAGES.items()},
    **{f"torch.cuda.{name}Storage": StorageKind(dtype) for name, dtype in _STORAGES.items()},
    **{str(dtype): dtype for dtype in _DTYPES},
}
