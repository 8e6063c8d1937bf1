import itertools
import math

import pytest
import torch

from maquette.diffusion.brownian import BrownianNoise, BrownianPath
from maquette.diffusion.emulation import ALONG_PATHS, EMULATIONS, noise
from maquette.diffusion.noise import SeededNoise, torch_source
from maquette.diffusion.philox import Philox
from maquette.diffusion.process import CLEAN, Discrete, Level, RectifiedFlow
from maquette.diffusion.samplers import SAMPLERS, sampler
from maquette.diffusion.schedules import Schedule, schedule

SHAPE = (4, 3, 3)
RATIOS = [14.6146, 6.3, 2.5, 0.9, 0.2, 0.0292]
RECORDED = [  # torchsde 0.2.6, BrownianTree(0.0292, torch.zeros(4, 3, 3), 14.6146, entropy=1234), as k-diffusion asks
    [-0.184372, -0.264911, 0.072903],
    [-1.748551, -1.371117, -0.852791],
    [0.767897, 0.993104, -1.217649],
    [0.249735, -1.439815, -0.578755],
    [-0.29501, 0.503331, -0.814831],
]


def at(ratio: float) -> Level:
    """A level of a variance-preserving process at a ratio of sigma to alpha."""
    return Level(0.0, 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio))


def brownian(seeds: list[int], **how: bool) -> BrownianNoise:
    levels = Schedule(Discrete.scaled_linear(), (*map(at, RATIOS), CLEAN))
    return BrownianNoise(SeededNoise(seeds), seeds, levels, torch_source, **how)


def test_the_numbers_are_those_of_torchsde() -> None:
    made, x = brownian([1234]), torch.zeros(1, *SHAPE)
    for (high, low), expected in zip(itertools.pairwise(RATIOS), RECORDED, strict=True):
        found = made(x, at(high), at(low))[0, 0, 0]
        torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=5e-6)


def test_a_path_is_the_same_in_whatever_order_it_is_asked() -> None:
    first, second = (BrownianPath(5, SHAPE, 0.03, 14.6, torch_source) for _ in range(2))
    there = [first(ratio) for ratio in (0.03, 0.5, 2.0, 14.6)]
    back = [second(ratio) for ratio in (14.6, 2.0, 0.5, 0.03)]
    assert all(torch.equal(a, b) for a, b in zip(there, reversed(back), strict=True))
    assert torch.equal(there[0], torch.zeros(SHAPE))
    assert torch.equal(first(99.0), there[-1])


def test_a_long_step_sees_what_the_short_ones_saw() -> None:
    made, x = brownian([7]), torch.zeros(1, *SHAPE)
    whole = made(x, at(6.3), at(0.9)) * math.sqrt(6.3 - 0.9)
    parts = made(x, at(6.3), at(2.5)) * math.sqrt(6.3 - 2.5) + made(x, at(2.5), at(0.9)) * math.sqrt(2.5 - 0.9)
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-5)


def test_steps_are_unit_normals_that_do_not_depend_on_each_other() -> None:
    made, x = brownian([3]), torch.zeros(1, 64, 64, 8)
    steps = torch.stack([made(x, at(a), at(b)).flatten() for a, b in itertools.pairwise(RATIOS)])
    torch.testing.assert_close(steps @ steps.T / steps.shape[1], torch.eye(5), rtol=0, atol=0.03)


def test_each_picture_has_its_path_or_the_batch_has_one() -> None:
    x, step = torch.zeros(3, *SHAPE), (at(6.3), at(2.5))
    assert torch.equal(brownian([5, 6, 7])(x, *step)[1:2], brownian([6])(x[:1], *step))
    together = brownian([5, 6, 7], together=True)(x, *step)
    path = BrownianPath(5, x.shape, 0.0292, 14.6146, torch_source)
    torch.testing.assert_close(together, (path(2.5) - path(6.3)) / math.sqrt(6.3 - 2.5), rtol=0, atol=1e-5)


def test_the_start_and_the_state_are_those_of_the_noise_it_starts_from() -> None:
    made, other = brownian([5, 6]), brownian([1, 2])
    assert torch.equal(made.start(SHAPE), SeededNoise([5, 6]).start(SHAPE))
    other.restore(made.state())
    assert torch.equal(other.start(SHAPE), made.start(SHAPE))


def test_emulations_choose_what_paths_are_drawn_from() -> None:
    levels, x = schedule("karras", Discrete.scaled_linear(), 4), torch.zeros(2, *SHAPE)
    low, high = (float(torch.tensor(math.exp(-level.lam))) for level in (levels[3], levels[0]))
    for name, source in (("a1111-cpu", torch_source), ("a1111-nv", Philox)):
        found = noise(name, [5, 6], levels=levels)(x, levels[0], levels[1])
        path = BrownianPath(6, SHAPE, low, high, source)
        to = float(torch.tensor(math.exp(-levels[1].lam)))
        torch.testing.assert_close(found[1], (path(to) - path(high)) / math.sqrt(high - to), rtol=0, atol=1e-5)
    plain, told = noise("cpu", [5, 6]), noise("cpu", [5, 6], levels=levels)
    assert torch.equal(told(x, levels[0], levels[1]), plain(x, levels[0], levels[1]))
    assert {name for name, each in EMULATIONS.items() if each.along} == {
        "a1111-cpu",
        "a1111-nv",
        "comfyui",
        "comfyui-cpu",
    }


def test_a_single_step_from_pure_noise_asks_nothing_of_its_path() -> None:
    process = Discrete.scaled_linear(zero_terminal_snr=True)
    levels = schedule("trailing", process, 1)
    made = noise("a1111-cpu", [1], levels=levels)
    start = made.start((4, 8, 8))
    *_, last = sampler("dpmpp_2m_sde")(lambda x, at: 0.5 * x, start, levels, made)
    assert torch.equal(last.x, 0.5 * start)


@pytest.mark.parametrize(
    "process", [Discrete.scaled_linear(), Discrete.scaled_linear(zero_terminal_snr=True), RectifiedFlow()]
)
@pytest.mark.parametrize("name", ALONG_PATHS)
def test_samplers_walk_along_paths_from_pure_noise_too(name: str, process) -> None:
    """On unit Gaussian data the noise of a path leads at least as near to a spread of 1 as fresh noise does.

    Both have the solver's error; `dpmpp_sde` asks for the noise of half a step and of the whole, which belong together.
    """
    assert SAMPLERS[name].stochastic
    levels = schedule("trailing" if process.start == 1 else "karras", process, 8)
    spread = []
    for made in (noise("a1111-cpu", [1, 2], levels=levels), noise("cpu", [1, 2])):
        start = made.start((4, 24, 24)) * math.hypot(float(levels[0].alpha), float(levels[0].sigma))
        *_, last = sampler(name)(lambda x, at: x * (at.alpha / (at.alpha**2 + at.sigma**2)), start, levels, made)
        spread.append(last.x.std().item())
    along, fresh = (abs(each - 1) for each in spread)
    assert along < fresh + 0.05
