"""The algebra of low-rank adapters: what each kind adds to the weight of one module.

LoRA (arXiv:2106.09685) adds up @ down; LoCon extends it to convolutions, optionally with a Tucker core ("mid"); LoHa
(FedPara, arXiv:2108.06098) multiplies two such products elementwise; LoKr is a Kronecker product of two factors, each
whole or low-rank (both as in LyCORIS, arXiv:2309.14859). Each is scaled by alpha / rank, by 1 where there is no alpha.
DoRA (arXiv:2402.09353) then gives every row, or column, of the adapted weight a learned norm.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.weights.view import Weights


@dataclass(frozen=True, slots=True)
class Parts:
    """The tensors of one adapter by the part they play ("up", "down", "alpha", ...), read when asked for."""

    weights: Weights
    keys: Mapping[str, str]

    def __getitem__(self, part: str) -> Tensor:
        return self.weights[self.keys[part]].to(torch.float32)

    def __contains__(self, part: str) -> bool:
        return part in self.keys

    def shape(self, part: str) -> tuple[int, ...]:
        return self.weights.shape(self.keys[part])


_NORMS = frozenset({"magnitude", "dora_scale"})  # of PEFT and of LyCORIS
_BIASES = ("up_bias", "diff_b")  # of PEFT, scaled as its weight is; of LyCORIS, added as it is

Size = tuple[int, int]  # rows (outputs) and columns (inputs, times the kernel of a convolution)


class Algebra(NamedTuple):
    """One kind of adapter: the parts that mark it, its matrix's rows and columns, its rank, and the matrix."""

    marks: frozenset[str]
    size: Callable[[Parts], Size]
    rank: Callable[[Parts], int | None]
    delta: Callable[[Parts], Tensor]


@dataclass(frozen=True, slots=True)
class Adapter:
    """What one file says of one module; `alpha` and `power` come from the file's metadata if they are there.

    The scale is alpha / rank ** power: 1, or 1/2 for rank-stabilised LoRA (arXiv:2312.03732).
    """

    source: str
    module: str
    parts: Parts
    algebra: Algebra | None  # None: it changes the bias alone
    alpha: float | None
    power: float

    @property
    def has_bias(self) -> bool:
        return bool(self.bias_keys)

    @property
    def bias_keys(self) -> frozenset[str]:
        """The file's keys that change the bias."""
        return frozenset(key for part, key in self.parts.keys.items() if part in _BIASES)

    @property
    def weight_keys(self) -> frozenset[str]:
        """The file's keys that change the weight."""
        return frozenset(self.parts.keys.values()) - self.bias_keys

    @property
    def inputs(self) -> int:
        """The columns of its matrix; 0 where it has none."""
        try:
            return 0 if self.algebra is None else self.algebra.size(self.parts)[1]
        except IndexError:  # a vector where a matrix belongs
            return 0

    def fits(self, shape: tuple[int, ...], part: slice | None = None, *, fewer: bool = False) -> bool:
        """Whether its matrix, or that part of its rows, is that of a weight of `shape`; reads no numbers.

        With `fewer` inputs it is, too: of those behind them it changes nothing.
        """
        if self.algebra is None:
            return True
        try:
            (rows, columns), rank = self.algebra.size(self.parts), self.algebra.rank(self.parts)
        except IndexError:  # a vector where a matrix belongs
            return False
        rows = rows if part is None else len(range(rows)[part])
        fewer = fewer and len(shape) > 1 and columns % math.prod(shape[2:]) == 0 and not _NORMS & self.parts.keys.keys()
        its, wanted = (rows, columns), _matrix(shape)
        return rank != 0 and (its == wanted or (fewer and rows == wanted[0] and 0 < columns < wanted[1]))

    def delta(self, weight: Tensor, part: slice | None = None) -> Tensor:
        """What to add to `weight` (float32), in its shape; `part` are the rows of the module that it is."""
        if self.algebra is None:
            return torch.zeros_like(weight)
        rows = part or slice(None)
        try:
            whole = self.algebra.delta(self.parts)
            delta = _widened(whole.reshape(len(whole), -1)[rows], weight.shape) * self._scale()
            if _NORMS & self.parts.keys.keys():
                delta = self._renormed(weight + delta, rows, len(whole)) - weight
            if "whole" in self.parts:
                delta = delta - weight
        except (RuntimeError, IndexError) as error:
            raise self._error("has parts that do not fit together; use another file") from error
        if not delta.isfinite().all():
            raise self._error("holds infinities or no numbers; use another file")
        return delta

    def bias(self, bias: Tensor, part: slice | None = None) -> Tensor:
        """What to add to the module's `bias`, or to that part of it."""
        name = next(name for name in _BIASES if name in self.parts)
        delta = self.parts[name].reshape(-1)[part or slice(None)]
        if delta.shape != bias.shape:
            raise self._error(f"has {len(delta)} numbers for a bias of {bias.numel()}; use another file")
        return delta * (self._scale() if name == "up_bias" else 1.0)

    def _scale(self) -> float:
        rank = self.algebra.rank(self.parts) if self.algebra else None
        if rank is None:
            return 1.0
        alpha = self.alpha
        if "alpha" in self.parts:
            stored = self.parts["alpha"]
            if stored.numel() != 1:
                raise self._error("has an alpha that is not one number; use another file")
            alpha = float(stored.reshape(()))
        return 1.0 if alpha is None else alpha / rank**self.power

    def _renormed(self, weight: Tensor, rows: slice, total: int) -> Tensor:
        """The weight with the norms that DoRA learned: m V / |V|, equation 5.

        PEFT stores one norm for each output row, LyCORIS one for each row (out, 1) or each column (1, in).
        """
        by_row = "magnitude" in self.parts or self.parts.shape("dora_scale")[0] == total
        norms = self.parts["magnitude" if "magnitude" in self.parts else "dora_scale"].reshape(-1)
        if by_row:
            norms = norms[rows]
        elif len(weight) != total:
            raise self._error("has norms of columns, of which this model has only some rows; merge it elsewhere")
        axis = 0 if by_row else 1
        others = [dimension for dimension in range(weight.ndim) if dimension != axis]
        now = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
        return weight * (norms.reshape(now.shape) / now.clamp_min(torch.finfo(torch.float32).tiny))

    def _error(self, problem: str) -> MaquetteError:
        return MaquetteError(f"{self.source}: module {self.module!r} {problem}")


def _matrix(shape: tuple[int, ...]) -> Size:
    return shape[0], math.prod(shape[1:])


def _widened(matrix: Tensor, shape: torch.Size) -> Tensor:
    """A matrix (rows, columns) as a weight of `shape`, zero for the inputs behind its own."""
    missing = math.prod(shape[1:]) - matrix.shape[1]
    return F.pad(matrix, (0, max(missing, 0))).reshape(shape)


def _product(out: tuple[int, ...], into: tuple[int, ...]) -> Size:
    """Rows and columns of (out, rank, ...) @ (rank, in, ...)."""
    return out[0], math.prod(into[1:])


def _tucker(core: Tensor, out: Tensor, into: Tensor) -> Tensor:
    """core (r, s, ...), out (o, r), into (s, i) -> (o, i, ...)."""
    return torch.einsum("rs...,or,si->oi...", core, out.flatten(1), into.flatten(1))


def _lora_size(parts: Parts) -> Size:
    rows, columns = _product(parts.shape("up"), parts.shape("down"))
    return rows, columns * (math.prod(parts.shape("mid")[2:]) if "mid" in parts else 1)


def _lora(parts: Parts) -> Tensor:
    if "mid" in parts:
        return _tucker(parts["mid"], parts["up"], parts["down"])
    return parts["up"].flatten(1) @ parts["down"].flatten(1)


def _factor_size(parts: Parts, name: str, core: str) -> Size:
    if name in parts:
        return _matrix(parts.shape(name))
    first, second = parts.shape(f"{name}_a"), parts.shape(f"{name}_b")
    if core in parts:
        return first[1], second[1] * math.prod(parts.shape(core)[2:])
    return _product(first, second)


def _factor(parts: Parts, name: str, core: str) -> Tensor:
    """A factor of LoHa or LoKr: whole, a product a @ b, or a Tucker product, whose a is stored transposed."""
    if name in parts:
        return parts[name]
    first, second = parts[f"{name}_a"], parts[f"{name}_b"]
    return _tucker(parts[core], first.T, second) if core in parts else first @ second


def _loha_size(parts: Parts) -> Size:
    first, second = (_factor_size(parts, f"hada_w{n}", f"hada_t{n}") for n in "12")
    return first if first == second else (0, 0)


def _loha(parts: Parts) -> Tensor:
    first, second = (_factor(parts, f"hada_w{n}", f"hada_t{n}") for n in "12")
    return first * second


def _lokr_size(parts: Parts) -> Size:
    first, second = (_factor_size(parts, f"lokr_w{n}", f"lokr_t{n}") for n in "12")
    return first[0] * second[0], first[1] * second[1]


def _lokr(parts: Parts) -> Tensor:
    first, second = (_factor(parts, f"lokr_w{n}", f"lokr_t{n}") for n in "12")
    # torch.kron fails on strided convolutions
    return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - first.ndim)), second.contiguous())


def _lokr_rank(parts: Parts) -> int | None:
    """The rank of the last factor that is low-rank; alpha means nothing when both are whole."""
    return next((parts.shape(b)[0] for b in ("lokr_w2_b", "lokr_w1_b") if b in parts), None)


ALGEBRAS = (
    Algebra(frozenset({"up", "down"}), _lora_size, lambda parts: parts.shape("down")[0], _lora),
    Algebra(
        frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),
        _loha_size,
        lambda parts: parts.shape("hada_w1_b")[0],
        _loha,
    ),
    *(
        Algebra(frozenset({*first, *second}), _lokr_size, _lokr_rank, _lokr)
        for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
    ),
    Algebra(
        frozenset({"diff"}),
        lambda parts: _matrix(parts.shape("diff")),
        lambda parts: None,
        lambda parts: parts["diff"],
    ),
    Algebra(  # what takes the weight's place
        frozenset({"whole"}),
        lambda parts: _matrix(parts.shape("whole")),
        lambda parts: None,
        lambda parts: parts["whole"],
    ),
)


def make_adapter(source: str, module: str, parts: Parts, alpha: float | None = None, power: float = 1.0) -> Adapter:
    """The adapter that these parts of `module` make; `source` names the file in messages.

    Raises:
        MaquetteError: a part is missing.
    """
    found = next((algebra for algebra in ALGEBRAS if algebra.marks <= parts.keys.keys()), None)
    if found is None and not parts.keys.keys() <= {"diff_b", "alpha"}:
        raise MaquetteError(
            f"{source}: module {module!r} has {', '.join(sorted(parts.keys))}, which make no adapter of a known kind; "
            "the file is damaged or of a newer kind"
        )
    return Adapter(source, module, parts, found, alpha, power)
