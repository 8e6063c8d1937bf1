"""Number formats: scaled 8-bit storage read back, and floating-point weights cast as they are read.

Order matters: a scaled weight is multiplied out before it is cast. Scaled float8 files keep beside each `x.weight` of
type float8 a float32 `x.scale_weight` (also spelled `x.weight_scale`): one number, or one for each output row.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.weights.view import View, Weights, describe

FLOAT8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz})

_SCALES = ("scale_weight", "weight_scale")
_HELPERS = ("scale_input", "input_scale", "comfy_quant")  # for activations, and the name of the format
_MARKER = "scaled_fp8"


class Descaled(View):
    """The weights that a scaled float8 file stands for, in float32; made by `descaled`."""

    def __init__(self, base: Weights, scales: dict[str, str], hidden: frozenset[str]) -> None:
        super().__init__(base)
        self._scales = scales
        self._hidden = hidden

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.base[self._visible(name)]
        if name not in self._scales:
            return tensor
        scale = self.base[self._scales[name]].to(torch.float32)
        rows = scale.reshape(-1, *[1] * (tensor.ndim - 1)) if scale.numel() > 1 else scale.reshape(())
        return tensor.to(torch.float32) * rows

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.base if name not in self._hidden)

    def __len__(self) -> int:
        return len(self.base) - len(self._hidden)

    def __contains__(self, name: object) -> bool:
        return name in self.base and name not in self._hidden

    def shape(self, name: str) -> tuple[int, ...]:
        return self.base.shape(self._visible(name))

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32 if name in self._scales else self.base.dtype(self._visible(name))

    def encoding(self, name: str) -> str:
        return self.base.encoding(self._visible(name)) + (" scaled" if name in self._scales else "")

    def _visible(self, name: str) -> str:
        if name in self._hidden:
            raise KeyError(name)
        return name


def descaled(view: Weights) -> Weights:
    """The view with scaled float8 weights multiplied out and their scales hidden; others are given as they are.

    Raises:
        MaquetteError: a scale fits neither the whole weight nor its rows.
    """
    scales: dict[str, str] = {}
    hidden: set[str] = set()
    for name in view:
        if not name.endswith(".weight") or view.dtype(name) not in FLOAT8:
            continue
        stem = name.removesuffix("weight")
        scale = next((stem + word for word in _SCALES if stem + word in view), None)
        if scale is None:
            continue
        count, shape = math.prod(view.shape(scale)), view.shape(name)
        if count != 1 and (not shape or count != shape[0]):
            raise MaquetteError(
                f"{describe(view)}: {scale!r} has {count} numbers for a weight of shape {shape}; "
                "expected one, or one for each row: use another file"
            )
        scales[name] = scale
        hidden.update({scale}, {stem + word for word in _HELPERS if stem + word in view})
    if not scales:
        return view
    hidden.update(name for name in view if name.rpartition(".")[2] == _MARKER)
    return Descaled(view, scales, frozenset(hidden))


class Cast(View):
    """A view whose floating-point tensors have one type; made by `cast`."""

    def __init__(self, base: Weights, dtype: torch.dtype) -> None:
        super().__init__(base)
        self._dtype = dtype

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.base[name]
        if not tensor.is_floating_point() or tensor.dtype == self._dtype:
            return tensor
        if _overflows(tensor, self._dtype):
            raise MaquetteError(
                f"{self.source(name) or 'these weights'}: tensor {name!r} holds values beyond the range of "
                f"{str(self._dtype).removeprefix('torch.')}; use bfloat16 or float32"
            )
        return tensor.to(self._dtype)

    def dtype(self, name: str) -> torch.dtype:
        stored = self.base.dtype(name)
        return self._dtype if stored.is_floating_point else stored


def cast(view: Weights, dtype: torch.dtype) -> Weights:
    """The view with every floating-point tensor in `dtype`, scaled float8 weights multiplied out first.

    Integers and truth values stay as they are. Reading a tensor whose values do not fit `dtype` raises MaquetteError.
    """
    return Cast(descaled(view), dtype)


def _overflows(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a finite value of `tensor` would become infinite in `dtype` (bfloat16 reaches as far as float32)."""
    limit = torch.finfo(dtype).max
    if limit > 1e38 or limit >= torch.finfo(tensor.dtype).max or tensor.numel() == 0:
        return False
    values = tensor.to(torch.float32) if tensor.dtype in FLOAT8 else tensor
    low, high = (value.item() for value in values.aminmax())
    if math.isinf(low) or math.isinf(high):  # infinities stay what they are
        finite = values[values.isfinite()]
        return finite.numel() > 0 and finite.abs().max().item() > limit
    return max(-low, high) > limit
