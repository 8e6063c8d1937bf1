"""Noise levels, and the processes that map a network's time to one.

There is one coordinate system, ``x = alpha * x0 + sigma * noise``; a `Level` is a point ``(t, alpha, sigma)`` in it.
Variance-preserving processes (DDPM, 2006.11239) keep ``alpha² + sigma² = 1``; rectified flow (2209.03003) keeps
``alpha + sigma = 1``. All that samplers know of either is the half log-SNR ``lam = log(alpha / sigma)``.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from operator import mul
from typing import NamedTuple, Protocol, Self, overload

import torch
from torch import Tensor

from maquette.errors import MaquetteError

Scalar = float | Tensor
"""A Python float when sampling; a tensor that broadcasts over a batch when training."""


class Level(NamedTuple):
    """One noise level: ``x = alpha * x0 + sigma * noise``, and the time ``t`` at which a network knows it.

    When sampling, three floats. When training, ``t`` has shape (B,), as networks read it, and ``alpha`` and ``sigma``
    have shape (B, 1, 1, 1).
    """

    t: Scalar
    alpha: Scalar
    sigma: Scalar

    @property
    def lam(self) -> float:
        """Half the log signal-to-noise ratio, ``log(alpha / sigma)``: -inf at pure noise, +inf where clean."""
        alpha, sigma = float(self.alpha), float(self.sigma)
        if alpha == 0.0 or sigma == 0.0:
            return -math.inf if alpha == 0.0 else math.inf
        return math.log(alpha) - math.log(sigma)

    @property
    def snr(self) -> Scalar:
        """The signal-to-noise ratio ``alpha² / sigma²``, infinite where clean."""
        if isinstance(self.sigma, Tensor):
            return (self.alpha / self.sigma) ** 2
        return (self.alpha / self.sigma) ** 2 if self.sigma else math.inf

    def mix(self, x0: Tensor, noise: Tensor) -> Tensor:
        """Bring clean data to this level: ``alpha * x0 + sigma * noise``."""
        return self.alpha * x0 + self.sigma * noise

    def noise(self, x: Tensor, x0: Tensor) -> Tensor:
        """Read off the noise in ``x`` when its clean part is ``x0``; undefined where ``sigma`` is 0."""
        return (x - self.alpha * x0) / self.sigma


CLEAN = Level(0.0, 1.0, 0.0)
"""The end of every complete schedule."""


class Process(Protocol):
    """How a network was trained to see noise."""

    @property
    def start(self) -> float:
        """The time of the noisiest level; pure noise where the process has it."""
        ...

    @property
    def end(self) -> float:
        """The time of the least noisy level."""
        ...

    @property
    def steps(self) -> int:
        """The number of training steps that schedules divide."""
        ...

    @overload
    def at(self, t: float) -> Level: ...
    @overload
    def at(self, t: Tensor) -> Level: ...
    def at(self, t: Scalar) -> Level:
        """The level at time ``t``: a float, or a tensor (B,), which gives (B, 1, 1, 1) tensors on its device."""
        ...

    def time(self, lam: float) -> float:
        """The time at which ``log(alpha / sigma)`` is ``lam``: the inverse of `at`."""
        ...

    @overload
    def trained(self, step: float) -> float: ...
    @overload
    def trained(self, step: Tensor) -> Tensor: ...
    def trained(self, step: Scalar) -> Scalar:
        """The time of training step ``step``, fractions allowed, from 0 (least noise) to ``steps - 1``."""
        ...


def vp(t: float, lam: float) -> Level:
    """The variance-preserving level, ``alpha² + sigma² = 1``, with ``log(alpha / sigma) = lam``."""
    if lam == -math.inf:
        return Level(t, 0.0, 1.0)
    ratio = math.exp(-lam)
    length = math.hypot(1.0, ratio)
    return Level(t, 1.0 / length, ratio / length)


@dataclass(frozen=True)
class Discrete:
    """The discrete variance-preserving process of DDPM: ``alpha² = prod(1 - betas)``, times 0 .. steps - 1.

    Between two steps ``lam`` is linear in time, as in k-diffusion. Where the last step is pure noise (``lam`` is
    -inf) the ratio ``alpha / sigma`` is linear over the last interval instead. Tables are float64.
    """

    betas: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.betas) < 2 or not all(0.0 < beta < 1.0 for beta in self.betas[:-1]) or not 0 < self.betas[-1] <= 1:
            raise MaquetteError(
                f"Discrete: got {len(self.betas)} betas that are not a noise schedule; "
                "give at least two numbers between 0 and 1 (the last may be 1)"
            )

    @classmethod
    def linear(
        cls, first: float = 1e-4, last: float = 0.02, steps: int = 1000, *, zero_terminal_snr: bool = False
    ) -> Self:
        """Betas linear in time (DDPM, section 4)."""
        return cls._built(_linspace(first, last, steps), zero_terminal_snr)

    @classmethod
    def scaled_linear(
        cls, first: float = 0.00085, last: float = 0.012, steps: int = 1000, *, zero_terminal_snr: bool = False
    ) -> Self:
        """Betas whose square roots are linear in time (latent diffusion, Stable Diffusion)."""
        return cls._built(
            [root * root for root in _linspace(math.sqrt(first), math.sqrt(last), steps)], zero_terminal_snr
        )

    @classmethod
    def cosine(
        cls, steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999, *, zero_terminal_snr: bool = False
    ) -> Self:
        """``alpha²`` is a squared cosine of time (Nichol & Dhariwal, 2102.09672, equation 17)."""
        bars = [math.cos((i / steps + offset) / (1 + offset) * math.pi / 2) ** 2 for i in range(steps + 1)]
        betas = [min(1.0 - bars[i + 1] / bars[i], max_beta) for i in range(steps)]
        return cls._built(betas, zero_terminal_snr)

    @classmethod
    def _built(cls, betas: Iterable[float], zero_terminal_snr: bool) -> Self:
        betas = tuple(betas)
        return cls(_zero_terminal_snr(betas) if zero_terminal_snr else betas)

    @cached_property
    def _bars(self) -> list[float]:
        return list(accumulate((1.0 - beta for beta in self.betas), mul))

    @cached_property
    def _alphas(self) -> list[float]:
        return [math.sqrt(bar) for bar in self._bars]

    @cached_property
    def _sigmas(self) -> list[float]:
        return [math.sqrt(1.0 - bar) for bar in self._bars]

    @cached_property
    def _lams(self) -> list[float]:
        return [Level(0.0, alpha, sigma).lam for alpha, sigma in zip(self._alphas, self._sigmas, strict=True)]

    @property
    def start(self) -> float:
        """The last step, ``steps - 1``."""
        return float(len(self.betas) - 1)

    @property
    def end(self) -> float:
        """The first step, 0."""
        return 0.0

    @property
    def steps(self) -> int:
        """The number of betas."""
        return len(self.betas)

    @overload
    def at(self, t: float) -> Level: ...
    @overload
    def at(self, t: Tensor) -> Level: ...
    def at(self, t: Scalar) -> Level:
        """The level at time ``t`` in [0, steps - 1]; tensors (B,) are clamped to it, floats outside are an error."""
        if isinstance(t, Tensor):
            return self._at_each(t)
        if not 0.0 <= t <= self.start:
            raise MaquetteError(f"Discrete.at: got time {t}; this process has the times 0 to {self.start:g}")
        low = min(int(t), self.steps - 2)
        part = t - low
        if part in (0.0, 1.0):
            return Level(float(t), self._alphas[low + int(part)], self._sigmas[low + int(part)])
        if self._lams[low + 1] == -math.inf:
            return vp(t, self._lams[low] + math.log1p(-part))
        return vp(t, (1.0 - part) * self._lams[low] + part * self._lams[low + 1])

    def _at_each(self, t: Tensor) -> Level:
        """`at` for a batch of times (B,); float64 if ``t`` is, else float32."""
        lams = torch.tensor(self._lams, dtype=torch.float64, device=t.device)
        time = t.to(torch.float64).clamp(0.0, self.start)
        low = time.floor().long().clamp(max=self.steps - 2)
        part = time - low
        lam_low, lam_high = lams[low], lams[low + 1]
        log_linear = torch.lerp(lam_low, torch.where(lam_high.isinf(), lam_low, lam_high), part)
        lam = torch.where(lam_high.isinf(), lam_low + torch.log1p(-part), log_linear)
        return _shaped(t, torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt())

    def time(self, lam: float) -> float:
        """The time at which ``log(alpha / sigma)`` is ``lam``, clamped to [0, steps - 1]."""
        lams = self._lams
        if lam >= lams[0] or lam <= lams[-1]:
            return 0.0 if lam >= lams[0] else self.start
        low, high = 0, self.steps - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if lams[middle] >= lam else (low, middle)
        if lams[high] == -math.inf:
            return low - math.expm1(lam - lams[low])
        return low + (lams[low] - lam) / (lams[low] - lams[high])

    @overload
    def trained(self, step: float) -> float: ...
    @overload
    def trained(self, step: Tensor) -> Tensor: ...
    def trained(self, step: Scalar) -> Scalar:
        """The step itself, not below 0."""
        return step.clamp(min=0.0) if isinstance(step, Tensor) else max(float(step), 0.0)


@dataclass(frozen=True)
class RectifiedFlow:
    """Straight paths from data to noise: ``alpha = 1 - t``, ``sigma = t``, t in [0, 1] (2209.03003, 2403.03206).

    ``shift`` does not change a level; it says where training and schedules spend their steps (SD3, equation 23).
    """

    shift: float = 1.0
    steps: int = 1000

    def __post_init__(self) -> None:
        if not self.shift > 0.0:
            raise MaquetteError(f"RectifiedFlow: got shift {self.shift}; it must be positive (1 leaves time alone)")

    @property
    def start(self) -> float:
        """Pure noise, 1."""
        return 1.0

    @property
    def end(self) -> float:
        """No noise, 0."""
        return 0.0

    @overload
    def at(self, t: float) -> Level: ...
    @overload
    def at(self, t: Tensor) -> Level: ...
    def at(self, t: Scalar) -> Level:
        """The level at time ``t`` in [0, 1]."""
        if isinstance(t, Tensor):
            time = t.to(torch.float64)
            return _shaped(t, 1.0 - time, time)
        if not 0.0 <= t <= 1.0:
            raise MaquetteError(f"RectifiedFlow.at: got time {t}; this process has the times 0 to 1")
        return Level(float(t), 1.0 - t, float(t))

    def time(self, lam: float) -> float:
        """The time at which ``log(alpha / sigma)`` is ``lam``: ``1 / (1 + exp(lam))``."""
        return 1.0 / (1.0 + math.exp(lam)) if lam < 700.0 else 0.0

    @overload
    def trained(self, step: float) -> float: ...
    @overload
    def trained(self, step: Tensor) -> Tensor: ...
    def trained(self, step: Scalar) -> Scalar:
        """The shifted time of the fraction ``(step + 1) / steps``."""
        return shifted((step + 1.0) / self.steps, self.shift)


@dataclass(frozen=True)
class EDM:
    """The continuous noise of EDM (Karras et al. 2022): the network's time is ``log(ratio) / 4``, table 1's c_noise.

    The paper's x is data of spread ``sigma_data`` plus noise of a ratio from ``sigma_min`` to ``sigma_max``, and its
    network reads that times c_in. With the data divided by ``sigma_data`` this is variance-preserving:
    ``lam = log(sigma_data / ratio)``. A training step is an equal part of ``lam``.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    steps: int = 1000

    def __post_init__(self) -> None:
        if not (0.0 < self.sigma_min < self.sigma_max < math.inf and 0.0 < self.sigma_data < math.inf):
            raise MaquetteError(
                f"EDM: got noise from {self.sigma_min:g} to {self.sigma_max:g} on data of {self.sigma_data:g}; "
                "all must be positive, and the first the smallest"
            )

    @property
    def start(self) -> float:
        """The time of ``sigma_max``."""
        return math.log(self.sigma_max) / 4

    @property
    def end(self) -> float:
        """The time of ``sigma_min``."""
        return math.log(self.sigma_min) / 4

    @overload
    def at(self, t: float) -> Level: ...
    @overload
    def at(self, t: Tensor) -> Level: ...
    def at(self, t: Scalar) -> Level:
        """The level at time ``t``, from that of ``sigma_min`` to that of ``sigma_max``."""
        if isinstance(t, Tensor):
            lam = math.log(self.sigma_data) - 4 * t.to(torch.float64)
            return _shaped(t, torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt())
        if not self.end <= t <= self.start:
            raise MaquetteError(f"EDM.at: got time {t}; this process has the times {self.end:g} to {self.start:g}")
        return vp(float(t), math.log(self.sigma_data) - 4 * t)

    def time(self, lam: float) -> float:
        """The time at which ``log(alpha / sigma)`` is ``lam``, clamped to those that there are."""
        return min(max((math.log(self.sigma_data) - lam) / 4, self.end), self.start)

    @overload
    def trained(self, step: float) -> float: ...
    @overload
    def trained(self, step: Tensor) -> Tensor: ...
    def trained(self, step: Scalar) -> Scalar:
        """Equal steps from the time of ``sigma_min`` to that of ``sigma_max``."""
        part = step / (self.steps - 1)
        return self.end * (1 - part) + self.start * part


@overload
def shifted(t: float, shift: float) -> float: ...
@overload
def shifted(t: Tensor, shift: float) -> Tensor: ...
def shifted(t: Scalar, shift: float) -> Scalar:
    """Move flow times towards noise: ``shift * t / (1 + (shift - 1) * t)``, lam less log(shift) (SD3, equation 23)."""
    return shift * t / (1.0 + (shift - 1.0) * t)


def _shaped(t: Tensor, alpha: Tensor, sigma: Tensor) -> Level:
    """The level of a batch: ``t`` (B,), ``alpha`` and ``sigma`` (B, 1, 1, 1), float64 if ``t`` is, else float32."""
    dtype = torch.float64 if t.dtype == torch.float64 else torch.float32
    return Level(t.to(dtype), alpha.to(dtype).reshape(-1, 1, 1, 1), sigma.to(dtype).reshape(-1, 1, 1, 1))


def _linspace(first: float, last: float, count: int) -> list[float]:
    return [first + (last - first) * i / (count - 1) for i in range(count)]


def _zero_terminal_snr(betas: tuple[float, ...]) -> tuple[float, ...]:
    """Shift and scale ``alpha`` so that its last value is 0 and its first unchanged (2305.08891, algorithm 1)."""
    alphas = Discrete(betas)._alphas
    first, last = alphas[0], alphas[-1]
    bars = [((alpha - last) * first / (first - last)) ** 2 for alpha in alphas]
    return (1.0 - bars[0], *(1.0 - bar / before for before, bar in pairwise(bars)))
