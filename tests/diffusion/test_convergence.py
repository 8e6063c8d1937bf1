"""The order at which each deterministic sampler converges to the exact probability flow of a Gaussian mixture.

For a variance-preserving process the steps are equal in lam, from sigma 10 to 0.05. For rectified flow they are equal
in time and start at pure noise, where the first step is of infinite length in lam and taken first order: that costs a
second-order method no more than a logarithm, (1 / n²) log n, whose measured slope is about 1.85; the methods of third
order end at second order there, as they do in lam, where their first steps are of lower order.
"""

import math
from itertools import pairwise

import pytest
import torch

from maquette.diffusion.process import RectifiedFlow
from maquette.diffusion.samplers import sampler
from maquette.diffusion.schedules import Schedule

END = 0.05
FLOW = RectifiedFlow()

# Sampler, options, and the least slope from 40 to 160 steps, in lam and in time from pure noise.
ORDERS = [
    ("euler", {}, 1.0, 1.0),
    ("heun", {}, 2.0, 1.75),
    ("dpm2", {}, 2.0, 1.8),
    ("dpmpp_2s_a", {"eta": 0.0}, 1.9, 1.85),
    ("dpmpp_sde", {"eta": 0.0}, 1.9, 1.85),
    ("dpmpp_2m", {}, 1.9, 1.8),
    ("dpmpp_2m", {"solver": "heun"}, 1.95, 1.85),
    ("dpmpp_3m_sde", {"eta": 0.0}, 2.2, 1.95),
    ("lms", {}, 2.6, 2.1),
    ("deis", {}, 2.4, 2.0),
    ("plms", {}, 1.9, 1.55),
    ("unipc", {}, 2.9, 1.85),
    ("unipc", {"variant": "bh1"}, 2.9, 1.65),
    ("unipc", {"order": 3}, 1.9, 1.9),
]


def slope(name, options, mixture, schedules, x, exact) -> float:
    """The measured order of convergence between the first and the last schedule."""
    errors = []
    for made in schedules:
        *_, last = sampler(name, **options)(mixture, x, made, None)
        errors.append((last.x / last.level.alpha - exact).square().mean().sqrt().item())
    steps = [len(made) - 1 for made in schedules]
    assert all(later < error for error, later in pairwise(errors))
    return math.log(errors[0] / errors[-1]) / math.log(steps[-1] / steps[0])


@pytest.mark.parametrize(("name", "options", "in_lam", "in_time"), ORDERS)
def test_order_in_lam(name, options, in_lam, in_time, mixture, problem, kdiffusion, ratio) -> None:
    schedules = [ratio.schedule([10.0 * (END / 10.0) ** (i / n) for i in range(n + 1)]) for n in (40, 80, 160)]
    x = problem["start"] * schedules[0][0].sigma
    exact = kdiffusion["exact|order_10_to_0.05|x"][0]
    assert slope(name, options, mixture, schedules, x, exact) > in_lam


@pytest.mark.parametrize(("name", "options", "in_lam", "in_time"), ORDERS)
def test_order_in_time_from_pure_noise(name, options, in_lam, in_time, mixture, problem, exact_from_noise) -> None:
    end = FLOW.time(-math.log(END))
    schedules = [Schedule(FLOW, tuple(FLOW.at(1.0 + (end - 1.0) * i / n) for i in range(n + 1))) for n in (40, 80, 160)]
    assert slope(name, options, mixture, schedules, problem["start"], exact_from_noise) > in_time


@pytest.fixture(scope="module")
def exact_from_noise(mixture, problem) -> torch.Tensor:
    end = FLOW.at(FLOW.time(-math.log(END)))
    return mixture.flow(problem["start"], FLOW.at(1.0), end) / end.alpha


def test_the_exact_flow_agrees_with_the_recorded_one(mixture, problem, kdiffusion, ratio) -> None:
    start, end = ratio.at(math.log(10.0)), ratio.at(math.log(END))
    flowed = mixture.flow(problem["start"] * start.sigma, start, end) / end.alpha
    torch.testing.assert_close(flowed, kdiffusion["exact|order_10_to_0.05|x"][0], rtol=0, atol=1e-9)
