"""Samplers without memory: each step starts anew from x.

All are written in ``(alpha, sigma, lam)``, so that one function serves variance-preserving processes and rectified
flow. An *ancestral* step walks the deterministic path to a level with less noise than its target and adds the missing
noise afresh. That lower level has the target's alpha and need not lie on the process: any pair (alpha, sigma) is a
place to stand; only the levels at which the network is asked are the process's own. A step of infinite length in
``lam``, from pure noise or to clean data, is taken first order.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from maquette.diffusion.denoise import Guided
from maquette.diffusion.noise import Noise
from maquette.diffusion.process import Level
from maquette.diffusion.schedules import Schedule


class Step(NamedTuple):
    """The state after a step, the estimate of the clean data that led to it (for previews), and the level of x."""

    x: Tensor
    x0: Tensor
    level: Level


Sampler = Callable[[Guided, Tensor, Schedule, Noise], Iterator[Step]]
"""``(guided, x, schedule, noise) -> steps``: walk x, which is at the first level, down the schedule."""


NEARLY_NOISE = 1e-3


def far(level: Level, to: Level) -> bool:
    """Whether a step is taken first order.

    It ends clean, or starts at noise: at pure noise, or where ``alpha`` is under a thousandth of ``sigma``, as at the
    end of the cosine process. What is seen there says nothing of x0 that could be extrapolated.
    """
    return bool(to.sigma == 0.0 or level.alpha < NEARLY_NOISE * level.sigma)


def lower(level: Level, to: Level, eta: float) -> tuple[Level, float]:
    """Where the deterministic part of an ancestral step ends, and the amount of noise that leads from there to ``to``.

    The amount is ``eta * to.sigma * sqrt(1 - exp(-2h))``: DDIM's sigma_t (2010.02502, equation 16) and k-diffusion's
    sigma_up. It never exceeds ``to.sigma``, all the noise there is.
    """
    if eta == 0.0 or to.sigma == 0.0:
        return to, 0.0
    sigma = float(to.sigma)
    up = min(eta * math.sqrt(-math.expm1(-2.0 * (to.lam - level.lam))), 1.0) * sigma
    return Level(to.t, to.alpha, math.sqrt((sigma - up) * (sigma + up))), up


def step(
    x: Tensor, x0: Tensor, level: Level, to: Level, noise: Noise, eta: float = 0.0, s_noise: float = 1.0
) -> Tensor:
    """The first-order step: keep the noise that is in x, or replace a part of it.

    ======================  =====  ====================================
    eta                            is
    ======================  =====  ====================================
    0                              DDIM, Euler, rectified-flow Euler
    between                        DDIM(eta), Euler ancestral with eta
    1                              DDPM, Euler ancestral
    inf                            LCM: all noise is new
    ======================  =====  ====================================
    """
    down, up = lower(level, to, eta)
    x = move(x, x0, level, down)
    return x + up * s_noise * noise(x, level, to) if up else x


def move(x: Tensor, x0: Tensor, level: Level, to: Level) -> Tensor:
    """Move with x0 held constant, which keeps the noise in x."""
    return to.mix(x0, level.noise(x, x0)) if to.sigma else to.alpha * x0


def hold_noise(x: Tensor, noise: Tensor, level: Level, to: Level) -> Tensor:
    """Move with a given noise held constant: ``x / alpha`` is linear in ``sigma / alpha`` with the noise as slope."""
    ratio = to.alpha / level.alpha
    return ratio * x + (to.sigma - ratio * level.sigma) * noise


@torch.no_grad()
def euler(
    guided: Guided, x: Tensor, schedule: Schedule, noise: Noise, *, eta: float = 0.0, s_noise: float = 1.0
) -> Iterator[Step]:
    """First order. Euler, DDIM, DDPM, Euler ancestral, LCM and flow Euler, by ``eta`` (see `step`)."""
    for level, to in pairwise(schedule):
        x0 = guided(x, level)
        x = step(x, x0, level, to, noise, eta, s_noise)
        yield Step(x, x0, to)


@torch.no_grad()
def heun(guided: Guided, x: Tensor, schedule: Schedule, noise: Noise) -> Iterator[Step]:
    """Second order by the mean of the noise at both ends of a step (EDM, 2206.00364, algorithm 1)."""
    for level, to in pairwise(schedule):
        x0 = guided(x, level)
        ahead = move(x, x0, level, to)
        if not far(level, to):
            end = to.noise(ahead, guided(ahead, to))
            ahead = hold_noise(x, (level.noise(x, x0) + end) / 2, level, to)
        x = ahead
        yield Step(x, x0, to)


@torch.no_grad()
def midpoint(
    guided: Guided,
    x: Tensor,
    schedule: Schedule,
    noise: Noise,
    *,
    hold: Literal["noise", "x0"] = "x0",
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[Step]:
    """Second order by the answer in the middle of a step, held over the whole of it; ancestral by ``eta``.

    Holding the noise is DPM-Solver-2 (2206.00927, algorithm 1), holding x0 DPM-Solver++ 2S (2211.01095, algorithm 1).
    """
    for level, to in pairwise(schedule):
        x0 = guided(x, level)
        down, up = lower(level, to, eta)
        if far(level, down):
            x = step(x, x0, level, to, noise, eta, s_noise)
        else:
            middle = schedule.between(level, down, 0.5)
            half = move(x, x0, level, middle)
            best = guided(half, middle)
            noise_held = hold == "noise"
            x = hold_noise(x, middle.noise(half, best), level, down) if noise_held else move(x, best, level, down)
            x = x + up * s_noise * noise(x, level, to) if up else x
        yield Step(x, x0, to)


@torch.no_grad()
def dpmpp_sde(
    guided: Guided,
    x: Tensor,
    schedule: Schedule,
    noise: Noise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
) -> Iterator[Step]:
    """DPM-Solver++ for the diffusion SDE: an ancestral step to the fraction ``r``, then one over the whole.

    The whole step uses x0 extrapolated from both (2211.01095, section 6).
    """
    for level, to in pairwise(schedule):
        x0 = guided(x, level)
        best = x0
        if not far(level, to):
            middle = schedule.between(level, to, r)
            half = step(x, x0, level, middle, noise, eta, s_noise)
            best = x0 + (guided(half, middle) - x0) / (2.0 * r)
        x = step(x, best, level, to, noise, eta, s_noise)
        yield Step(x, x0, to)
