"""Stochastic samplers keep the distribution they should: the mean and variance of Gaussian data."""

import math

import pytest
import torch
from torch import Tensor

from maquette.diffusion.process import Discrete, Level, Process, RectifiedFlow
from maquette.diffusion.samplers import SAMPLERS, sampler
from maquette.diffusion.schedules import schedule

MEAN, STD, COUNT = 0.7, 0.6, 20_000
# Each with a schedule whose last steps are fine enough for the variance of the data.
PROCESSES: dict[str, tuple[Process, str]] = {
    "zero terminal": (Discrete.scaled_linear(zero_terminal_snr=True), "kl_optimal"),
    "flow": (RectifiedFlow(), "flow"),
}
CASES = [(name, {}) for name, entry in SAMPLERS.items() if entry.stochastic and name != "lcm"]
CASES += [("ddim", {"eta": 0.5}), ("euler_a", {"eta": 0.3}), ("dpmpp_2m_sde", {"eta": 0.5})]


def denoise(x: Tensor, level: Level) -> Tensor:
    """The mean of the data given x."""
    variance = level.alpha**2 * STD**2 + level.sigma**2
    return MEAN + level.alpha * STD**2 / variance * (x - level.alpha * MEAN)


def consistent(x: Tensor, level: Level) -> Tensor:
    """Where the probability flow ends, which is what a latent consistency model answers."""
    return MEAN + STD * (x - level.alpha * MEAN) / math.hypot(level.alpha * STD, level.sigma)


def draw(name, options, guided, made) -> Tensor:
    generator = torch.Generator().manual_seed(0)

    def noise(x: Tensor, level: Level, to: Level) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    x = torch.randn(COUNT, 1, generator=generator, dtype=torch.float64)
    *_, last = sampler(name, **options)(guided, x, made, noise)
    return last.x


def assert_distribution(x: Tensor) -> None:
    # Four standard errors of each estimate, and one per cent for the steps.
    assert x.mean().item() == pytest.approx(MEAN, abs=4 * STD / math.sqrt(COUNT) + 0.01 * STD)
    assert x.std().item() == pytest.approx(STD, abs=4 * STD / math.sqrt(2 * COUNT) + 0.01 * STD)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_marginals(name, options, process) -> None:
    family, path = PROCESSES[process]
    assert_distribution(draw(name, options, denoise, schedule(path, family, 100)))


@pytest.mark.parametrize("process", PROCESSES)
def test_lcm_keeps_the_distribution_of_a_consistent_answer(process) -> None:
    family, path = PROCESSES[process]
    assert_distribution(draw("lcm", {}, consistent, schedule(path, family, 4)))
