"""A checkpoint as a lazy mapping from name to tensor, and the mappings that are put around it.

Names, shapes and types are known from the file's header; a tensor is read when it is asked for. Renaming, casting,
merging and choosing are views: each wraps another one and says only what it changes.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from maquette.errors import MaquetteError

_NO_METADATA: Mapping[str, str] = MappingProxyType({})


class Weights(Mapping[str, Tensor]):
    """A lazy mapping from name to tensor; everything except `[]` answers without reading tensor data."""

    _metadata: Mapping[str, str] = _NO_METADATA

    @abstractmethod
    def __getitem__(self, name: str) -> Tensor: ...

    @abstractmethod
    def __iter__(self) -> Iterator[str]: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, name: object) -> bool: ...

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the tensor that `[name]` gives."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """The type of the tensor that `[name]` gives."""

    def encoding(self, name: str) -> str:
        """How the file stores the tensor: its type, or a quantisation such as Q4_K."""
        return str(self.dtype(name)).removeprefix("torch.")

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says about itself."""
        return self._metadata

    def source(self, name: str) -> Path | None:
        """The file that holds the tensor; None if it lives in memory only."""
        return None

    # Mapping would compare tensor by tensor; a view is equal to itself.
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Keyed(Weights):
    """A view whose names are the keys of `_entries`."""

    _entries: Mapping[str, Any]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


class InFile(Keyed):
    """The tensors of one file; entries tell their shape and type."""

    path: Path

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def dtype(self, name: str) -> torch.dtype:
        return self._entries[name].dtype

    def source(self, name: str) -> Path:
        return self.path


class InMemory(Keyed):
    """Tensors that are already there, as a view."""

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = _NO_METADATA) -> None:
        self._entries = dict(tensors)
        self._metadata = dict(metadata)

    def __getitem__(self, name: str) -> Tensor:
        return self._entries[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._entries[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._entries[name].dtype


class View(Weights):
    """A mapping around another one; subclasses override what they change."""

    def __init__(self, base: Weights) -> None:
        self.base = base

    def __getitem__(self, name: str) -> Tensor:
        return self.base[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)

    def __contains__(self, name: object) -> bool:
        return name in self.base

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self.base.dtype(name)

    def encoding(self, name: str) -> str:
        return self.base.encoding(name)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.base.metadata

    def source(self, name: str) -> Path | None:
        return self.base.source(name)


class Chosen(Keyed, View):
    """Some tensors of a view under names of their own; `names` maps each new name to the old one."""

    def __init__(self, base: Weights, names: Mapping[str, str]) -> None:
        super().__init__(base)
        self._entries = dict(names)

    def __getitem__(self, name: str) -> Tensor:
        return self.base[self._entries[name]]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.shape(self._entries[name])

    def dtype(self, name: str) -> torch.dtype:
        return self.base.dtype(self._entries[name])

    def encoding(self, name: str) -> str:
        return self.base.encoding(self._entries[name])

    def source(self, name: str) -> Path | None:
        return self.base.source(self._entries[name])


def select(view: Weights, prefix: str) -> Weights:
    """The tensors whose name starts with `prefix`, named without it."""
    return Chosen(view, {name.removeprefix(prefix): name for name in view if name.startswith(prefix)})


def prefixed(view: Weights, prefix: str) -> Weights:
    """The same tensors with `prefix` put before every name: `select` undoes it."""
    return Chosen(view, {prefix + name: name for name in view})


def ema(view: Weights) -> Weights:
    """The averaged weights of a training checkpoint under the plain names.

    latent-diffusion (`ldm/modules/ema.py`) stores the average of `model.a.b` as `model_ema.` + `a.b` without its dots.
    The plain tensor stands where there is no average; an average without a plain tensor keeps its name.

    Raises:
        MaquetteError: there are no averaged weights.
    """
    counters = {"model_ema.decay", "model_ema.num_updates"}
    names = {name: name for name in view if name not in counters}
    averages = {name for name in names if name.startswith("model_ema.")}
    for name in [name for name in names if name.startswith("model.")]:
        average = "model_ema." + name.removeprefix("model.").replace(".", "")
        if average in averages:
            names[name] = average
            names.pop(average, None)
    if averages <= names.keys():
        raise MaquetteError(f"{describe(view)}: holds no averaged weights; open it without asking for them")
    return Chosen(view, names)


class Union(Keyed):
    """Several views as one; made by `union`."""

    def __init__(self, owners: Mapping[str, Weights], metadata: Mapping[str, str]) -> None:
        self._entries = owners
        self._metadata = metadata

    def __getitem__(self, name: str) -> Tensor:
        return self._entries[name][name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._entries[name].dtype(name)

    def encoding(self, name: str) -> str:
        return self._entries[name].encoding(name)

    def source(self, name: str) -> Path | None:
        return self._entries[name].source(name)


def union(views: Iterable[Weights]) -> Weights:
    """All tensors of all views; of their metadata the first word on each key counts.

    Raises:
        MaquetteError: two views hold a tensor of the same name.
    """
    owners: dict[str, Weights] = {}
    metadata: dict[str, str] = {}
    for view in views:
        for name in view:
            if name in owners:
                places = f"{owners[name].source(name)} and {view.source(name)}"
                raise MaquetteError(f"tensor {name!r} is in two files, {places}; give only one of them")
            owners[name] = view
        metadata = {**view.metadata, **metadata}
    return Union(owners, metadata)


class Accounted(View):
    """A view that remembers which of its tensors were read."""

    def __init__(self, base: Weights) -> None:
        super().__init__(base)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.base[name]
        self.read.add(name)
        return tensor

    def unread(self) -> list[str]:
        """The names that nobody has asked for, in the file's order."""
        return [name for name in self.base if name not in self.read]


def describe(view: Weights) -> str:
    """Where a view's tensors come from, for messages."""
    sources = sorted({str(source) for name in view if (source := view.source(name)) is not None})
    return ", ".join(sources) if sources else "these weights"
