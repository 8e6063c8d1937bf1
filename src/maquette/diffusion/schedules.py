"""Schedules: which noise levels a sampler visits, noisiest first, ending where the data is clean.

One signature, ``(process, n, **options) -> Schedule`` with n steps, and one name each in `SCHEDULES`. Spacings over
the training steps (leading, trailing, linspace, ...) hold for every process, because a process says what time its
training steps have; ramps in the noise-to-signal ratio ``sigma / alpha`` (karras, exponential, ...) hold because every
process can be asked for the time of a ratio. Where a process starts at pure noise, so does the schedule, except
`leading` and `align_your_steps`, which by their definitions start below.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import overload

from maquette.diffusion.process import CLEAN, Level, Process, RectifiedFlow, shifted
from maquette.errors import MaquetteError


@dataclass(frozen=True)
class Schedule(Sequence[Level]):
    """Noise levels, noisiest first, and the process they belong to, for samplers that look between two levels."""

    process: Process
    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        for level, to in pairwise(self.levels):
            if not to.lam > level.lam:
                raise MaquetteError(
                    f"Schedule: got time {to.t:g} after time {level.t:g}, which does not lower the noise; "
                    "ask for fewer steps, or for levels inside the range of the process"
                )

    def __len__(self) -> int:
        return len(self.levels)

    def __iter__(self) -> Iterator[Level]:
        return iter(self.levels)

    @overload
    def __getitem__(self, index: int) -> Level: ...
    @overload
    def __getitem__(self, index: slice) -> "Schedule": ...
    def __getitem__(self, index: int | slice) -> "Level | Schedule":
        return Schedule(self.process, self.levels[index]) if isinstance(index, slice) else self.levels[index]

    def between(self, level: Level, to: Level, part: float) -> Level:
        """The process's own level at the fraction ``part`` of the way from ``level`` to ``to`` in ``lam``."""
        return _at_lam(self.process, level.lam + part * (to.lam - level.lam))

    def strength(self, strength: float) -> "Schedule":
        """The last part of the schedule, for image to image: 1 keeps all of it, 0 only the clean end."""
        if not 0.0 <= strength <= 1.0:
            raise MaquetteError(f"Schedule.strength: got {strength}; give a number from 0 (unchanged) to 1 (all new)")
        steps = len(self.levels) - 1
        return self[steps - kept_steps(steps, strength) :]


def kept_steps(steps: int, strength: float) -> int:
    """How many of the steps image to image walks: the last ones."""
    return max(round(strength * steps), 1) if strength > 0.0 else 0


# Spacings over the training steps.


def leading(process: Process, n: int, *, offset: int = 1) -> Schedule:
    """Every (steps // n)-th training step, counted from ``offset`` (DDIM in latent diffusion; SD 1 has offset 1)."""
    stride = process.steps // len(_count(n))
    if stride == 0 or (n - 1) * stride + offset > process.steps - 1:
        raise MaquetteError(
            f"schedule 'leading': got {n} steps with offset {offset}, beyond the {process.steps} training steps; "
            "use fewer steps, offset 0, or 'trailing'"
        )
    return _from_steps(process, (k * stride + offset for k in reversed(_count(n))))


def trailing(process: Process, n: int) -> Schedule:
    """Equal strides counted from the last training step, rounded to whole steps (2305.08891, table 2)."""
    stride = (process.steps - process.steps / len(_count(n))) - process.steps  # as numpy's arange has it: ties agree
    return _from_steps(process, (round(process.steps + k * stride) - 1 for k in _count(n)))


def linspace(process: Process, n: int, *, whole: bool = False) -> Schedule:
    """n points from the last training step to the first, both included; ``whole`` rounds them (iDDPM)."""
    points = (_lerp(process.steps - 1, 0.0, k, n - 1) for k in _count(n))
    return _from_steps(process, (round(point) for point in points) if whole else points)


def sgm_uniform(process: Process, n: int, *, whole: bool = False) -> Schedule:
    """n + 1 points from the last training step to the first, which is left out; ``whole`` rounds them down (sgm)."""
    points = (_lerp(process.steps - 1, 0.0, k, n) for k in _count(n))
    return _from_steps(process, (int(point) for point in points) if whole else points)


def simple(process: Process, n: int) -> Schedule:
    """Equal strides from the last training step, each rounded down to a whole step."""
    return _from_steps(process, (process.steps - 1 - int(k * process.steps / n) for k in _count(n)))


def lcm(process: Process, n: int, *, training: int = 50) -> Schedule:
    """n of the ``training`` equally spaced steps that consistency was distilled on, from the last on (2310.04378)."""
    stride = process.steps // training
    return _from_steps(process, (process.steps - 1 - stride * int(k * training / n) for k in _count(n)))


def beta(process: Process, n: int, *, a: float = 0.6, b: float = 0.6) -> Schedule:
    """Quantiles of a beta distribution over the training steps, denser at both ends (2407.12173)."""
    if a <= 0.0 or b <= 0.0:
        raise MaquetteError(f"schedule 'beta': got a {a} and b {b}; both must be positive")
    return _from_steps(process, ((process.steps - 1) * _beta_quantile(1.0 - k / n, a, b) for k in _count(n)))


# Ramps in the noise-to-signal ratio.


def karras(
    process: Process,
    n: int,
    *,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Schedule:
    """Ratios whose 1/rho-th powers are linear (EDM, 2206.00364, equation 5)."""
    low, high = _range(process, sigma_min, sigma_max)
    ramp = (_lerp(high ** (1 / rho), low ** (1 / rho), k, n - 1) ** rho for k in _count(n))
    return _from_lams(process, (-math.log(ratio) for ratio in ramp), snap=sigma_max is None)


def exponential(
    process: Process, n: int, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Schedule:
    """Equal steps in ``lam`` (DPM-Solver, 2206.00927, section 3.4)."""
    low, high = _range(process, sigma_min, sigma_max)
    ramp = (_lerp(-math.log(high), -math.log(low), k, n - 1) for k in _count(n))
    return _from_lams(process, ramp, snap=sigma_max is None)


def kl_optimal(process: Process, n: int) -> Schedule:
    """Ratios whose arc tangents are linear, which is optimal for Gaussian data (2404.14507, theorem 3.1)."""
    low, high = (math.atan2(level.sigma, level.alpha) for level in _ends(process))
    ramp = (-_log_tan(_lerp(high, low, k, n - 1)) for k in _count(n))
    return _from_lams(process, ramp, snap=True)


ALIGNED_STEPS = {
    "sd1": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""The ratios that Align Your Steps publishes for ten steps (2404.14507, appendix)."""


def align_your_steps(process: Process, n: int, *, model: str = "sd1") -> Schedule:
    """Ratios optimised for a model, interpolated log-linearly to n steps (2404.14507)."""
    if model not in ALIGNED_STEPS:
        raise MaquetteError(f"schedule 'align_your_steps': got model {model!r}; give one of {', '.join(ALIGNED_STEPS)}")
    logs = [math.log(ratio) for ratio in ALIGNED_STEPS[model]]

    def at(place: float) -> float:
        low = min(int(place), len(logs) - 2)
        return logs[low] + (place - low) * (logs[low + 1] - logs[low])

    return _from_lams(process, (-at(k * (len(logs) - 1) / n) for k in _count(n)))


# Rectified flow.


def flow(process: Process, n: int, *, shift: float | None = None, tokens: int | None = None) -> Schedule:
    """Equal steps in time, shifted towards noise by the process's shift, ``shift``, or FLUX's rule for ``tokens``."""
    amount = _flow_shift(process, shift, tokens)
    return _from_times(process, (shifted(1.0 - k / n, amount) for k in _count(n)))


def sd3(process: Process, n: int, *, shift: float | None = None) -> Schedule:
    """n points from pure noise to the first training step's shifted time, shifted (SD3's reference sampler)."""
    amount = _flow_shift(process, shift, None)
    last = shifted(1.0 / process.steps, amount)
    return _from_times(process, (shifted(_lerp(1.0, last, k, n - 1), amount) for k in _count(n)))


def flux_shift(tokens: int) -> float:
    """FLUX's shift for a picture of ``tokens`` patches: ``exp(mu)``, mu linear from (256, 0.5) to (4096, 1.15)."""
    return math.exp(0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256))


def _flow_shift(process: Process, shift: float | None, tokens: int | None) -> float:
    if not isinstance(process, RectifiedFlow):
        raise MaquetteError("schedules 'flow' and 'sd3' are for rectified flow; use 'trailing' or 'karras' here")
    if shift is not None and tokens is not None:
        raise MaquetteError(f"schedule 'flow': got both shift {shift} and tokens {tokens}; give one of them")
    return flux_shift(tokens) if tokens is not None else process.shift if shift is None else shift


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    function.__name__: function
    for function in (
        *(leading, trailing, linspace, sgm_uniform, simple, lcm, beta),
        *(karras, exponential, kl_optimal, align_your_steps, flow, sd3),
    )
}
"""Every schedule by name: ``SCHEDULES[name](process, n, **options)``."""


def schedule(name: str, process: Process, n: int, **options: float | str | None) -> Schedule:
    """The schedule ``name`` with ``n`` steps; unknown names and options are an error that lists the known ones."""
    if name not in SCHEDULES:
        raise MaquetteError(f"got the schedule {name!r}, which does not exist; give one of {', '.join(SCHEDULES)}")
    known = list(inspect.signature(SCHEDULES[name]).parameters)[2:]
    for option in options:
        if option not in known:
            raise MaquetteError(
                f"schedule {name!r}: got the option {option!r}; it takes {', '.join(known) or 'no options'}"
            )
    return SCHEDULES[name](process, n, **options)


# From steps, times and lams to levels.

_NEARLY_NOISE = 80.0
"""The ratio at which ramps begin where a process's own first ratio is infinite (EDM's sigma_max)."""


def _from_times(process: Process, times: Iterable[float]) -> Schedule:
    return Schedule(process, (*(process.at(float(t)) for t in times), CLEAN))


def _from_steps(process: Process, steps: Iterable[float]) -> Schedule:
    return _from_times(process, (process.trained(step) for step in steps))


def _from_lams(process: Process, lams: Iterable[float], snap: bool = False) -> Schedule:
    """Levels at ``lam``; ``snap`` puts the first exactly on the process's start, pure noise where it has it."""
    levels = [_at_lam(process, lam) for lam in lams]
    return Schedule(process, (process.at(process.start) if snap else levels[0], *levels[1:], CLEAN))


def _at_lam(process: Process, lam: float) -> Level:
    return process.at(process.time(lam))


def _ends(process: Process) -> tuple[Level, Level]:
    """The levels of the first and the last training step."""
    return process.at(process.trained(0.0)), process.at(process.start)


def _range(process: Process, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    """The smallest and largest ``sigma / alpha`` of a ramp."""
    first, last = _ends(process)
    low = math.exp(-first.lam) if sigma_min is None else sigma_min
    high = sigma_max if sigma_max is not None else math.exp(-last.lam) if last.alpha else _NEARLY_NOISE
    if not 0.0 < low < high:
        raise MaquetteError(f"got sigma_min {low:g} and sigma_max {high:g}; the first must be positive and smaller")
    return low, high


def _lerp(first: float, last: float, k: int, count: int) -> float:
    """Point ``k`` of ``count`` equal intervals; the first point where there is no interval."""
    return first + (last - first) * k / count if count else first


def _log_tan(angle: float) -> float:
    return math.inf if angle >= math.pi / 2 else math.log(math.tan(angle))


def _count(n: int) -> range:
    if n < 1:
        raise MaquetteError(f"got {n} steps; a schedule needs at least one")
    return range(n)


def _beta_quantile(p: float, a: float, b: float) -> float:
    """The x at which the regularised incomplete beta function is ``p``, by bisection."""
    if p >= 1.0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _beta_cdf(middle, a, b) < p else (low, middle)
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _beta_cdf(1.0 - x, b, a)
    fraction = 0.0
    for m in range(60, 0, -1):  # from the innermost term outwards
        half = m // 2
        if m % 2:
            term = -(a + half) * (a + b + half) * x / ((a + m - 1) * (a + m))
        else:
            term = half * (b - half) * x / ((a + m - 1) * (a + m))
        fraction = term / (1.0 + fraction)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * (1.0 + fraction))
