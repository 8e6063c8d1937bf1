"""A problem whose denoiser is known exactly, and the trajectories that reference samplers took on it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from maquette.diffusion.process import CLEAN, Level, vp
from maquette.diffusion.schedules import Schedule

DATA = Path(__file__).parents[1] / "data" / "samplers"


@dataclass
class Mixture:
    """A mixture of isotropic Gaussians: weights (K,), means (K, D), stds (K,)."""

    weights: Tensor
    means: Tensor
    stds: Tensor

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        """The exact denoiser, the mean of the data given x (B, D)."""
        variance = level.alpha**2 * self.stds**2 + level.sigma**2
        apart = x[:, None] - level.alpha * self.means
        share = (
            self.weights.log() - apart.square().sum(-1) / (2 * variance) - x.shape[1] / 2 * variance.log()
        ).softmax(1)
        return (share[..., None] * (self.means + (level.alpha * self.stds**2 / variance)[:, None] * apart)).sum(1)

    def flow(self, x: Tensor, start: Level, end: Level, steps: int = 1500) -> Tensor:
        """Solve the probability flow exactly: Runge-Kutta in the angle whose tangent is sigma / alpha."""

        def slope(angle: float, y: Tensor) -> Tensor:
            level = Level(0.0, math.cos(angle), math.sin(angle))
            return (level.alpha * y - self(y, level)) / level.sigma

        begin = math.atan2(start.sigma, start.alpha)
        h = (math.atan2(end.sigma, end.alpha) - begin) / steps
        y = x / math.hypot(start.alpha, start.sigma)
        for i in range(steps):
            angle = begin + i * h
            k1 = slope(angle, y)
            k2 = slope(angle + h / 2, y + h / 2 * k1)
            k3 = slope(angle + h / 2, y + h / 2 * k2)
            k4 = slope(angle + h, y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return y * math.hypot(end.alpha, end.sigma)


@dataclass
class Ratio:
    """A variance-preserving process at any sigma / alpha; its time is the logarithm of that."""

    start: float = 10.0
    steps: int = 1000

    def at(self, t: float) -> Level:
        return vp(t, -t)

    def time(self, lam: float) -> float:
        return -lam

    def trained(self, step: float) -> float:
        return step

    def schedule(self, ratios: list[float]) -> Schedule:
        return Schedule(self, tuple(self.at(math.log(ratio)) if ratio else CLEAN for ratio in ratios))


class Recorded:
    """Noise that was recorded, in order; it remembers the ratios it was asked between."""

    def __init__(self, draws: Tensor) -> None:
        self.draws = iter(draws)
        self.calls: list[tuple[float, float]] = []

    def __call__(self, x: Tensor, level: Level, to: Level) -> Tensor:
        self.calls.append((math.exp(-level.lam), math.exp(-to.lam)))
        return next(self.draws)


@pytest.fixture(scope="session")
def problem() -> dict[str, Tensor]:
    return load_file(DATA / "problem.safetensors")


@pytest.fixture(scope="session")
def mixture(problem: dict[str, Tensor]) -> Mixture:
    return Mixture(problem["weights"], problem["means"], problem["stds"])


@pytest.fixture(scope="session")
def recorded_schedules() -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in load_file(DATA / "schedules.safetensors").items()}


@pytest.fixture(scope="session")
def kdiffusion() -> dict[str, Tensor]:
    return load_file(DATA / "kdiffusion.safetensors")


@pytest.fixture(scope="session")
def diffusers_runs() -> dict[str, Tensor]:
    return load_file(DATA / "diffusers.safetensors")


@pytest.fixture
def recorded_noise(problem: dict[str, Tensor]) -> Recorded:
    return Recorded(problem["noise"])


@pytest.fixture(scope="session")
def ratio() -> Ratio:
    return Ratio()


@pytest.fixture
def double() -> Iterator[None]:
    """float64 as torch's default, for references that make tensors of their own."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
