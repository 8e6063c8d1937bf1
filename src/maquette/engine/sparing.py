"""Asking a network less at a time where memory runs out: level by level, each with a warning, instead of failing."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Denoiser
from maquette.diffusion.process import Level
from maquette.engine.memory import SHORT, or_else


def sparing(denoise: Denoiser, pictures: int, stream: Callable[[], bool], *, apart: bool = True) -> Denoiser:
    """The same answers; from where memory runs out on, first to fewer rows at a time, then with weights streamed.

    `pictures` are painted together: first the halves of guidance are asked one after another, then the pictures of a
    half, if they may be told `apart`. `stream` lets go of the weights, and answers False if they are streamed already.
    Rows are sums in another order then: pictures agree to the last bits, not in them.
    """
    at_once: list[int] = []  # rows; empty: all
    divided: dict[tuple[int, int], tuple[Conditioning, list[Conditioning]]] = {}  # caches know what is told again

    def divide(told: Conditioning, rows: int, count: int) -> list[Conditioning]:
        key = id(told), rows
        if key not in divided:
            divided[key] = told, [told[first : first + rows] for first in range(0, count, rows)]
        return divided[key][1]

    def spare(x: Tensor, level: Level, told: Conditioning) -> Tensor:
        def answer() -> Tensor:
            if not at_once or len(x) <= at_once[-1]:
                return denoise(x, level, told)
            parts = zip(x.split(at_once[-1]), divide(told, at_once[-1], len(x)), strict=True)
            return torch.cat([denoise(rows, level, each) for rows, each in parts])

        def smaller() -> bool:
            rows = min([len(x), *at_once])
            if rows > pictures:
                warnings.warn(f"{SHORT}; from now on the halves of guidance are computed one by one", stacklevel=2)
                at_once.append(pictures)
            elif rows > 1 and apart:
                warnings.warn(f"{SHORT}; from now on pictures are computed one by one", stacklevel=2)
                at_once.append(1)
            else:
                return stream()
            return True

        return or_else(answer, smaller)

    return spare
