"""All that a network is told beside the noisy data and the time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from maquette.diffusion.transfer import to_device
from maquette.errors import MaquetteError


class Window(NamedTuple):
    """The part of a picture that is asked about: rows and columns of the `whole` (height, width) noisy data."""

    rows: slice
    columns: slice
    whole: tuple[int, int]

    def of(self, each: Tensor) -> Tensor:
        """What lies under it of a map (..., h, w) of the whole at any scale, rounded to the map's places."""
        rows, columns = (
            _scaled(part, side, full) for part, side, full in zip(self[:2], each.shape[-2:], self.whole, strict=True)
        )
        return each[..., rows, columns]


def _scaled(part: slice, side: int, full: int) -> slice:
    """As many of `side` places as `part` are of `full` ones; a smaller map is halved so often, as networks halve."""
    wanted = min(part.stop, full) - part.start
    length = -(-wanted // 2 ** math.ceil(math.log2(full / side))) if side < full else -(-wanted * side // full)
    first = min(round(part.start * side / full), side - length)
    return slice(first, first + length)


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a network is told, one row for each element of its batch."""

    tokens: Tensor | None = None  # (B, L, C)     cross- or joint attention
    vector: Tensor | None = None  # (B, D)        pooled text, sizes, class
    concat: Tensor | None = None  # (B, C, H, W)  mask, depth, semantic map, low-resolution image
    guidance: Tensor | None = None  # (B,)        guidance-distilled models
    control: tuple[Tensor, ...] = ()  #           residuals, one for each skip or block
    features: tuple[Tensor, ...] = ()  #          of an adapter, one for each level; residuals of FLUX's single blocks
    unwanted: Tensor | None = None  # (B,)        1 where a row says what is not wanted, for what is told by halves
    repeats: int = 1  #                           how often the noisy data is repeated to be told so many things
    window: Window | None = None  #               where the noisy data lies, if it is a part of a picture

    def map(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        """Apply ``change`` to every tensor; rows may then be others: ``repeats`` and ``window`` are forgotten."""

        def each(part: Tensor | None) -> Tensor | None:
            return None if part is None else change(part)

        return Conditioning(
            tokens=each(self.tokens),
            vector=each(self.vector),
            concat=each(self.concat),
            guidance=each(self.guidance),
            control=tuple(map(change, self.control)),
            features=tuple(map(change, self.features)),
            unwanted=each(self.unwanted),
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Conditioning":
        """Move to a device and cast to a floating-point type; without arguments, nothing changes.

        Guidance stays float32 at least: between two numbers of half precision its sinusoids turn by many radians.
        """
        moved = self.map(lambda part: to_device(part, device, dtype))
        exact = None if dtype is None else torch.promote_types(dtype, torch.float32)
        guidance = None if self.guidance is None else to_device(self.guidance, device, exact)
        return replace(moved, guidance=guidance, repeats=self.repeats, window=self.window)

    def repeat(self, count: int) -> "Conditioning":
        """The whole batch ``count`` times over, in order: rows a b become a b a b."""
        return self.map(lambda part: part.repeat(count, *[1] * (part.ndim - 1)))

    def lerp(self, other: "Conditioning", amount: float) -> "Conditioning":
        """Between this one and another of the same shapes: 0 is this one, 1 the other."""
        fields = [
            None if a is None or b is None else torch.lerp(a, b.to(a), amount)
            for a, b in ((self.tokens, other.tokens), (self.vector, other.vector))
        ]
        return replace(self, tokens=fields[0], vector=fields[1])

    def __getitem__(self, rows: slice) -> "Conditioning":
        """A slice of the batch."""
        return self.map(lambda part: part[rows])

    @staticmethod
    def cat(parts: "Sequence[Conditioning]") -> "Conditioning":
        """Concatenate batches that hold the same fields with the same shapes beside the first."""
        if not parts:
            raise MaquetteError("Conditioning.cat: got nothing to concatenate; give at least one")
        if len({(len(part.control), len(part.features)) for part in parts}) > 1:
            raise MaquetteError("Conditioning.cat: got control residuals of different numbers; give the same to each")
        return Conditioning(
            tokens=_cat("tokens", [part.tokens for part in parts]),
            vector=_cat("vector", [part.vector for part in parts]),
            concat=_cat("concat", [part.concat for part in parts]),
            guidance=_cat("guidance", [part.guidance for part in parts]),
            control=tuple(torch.cat(residuals) for residuals in zip(*(part.control for part in parts), strict=True)),
            features=tuple(torch.cat(features) for features in zip(*(part.features for part in parts), strict=True)),
            unwanted=_cat("unwanted", [part.unwanted for part in parts]),
        )


def _cat(name: str, parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    if not present:
        return None
    if len(present) < len(parts) or len({part.shape[1:] for part in present}) > 1:
        shapes = ", ".join("nothing" if part is None else str(tuple(part.shape)) for part in parts)
        raise MaquetteError(
            f"Conditioning.cat: got {name} of {shapes}; every part needs it, in one shape beside the batch"
        )
    return torch.cat(present)
