"""Samplers with memory: a step uses the answers of the steps before it.

All solve the same linear equation exactly and interpolate what is not linear, the answers so far, with a polynomial;
they differ in what is interpolated (x0 or the noise) and in which coordinate (``lam`` or ``sigma / alpha``). A step of
infinite length in ``lam`` is taken first order, and leaves no memory where it began.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from maquette.diffusion.denoise import Guided
from maquette.diffusion.noise import Noise
from maquette.diffusion.process import Level
from maquette.diffusion.schedules import Schedule
from maquette.diffusion.singlestep import Step, far, move


@torch.no_grad()
def dpmpp(
    guided: Guided,
    x: Tensor,
    schedule: Schedule,
    noise: Noise,
    *,
    order: Literal[2, 3] = 2,
    eta: float = 0.0,
    s_noise: float = 1.0,
    solver: Literal["midpoint", "heun"] = "midpoint",
) -> Iterator[Step]:
    """DPM-Solver++ 2M (2211.01095, algorithm 2), its SDE for ``eta`` > 0, and 3M SDE; x0 is interpolated in ``lam``.

    ``solver`` is how a slope known from two answers is weighed. Order 3 is as published in code everywhere, with half
    the curvature that the paper's derivation gives, and so converges with order 2.
    """
    past: list[tuple[float, Tensor]] = []  # (lam, x0), newest first
    for level, to in pairwise(schedule):
        x0 = guided(x, level)
        h = to.lam - level.lam
        fresh = eta * h if eta else 0.0  # the part of the noise's decay that is replaced
        past = [] if far(level, to) else [(level.lam, x0), *past][:order]
        x = to.sigma / level.sigma * math.exp(-fresh) * x - to.alpha * math.expm1(-h - fresh) * x0
        if len(past) > 1:
            x = x + to.alpha * _bend(past, h, h + fresh, solver)
        if fresh and to.sigma:
            x = x + to.sigma * math.sqrt(-math.expm1(-2.0 * fresh)) * s_noise * noise(x, level, to)
        yield Step(x, x0, to)


def _bend(past: Sequence[tuple[float, Tensor]], h: float, decay: float, solver: str) -> Tensor:
    """What the change of x0 along a step of length ``h`` adds, from two or three answers, newest first."""
    (lam0, new), (lam1, old) = past[:2]
    slope = (new - old) * (h / (lam0 - lam1))
    phi2 = math.expm1(-decay) / decay + 1.0
    if len(past) == 2:
        return (phi2 if solver == "heun" else -math.expm1(-decay) / 2.0) * slope
    lam2, oldest = past[2]
    slope_before = (old - oldest) * (h / (lam1 - lam2))
    curve = (slope - slope_before) * (h / (lam0 - lam2))
    phi3 = phi2 / decay - 0.5
    return phi2 * (slope + curve * ((lam0 - lam1) / h)) - phi3 * curve


@torch.no_grad()
def adams(
    guided: Guided,
    x: Tensor,
    schedule: Schedule,
    noise: Noise,
    *,
    order: int = 4,
    coordinate: Literal["ratio", "lam"] = "ratio",
) -> Iterator[Step]:
    """Adams-Bashforth on the noise: ``x / alpha`` is its integral over ``sigma / alpha``.

    The noise is interpolated in the ratio itself (LMS of k-diffusion) or in ``lam`` (DEIS, 2204.13902, tAB in log rho).
    """
    past: list[tuple[Level, Tensor]] = []  # newest first
    for level, to in pairwise(schedule):
        x0 = guided(x, level)
        if far(level, to):
            x = move(x, x0, level, to)
        else:
            past = [(level, level.noise(x, x0)), *past][:order]
            nodes = [_place(before, coordinate) for before, _ in past]
            weights = _adams_weights(nodes, nodes[0], _place(to, coordinate), coordinate)
            slopes = sum(weight * before for weight, (_, before) in zip(weights, past, strict=True))
            x = to.alpha / level.alpha * x + to.alpha * slopes
        yield Step(x, x0, to)


def _place(level: Level, coordinate: str) -> float:
    return level.lam if coordinate == "lam" else math.exp(-level.lam)


def _adams_weights(nodes: Sequence[float], start: float, end: float, coordinate: str) -> list[float]:
    """Integrals of the Lagrange polynomials on ``nodes`` over d(sigma / alpha), exact to double precision."""
    points, weights = np.polynomial.legendre.leggauss(24)
    points = (start + end) / 2 + (end - start) / 2 * points
    weights = (end - start) / 2 * weights
    if coordinate == "lam":  # the ratio is exp(-lam)
        weights = weights * -np.exp(-points)
    basis = (np.prod([(points - other) / (node - other) for other in nodes if other != node], axis=0) for node in nodes)
    return [float(np.sum(weights * polynomial)) for polynomial in basis]


EQUAL_STEPS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams and Bashforth's weights of the last answers, newest first, for steps that are taken to be equal."""


@torch.no_grad()
def plms(guided: Guided, x: Tensor, schedule: Schedule, noise: Noise) -> Iterator[Step]:
    """PLMS, the pseudo linear multistep of PNDM (2202.09778, equation 12), with which latent diffusion was published.

    The noise that a step removes is a mean of the last four answers by fixed weights. The first step has none to look
    back on: it is tried, and taken by the mean of the noise at both of its ends.
    """
    past: list[Tensor] = []  # noise, newest first
    for level, to in pairwise(schedule):
        x0 = guided(x, level)
        if far(level, to):
            x = move(x, x0, level, to)
        else:
            past = [level.noise(x, x0), *past][: len(EQUAL_STEPS)]
            mean = torch.stack([w * each for w, each in zip(EQUAL_STEPS[len(past) - 1], past, strict=True)]).sum(0)
            if len(past) == 1:
                ahead = move(x, x0, level, to)
                mean = (mean + to.noise(ahead, guided(ahead, to))) / 2
            x = to.alpha / level.alpha * x + (to.sigma - to.alpha / level.alpha * level.sigma) * mean
        yield Step(x, x0, to)


@torch.no_grad()
def unipc(
    guided: Guided,
    x: Tensor,
    schedule: Schedule,
    noise: Noise,
    *,
    order: int = 2,
    variant: Literal["bh1", "bh2"] = "bh2",
) -> Iterator[Step]:
    """UniPC (2302.04867, algorithms 5 and 6): x0 at the end of a step, once known, also corrects the step.

    The order falls towards the end of the schedule, as in the authors' code.
    """
    past: list[tuple[float, Tensor]] = []  # (lam, x0), newest first
    before: tuple[Tensor, Level, int] | None = None  # where the last step began, and its order
    for i, (level, to) in enumerate(pairwise(schedule)):
        x0 = guided(x, level)
        if before is not None and past:
            x = _unified(before[0], before[1], level, past[: before[2]], variant, x0)
        past = [] if far(level, to) else [(level.lam, x0), *past][:order]
        used = min(len(past), len(schedule) - 1 - i)
        before = x, level, used
        x = _unified(x, level, to, past[:used], variant) if used > 1 else move(x, x0, level, to)
        yield Step(x, x0, to)


def _unified(
    x: Tensor,
    level: Level,
    to: Level,
    past: Sequence[tuple[float, Tensor]],
    variant: str,
    ahead: Tensor | None = None,
) -> Tensor:
    """UniP, or UniC where ``ahead``, the answer at ``to``, is known; ``past`` is newest first, from ``level`` on."""
    h = to.lam - level.lam
    lam, x0 = past[0]
    nodes = [(old_lam - lam) / h for old_lam, _ in past[1:]]
    changes = [(old - x0) / node for node, (_, old) in zip(nodes, past[1:], strict=True)]
    if ahead is not None:
        nodes, changes = [*nodes, 1.0], [*changes, ahead - x0]
    weights = _unified_weights(nodes, h, variant)
    bend = sum((weight * change for weight, change in zip(weights, changes, strict=True)), torch.zeros_like(x0))
    return move(x, x0, level, to) + to.alpha * bend


def _unified_weights(nodes: Sequence[float], h: float, variant: str) -> list[float]:
    """The weights of the divided changes of x0, on ``nodes`` in units of the step (2302.04867, theorem 3.1).

    ``variant`` is the paper's B(h); it cancels except where a single node has the fixed weight 1/2.
    """
    if len(nodes) == 1:
        return [(h if variant == "bh1" else -math.expm1(-h)) / 2.0]
    phi, factorial, right = -math.expm1(-h) / h - 1.0, 1.0, []
    for k in range(1, len(nodes) + 1):
        right.append(-phi * factorial)
        factorial *= k + 1
        phi = -phi / h - 1.0 / factorial
    return [float(weight) for weight in np.linalg.solve(np.vander(nodes, increasing=True).T, right)]
