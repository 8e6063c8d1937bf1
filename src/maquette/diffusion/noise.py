"""Noise that depends on a picture's seed and on nothing else.

Each picture of a batch draws from its own generator, on the CPU and in float32, so that a seed gives the same numbers
on every device and in every batch. They are those of ``torch.randn(shape, generator=torch.manual_seed(seed))``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor

from maquette.diffusion.process import Level
from maquette.errors import MaquetteError

Noise = Callable[[Tensor, Level, Level], Tensor]
"""``(x, level, to) -> noise``: a fresh unit normal, shaped like ``x``, for the step from one level to another.

`SeededNoise` answers in order and ignores the levels; a noise that is consistent over steps, such as a Brownian path,
may be keyed on them.
"""


class StartingNoise(Protocol):
    """Noise for a batch of pictures, which also gives what they start from."""

    def start(
        self, shape: Sequence[int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor: ...
    def __call__(self, x: Tensor, level: Level, to: Level) -> Tensor: ...


class VariedNoise:
    """Starts between ``noise`` and ``other``, and goes on as ``noise``: variations of a picture; ``amount`` 0 to 1."""

    def __init__(self, noise: StartingNoise, other: StartingNoise, amount: float) -> None:
        self._noise, self._other, self._amount = noise, other, amount

    def start(
        self, shape: Sequence[int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Between both first draws, along the great circle."""
        first, second = (each.start(shape, device, dtype) for each in (self._noise, self._other))
        return slerp(first, second, self._amount)

    def __call__(self, x: Tensor, level: Level, to: Level) -> Tensor:
        return self._noise(x, level, to)


class SeededNoise:
    """Noise for a batch, one seed for each picture."""

    def __init__(self, seeds: Sequence[int]) -> None:
        for seed in seeds:
            if not 0 <= seed < 2**63:
                raise MaquetteError(f"SeededNoise: got seed {seed}; give whole numbers from 0 to 2^63 - 1")
        self._generators = [Generator().manual_seed(seed) for seed in seeds]

    def start(
        self, shape: Sequence[int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The next draw, (B, *shape); ask for it before sampling to get the noise the picture starts from."""
        draws = [torch.randn(tuple(shape), generator=generator) for generator in self._generators]
        return torch.stack(draws).to(device, dtype)

    def __call__(self, x: Tensor, level: Level, to: Level) -> Tensor:
        """The next draw, shaped like ``x`` (B, ...), on its device and in its type."""
        if x.shape[0] != len(self._generators):
            raise MaquetteError(
                f"SeededNoise: got {len(self._generators)} seeds but a batch of {x.shape[0]}; give one seed a picture"
            )
        return self.start(x.shape[1:], x.device, x.dtype)

    def state(self) -> list[Tensor]:
        """The generators' states, one byte tensor for each picture."""
        return [generator.get_state() for generator in self._generators]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Go on from a saved `state`."""
        if len(state) != len(self._generators):
            raise MaquetteError(
                f"SeededNoise.restore: got the state of {len(state)} pictures for {len(self._generators)}; "
                "restore into noise with as many seeds"
            )
        for generator, saved in zip(self._generators, state, strict=True):
            generator.set_state(saved)


def slerp(first: Tensor, second: Tensor, amount: float) -> Tensor:
    """Between two noises (B, ...) along the great circle, which keeps a normal's length; ``amount`` from 0 to 1."""
    a, b = first.flatten(1), second.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1.0, 1.0)
    angle = cosine.acos()[:, None]
    near = angle.sin() < 1e-4 * math.pi
    sine = torch.where(near, torch.ones_like(angle), angle.sin())
    weight_a = torch.where(near, torch.full_like(angle, 1.0 - amount), ((1.0 - amount) * angle).sin() / sine)
    weight_b = torch.where(near, torch.full_like(angle, amount), (amount * angle).sin() / sine)
    return (weight_a * a + weight_b * b).reshape(first.shape)
