"""Noise that depends on a picture's seed and on nothing else.

Each picture of a batch draws from its own source, on the CPU and in float32, so that a seed gives the same numbers
on every device and in every batch. They are those of ``torch.randn(shape, generator=torch.manual_seed(seed))``, unless
another source is named: `maquette.diffusion.emulation` has those of other programs.
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


class Source(Protocol):
    """One stream of unit normal numbers."""

    def normal(self, shape: Sequence[int]) -> Tensor: ...
    def get_state(self) -> Tensor: ...
    def set_state(self, state: Tensor) -> object: ...


class TorchSource(Generator):
    """PyTorch's generator on the CPU."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next draw, float32."""
        return torch.randn(tuple(shape), generator=self)


def torch_source(seed: int) -> Source:
    """The numbers that ``torch.randn`` draws on the CPU with this seed."""
    source = TorchSource()
    source.manual_seed(seed)
    return source


Between = Callable[[Tensor, Tensor, float], Tensor]


class VariedNoise:
    """Starts between ``noise`` and ``other``, and goes on as ``noise``: variations of a picture; ``amount`` 0 to 1."""

    def __init__(
        self, noise: StartingNoise, other: StartingNoise, amount: float, between: Between | None = None
    ) -> None:
        self._noise, self._other, self._amount, self._between = noise, other, amount, between or slerp

    def start(
        self, shape: Sequence[int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Between both first draws, along the great circle."""
        first, second = (each.start(shape, device, dtype) for each in (self._noise, self._other))
        return self._between(first, second, self._amount)

    def __call__(self, x: Tensor, level: Level, to: Level) -> Tensor:
        return self._noise(x, level, to)


class SeededNoise:
    """Noise for a batch, one seed for each picture.

    ``source`` makes the stream of a seed. Steps go on with the stream that the start was drawn from, or have one of
    their own, made by ``later``. ``together`` draws for the whole batch at once from the stream of the first seed: a
    picture then depends on how many are painted with it.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        source: Callable[[int], Source] = torch_source,
        later: Callable[[int], Source] | None = None,
        *,
        together: bool = False,
    ) -> None:
        for seed in seeds:
            if not 0 <= seed < 2**63:
                raise MaquetteError(f"SeededNoise: got seed {seed}; give whole numbers from 0 to 2^63 - 1")
        self._count, self._together = len(seeds), together
        own = seeds[:1] if together else seeds
        self._first = [source(seed) for seed in own]
        self._later = self._first if later is None else [later(seed) for seed in own]

    def start(
        self, shape: Sequence[int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """The next draw, (B, *shape); ask for it before sampling to get the noise the picture starts from."""
        return self._draw(self._first, shape).to(device, dtype)

    def __call__(self, x: Tensor, level: Level, to: Level) -> Tensor:
        """The next draw, shaped like ``x`` (B, ...), on its device and in its type."""
        if x.shape[0] != self._count:
            raise MaquetteError(
                f"SeededNoise: got {self._count} seeds but a batch of {x.shape[0]}; give one seed a picture"
            )
        return self._draw(self._later, x.shape[1:]).to(x.device, x.dtype)

    def _draw(self, sources: Sequence[Source], shape: Sequence[int]) -> Tensor:
        if self._together:
            return sources[0].normal((self._count, *shape))
        return torch.stack([source.normal(shape) for source in sources])

    @property
    def _sources(self) -> list[Source]:
        return self._first if self._later is self._first else self._first + self._later

    def state(self) -> list[Tensor]:
        """The states of all streams, byte tensors: one for each picture, or two where steps have their own."""
        return [source.get_state() for source in self._sources]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Go on from a saved `state`."""
        if len(state) != len(self._sources):
            raise MaquetteError(
                f"SeededNoise.restore: got the state of {len(state)} pictures for {len(self._sources)}; "
                "restore into noise with as many seeds"
            )
        for source, saved in zip(self._sources, state, strict=True):
            source.set_state(saved)


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
