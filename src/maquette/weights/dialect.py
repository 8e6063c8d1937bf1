"""Dialects: the names and shapes that published files give to tensors, in exact correspondence with ours.

A `Table` says for each of our tensors where it lies in a dialect: under another name, as several tensors one below the
other, as some rows of a larger one, and whether it must be changed on the way. The same table reads, writes, accounts
for every tensor and tells which rows a published layer became. Nothing is computed: reading undoes writing exactly.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate, count
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from maquette.errors import MaquetteError
from maquette.weights.lora import Target
from maquette.weights.precision import FLOAT8
from maquette.weights.view import InMemory, Keyed, View, Weights, describe

Module = TypeVar("Module", bound=nn.Module)
Spec = TypeVar("Spec")


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one tensor of a dialect when it becomes ours, and back."""

    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor], Tensor]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _transpose(tensor: Tensor) -> Tensor:
    return tensor.t().contiguous()


def _swap(tensor: Tensor) -> Tensor:
    first, second = tensor.chunk(2)
    return torch.cat([second, first])


def _without_kernel(tensor: Tensor) -> Tensor:
    return tensor[:, :, 0, 0] if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def _with_kernel(tensor: Tensor) -> Tensor:
    return tensor[:, :, None, None]


def _batched(tensor: Tensor) -> Tensor:
    return tensor[None] if tensor.ndim == 2 else tensor


def _without_kernel_of_one(tensor: Tensor) -> Tensor:
    return tensor[:, :, 0] if tensor.ndim == 3 and tensor.shape[2] == 1 else tensor


def _with_kernel_of_one(tensor: Tensor) -> Tensor:
    return tensor[:, :, None]


SAME = Change(_same, _same)
TRANSPOSED = Change(_transpose, _transpose)
SWAPPED = Change(_swap, _swap)  # the halves of the rows exchanged
LINEAR = Change(_without_kernel, _same)  # theirs (out, in); files with the kernel, (out, in, 1, 1), are read too
CONV_1X1 = Change(_without_kernel, _with_kernel)  # theirs (out, in, 1, 1); files without the kernel are read too

BATCHED = Change(_batched, _same)  # theirs (1, rows, width); files without the one, as GGUF has it, are read too

CONV_1 = Change(_without_kernel_of_one, _with_kernel_of_one)  # the same along one axis, (out, in, 1)


@dataclass(frozen=True, slots=True)
class Source:
    """Where one of our tensors lies in a dialect.

    Either `names` lie one below the other in ours, each taking its number of `rows` (None: equal parts); or ours is a
    `part`, the rows from start up to stop, of the one tensor in `names`.
    """

    names: tuple[str, ...]
    change: Change = SAME
    rows: tuple[int, ...] | None = None
    part: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        assert self.part is None or len(self.names) == 1
        assert self.rows is None or len(self.rows) == len(self.names)

    def bounds(self, total: int) -> list[tuple[int, int]]:
        """The rows [start, stop) that each name takes in our tensor of `total` rows."""
        parts = len(self.names)
        sizes = (total // parts,) * parts if self.rows is None else self.rows
        stops = list(accumulate(sizes))
        if stops[-1] != total:
            raise MaquetteError(f"{self.names[0]}: {total} rows do not divide into {parts} tensors of {sizes} rows")
        return list(zip([0, *stops], stops, strict=False))


Table = dict[str, Source]
Names = Mapping[str, str | Sequence[str]]
"""The path of a layer in a network to its name, or its parts' names, in a dialect."""


def layers(module: nn.Module, ours: str, theirs: str, names: Names, change: Change = SAME) -> Table:
    """The sources of the weights and biases of those layers of `module` that it has.

    `ours` and `theirs` are the prefixes of both names. `change` is for the weights alone.
    """
    table: Table = {}
    for path, others in names.items():
        layer: object = module
        for word in path.split("."):
            layer = getattr(layer, word, None)
        for leaf in ("weight", "bias"):
            if getattr(layer, leaf, None) is not None:
                parts = (others,) if isinstance(others, str) else others
                sources = tuple(join(theirs, part, leaf) for part in parts)
                table[join(ours, path, leaf)] = Source(sources, change if leaf == "weight" else SAME)
    return table


def join(*words: str) -> str:
    """A dotted name of the words that are not empty."""
    return ".".join(word for word in words if word)


class _Piece(NamedTuple):
    """Some rows (None: all) of a tensor of the base, changed."""

    name: str
    change: Callable[[Tensor], Tensor]
    rows: tuple[int, int] | None = None

    def take(self, tensor: Tensor) -> Tensor:
        return self.change(tensor if self.rows is None else tensor[slice(*self.rows)])

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what is taken of a tensor of `shape`."""
        if self.change is _same and self.rows is None:
            return shape
        return tuple(self.take(torch.empty(shape, device="meta")).shape)


class Translated(Keyed, View):
    """A view whose tensors are pieces of the base's, one below the other; made by `read` and `write`."""

    def __init__(self, base: Weights, pieces: Mapping[str, tuple[_Piece, ...]]) -> None:
        super().__init__(base)
        self._entries = pieces

    def __getitem__(self, name: str) -> Tensor:
        tensors = [piece.take(self.base[piece.name]) for piece in self._entries[name]]
        if len(tensors) == 1:
            return tensors[0]
        dtype = _common(tensor.dtype for tensor in tensors)
        return torch.cat([tensor.to(dtype) for tensor in tensors])

    def shape(self, name: str) -> tuple[int, ...]:
        outlines = [piece.shape(self.base.shape(piece.name)) for piece in self._entries[name]]
        if len(outlines) == 1:
            return outlines[0]
        return (sum(outline[0] for outline in outlines), *outlines[0][1:])

    def dtype(self, name: str) -> torch.dtype:
        return _common(self.base.dtype(piece.name) for piece in self._entries[name])

    def encoding(self, name: str) -> str:
        return self.base.encoding(self._entries[name][0].name)

    def source(self, name: str) -> Path | None:
        return self.base.source(self._entries[name][0].name)


def _common(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The type that holds tensors of several; among others float8, which PyTorch does not promote, is bfloat16."""
    different = set(dtypes)
    if len(different) == 1:
        return different.pop()
    return reduce(torch.promote_types, (torch.bfloat16 if each in FLOAT8 else each for each in different))


class Account(NamedTuple):
    """What stands between a file and a table."""

    missing: list[str]
    """Names that the table needs and the file lacks, in the table's order."""
    surplus: list[str]
    """Names of the file that nobody needs and no pattern excuses, in the file's order."""


def account(names: Iterable[str], needed: Iterable[str], ignored: Iterable[str] = ()) -> Account:
    """Compare the names that are there with the needed ones; `ignored` are regular expressions for whole names."""
    there, wanted = list(names), dict.fromkeys(needed)
    present, patterns = set(there), [re.compile(pattern) for pattern in ignored]
    surplus = [name for name in there if name not in wanted and not any(p.fullmatch(name) for p in patterns)]
    return Account([name for name in wanted if name not in present], surplus)


def read(theirs: Weights, table: Table, ignored: Iterable[str] = (), layout: str = "expected") -> Weights:
    """A dialect's tensors under our names, joined and changed one by one when they are asked for.

    `ignored` are regular expressions for names of the file that need not be used; `layout` names the dialect in
    messages.

    Raises:
        MaquetteError: a tensor is missing, or one is left over.
    """
    _check(theirs, _theirs(table), ignored, layout)
    return Translated(
        theirs,
        {
            name: tuple(_Piece(other, source.change.read, source.part) for other in source.names)
            for name, source in table.items()
        },
    )


def write(ours: Mapping[str, Tensor], table: Table) -> Weights:
    """Our tensors under a dialect's names, divided and changed one by one when they are asked for.

    Raises:
        MaquetteError: a tensor is missing, or one is left over, or the parts of a tensor do not fill it.
    """
    view = ours if isinstance(ours, Weights) else InMemory(ours)
    _check(view, table, (), "our own")
    whole: dict[str, tuple[_Piece, ...]] = {}
    parts: dict[str, list[tuple[tuple[int, int], _Piece]]] = {}
    for name, source in table.items():
        if source.part is not None:
            parts.setdefault(source.names[0], []).append((source.part, _Piece(name, source.change.write)))
        elif len(source.names) == 1:
            whole[source.names[0]] = (_Piece(name, source.change.write),)
        else:
            bounds = source.bounds(view.shape(name)[0])
            for other, rows in zip(source.names, bounds, strict=True):
                whole[other] = (_Piece(name, source.change.write, rows),)
    return Translated(view, whole | {name: _tile(name, found) for name, found in parts.items()})


def _tile(name: str, parts: list[tuple[tuple[int, int], _Piece]]) -> tuple[_Piece, ...]:
    """The pieces in the order of their rows, which must follow one another."""
    ordered = sorted(parts, key=lambda part: part[0])
    starts, stops = zip(*(rows for rows, _ in ordered), strict=True)
    if starts != (0, *stops[:-1]):
        raise MaquetteError(f"{name}: its parts have the rows {[rows for rows, _ in ordered]}; mend the table")
    return tuple(piece for _, piece in ordered)


def _theirs(table: Table) -> Iterator[str]:
    return (name for source in table.values() for name in source.names)


def _check(view: Weights, needed: Iterable[str], ignored: Iterable[str], layout: str) -> None:
    missing, surplus = account(view, needed, ignored)
    found = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, what in ((missing, "missing"), (surplus, "unknown"))
        if names
    ]
    if found:
        raise MaquetteError(
            f"{describe(view)}: tensors in the {layout} layout: {' and '.join(found)}; "
            "use a complete file of one network, or give the spec it was made with"
        )


@dataclass(frozen=True, slots=True)
class Dialect(Generic[Module, Spec]):
    """One published layout of one kind of network."""

    name: str
    marks: tuple[str, ...]
    """Names that every such file holds and no other layout's."""
    table: Callable[[Module], Table]
    """The sources of a network's tensors; a network on the meta device will do."""
    spec: Callable[[Weights], Spec]
    """The spec, read off names and shapes; what these cannot tell has the published networks' values."""
    ignored: tuple[str, ...] = ()
    """Regular expressions for tensors that such files may hold and nobody needs."""

    def read(self, theirs: Weights, network: Module) -> Weights:
        """The tensors of `network` under our names.

        Raises:
            MaquetteError: a tensor is missing, left over, or of another shape than the network's.
        """
        view = read(theirs, self.table(network), self.ignored, self.name)
        _check_shapes(view, network)
        return view

    def write(self, ours: Mapping[str, Tensor], network: Module) -> Weights:
        """The tensors of `network` under this dialect's names; see `write`."""
        return write(ours, self.table(network))


def _check_shapes(view: Weights, network: nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        if view.shape(name) != tuple(tensor.shape):
            raise MaquetteError(
                f"{describe(view)}: the network has {name!r} of shape {tuple(tensor.shape)}, the file of "
                f"{view.shape(name)}; give the spec it was made with"
            )


def recognise(view: Weights, dialects: Sequence[Dialect[Module, Spec]]) -> Dialect[Module, Spec]:
    """The dialect whose marks the view holds.

    Raises:
        MaquetteError: none, with the marks that were looked for.
    """
    for dialect in dialects:
        if all(mark in view for mark in dialect.marks):
            return dialect
    looked_for = "; ".join(f"{dialect.name}: {', '.join(dialect.marks)}" for dialect in dialects)
    raise MaquetteError(f"{describe(view)}: in none of the known layouts ({looked_for}); use another file")


def counted(view: Weights, pattern: str) -> range:
    """The indices 0, 1, 2, ... for which the view holds the name that `pattern` gives."""
    stop = next(index for index in count() if pattern.format(index) not in view)
    return range(stop)


def size(view: Weights, name: str, axis: int) -> int:
    """One dimension of a tensor, known from the header.

    Raises:
        MaquetteError: the tensor is missing or has too few dimensions.
    """
    if name not in view or not -len(view.shape(name)) <= axis < len(view.shape(name)):
        found = f"is of shape {view.shape(name)}" if name in view else "is missing"
        raise MaquetteError(f"{describe(view)}: tensor {name!r} {found}; the file is damaged or of another kind")
    return view.shape(name)[axis]


def targets(network: nn.Module, tables: Iterable[Table], *, roots: Sequence[str], kohya: Sequence[str]) -> list[Target]:
    """Where a LoRA file may speak of the network's weights, in the spellings of all the tables' dialects.

    `roots` are what stands before a dotted name ("unet" of `unet.mid_block...`; "" for nothing), `kohya` what stands
    before a name joined by underscores ("lora_unet").
    """
    found: dict[tuple[object, ...], Target] = {}
    for table in tables:
        for name, source in table.items():
            if source.change is TRANSPOSED or not all(other.endswith(".weight") for other in source.names):
                continue  # adapters know such a tensor by its name in another dialect
            swapped = source.change is SWAPPED
            part = None if source.part is None else slice(*source.part)
            bounds = source.bounds(network.get_parameter(name).shape[0])
            for other, (start, stop) in zip(source.names, bounds, strict=True):
                rows = slice(start, stop) if len(bounds) > 1 else None
                place = (name, start, stop, source.part, swapped)
                target = found.setdefault(place, Target(name, (), rows, part, swapped))
                spelt = _spellings(other.removesuffix(".weight"), roots, kohya)
                found[place] = replace(target, spellings=(*target.spellings, *spelt))
    return list(found.values())


def _spellings(module: str, roots: Sequence[str], kohya: Sequence[str]) -> Iterator[str]:
    yield from (join(root, module) for root in roots)
    yield from (f"{root}_{module.replace('.', '_')}" for root in kohya)


BOOKKEEPING = (
    r"betas|alphas_cumprod(_prev)?|(sqrt|log)_.*alphas_cumprod|posterior_.*|lvlb_weights",
    r"scale_factor|logvar|denoiser\.sigmas|model_ema\.(decay|num_updates)",
    r"(first_stage_model\.)?loss\..*",
)
"""Tensors of whole training checkpoints that belong to no network: schedules, counters, the first stage's losses."""
