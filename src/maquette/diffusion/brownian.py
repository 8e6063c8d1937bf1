"""Noise from one Brownian path for all steps, so that steps of any length see the same path.

The path is a virtual Brownian tree (Li et al. 2020, 2001.01328, section 4): an interval's middle is drawn, given its
ends, from a seed of its own, and so on to a grid of 1e-6. Seeds are derived as the package torchsde does, from which
k-diffusion's SDE samplers take their noise.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from maquette.diffusion.noise import SeededNoise, Source
from maquette.diffusion.process import Level, RectifiedFlow
from maquette.diffusion.schedules import Schedule

DIGITS = 6  # times are rounded to so many
POOL = 24  # words of numpy's SeedSequence


class BrownianPath:
    """A path W from `low` to `high`, W(low) = 0: the same for a seed, wherever and in whatever order it is asked."""

    def __init__(
        self, seed: int, shape: Sequence[int], low: float, high: float, source: Callable[[int], Source]
    ) -> None:
        self._seed, self._shape, self._source = seed, tuple(shape), source
        self._low, self._high = round(low, DIGITS), round(high, DIGITS)
        self._end = self._draw(()) * math.sqrt(high - low)
        self._known: dict[float, Tensor] = {}  # the last two places: a step begins where another ended

    def __call__(self, time: float) -> Tensor:
        """W at a time, which is brought into the path's range."""
        place = min(max(round(time, DIGITS), self._low), self._high)
        if place not in self._known:
            self._known = dict([*self._known.items()][-1:]) | {place: self._walk(place)}
        return self._known[place]

    def _walk(self, place: float) -> Tensor:
        """Halve the interval around a place until the place is an end of it."""
        start, end, key, depth = self._low, self._high, 0, 0
        at_start, at_end = torch.zeros(self._shape), self._end
        while start < place < end:
            middle = round(0.5 * (end + start), DIGITS)
            left, right, whole = middle - start, end - middle, end - start
            bridge = (at_end - at_start) * (left / whole) + math.sqrt(left * right / whole) * self._draw((key, depth))
            if place < middle:
                end, at_end, key = middle, at_start + bridge, 2 * key
            else:
                start, at_start, key = middle, at_start + bridge, 2 * key + 1
            depth += 1
        return at_start if place <= start else at_end

    def _draw(self, spawn_key: tuple[int, ...]) -> Tensor:
        sequence = np.random.SeedSequence(self._seed, spawn_key=spawn_key, pool_size=POOL)
        return self._source(int(sequence.generate_state(1)[0])).normal(self._shape)


class BrownianNoise:
    """Starts as `noise` does, and goes on along Brownian paths over the levels of a schedule.

    One path for each picture, made from its seed, or ``together`` one for the whole batch. The time is k-diffusion's
    and ComfyUI's sigma: sigma / alpha, or sigma itself for rectified flow. A ratio that is infinite, which they do not
    have, is taken for twice the largest one that is not.
    """

    def __init__(
        self,
        noise: SeededNoise,
        seeds: Sequence[int],
        levels: Schedule,
        source: Callable[[int], Source],
        *,
        together: bool = False,
    ) -> None:
        self._noise, self._seeds, self._source, self._together = noise, seeds, source, together
        self._time = _sigma if isinstance(levels.process, RectifiedFlow) else _ratio
        times = [self._time(level) for level in levels]
        finite = [time for time in times if 0 < time < math.inf] or [1.0]  # none in a single step from pure noise
        self._low, self._high = min(finite), max(finite) * (2 if math.inf in times else 1)
        self._paths: list[BrownianPath] = []

    def start(
        self, shape: Sequence[int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """What the pictures start from, (B, *shape)."""
        return self._noise.start(shape, device, dtype)

    def __call__(self, x: Tensor, level: Level, to: Level) -> Tensor:
        """The path's change over a step, as a unit normal; the path runs towards more noise, a step towards less."""
        if not self._paths:
            shape, seeds = (x.shape, self._seeds[:1]) if self._together else (x.shape[1:], self._seeds)
            self._paths = [BrownianPath(seed, shape, self._low, self._high, self._source) for seed in seeds]
        high, low = (min(max(self._time(each), self._low), self._high) for each in (level, to))
        steps = [(path(low) - path(high)) / math.sqrt(high - low) for path in self._paths]
        return (steps[0] if self._together else torch.stack(steps)).to(x.device, x.dtype)

    def state(self) -> list[Tensor]:
        """The state of what it started from; a path has none, for it is the same whenever it is asked."""
        return self._noise.state()

    def restore(self, state: Sequence[Tensor]) -> None:
        """Go on from a saved `state`."""
        self._noise.restore(state)


def _ratio(level: Level) -> float:
    return float(np.float32(math.exp(-level.lam))) if level.alpha else math.inf


def _sigma(level: Level) -> float:
    return float(np.float32(level.sigma))
