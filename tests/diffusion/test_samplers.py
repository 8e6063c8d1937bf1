"""What holds for every sampler, schedule and process."""

import math

import pytest
import torch
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import bind, denoiser
from maquette.diffusion.noise import SeededNoise
from maquette.diffusion.prediction import EPSILON, VELOCITY, V
from maquette.diffusion.process import CLEAN, Discrete, Level, Process, RectifiedFlow
from maquette.diffusion.samplers import SAMPLERS, sampler
from maquette.diffusion.schedules import SCHEDULES, schedule
from maquette.errors import MaquetteError

PROCESSES: dict[str, tuple[Process, object]] = {
    "SD": (Discrete.scaled_linear(), EPSILON),
    "cosine": (Discrete.cosine(), V),
    "zero terminal": (Discrete.scaled_linear(zero_terminal_snr=True), V),
    "cosine, zero terminal": (Discrete.cosine(zero_terminal_snr=True), V),
    "flow": (RectifiedFlow(), VELOCITY),
    "flow, shift 3": (RectifiedFlow(shift=3.0), VELOCITY),
}


def guided_for(process: Process, prediction, mixture):
    """A network that predicts perfectly on the mixture, in the process's own prediction, read as a denoiser."""

    def network(x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        level = process.at(t[0].item())
        x0 = mixture(x, level)
        return prediction.target(x0, level.noise(x, x0), level)

    return bind(denoiser(network, prediction), Conditioning())


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_paints_the_mixture_in_every_process_from_the_noisiest_level(
    name, process, mixture, problem
) -> None:
    family, prediction = PROCESSES[process]
    guided = guided_for(family, prediction, mixture)
    made = schedule("trailing", family, 20)
    noise = SeededNoise(range(16))
    *_, last = sampler(name)(guided, problem["start"] * made[0].sigma, made, noise)
    assert last.level == CLEAN
    assert last.x.isfinite().all()
    # Within six standard deviations of a component: nothing between them, nothing far away.
    away = (last.x[:, None] - mixture.means).norm(dim=-1) / mixture.stds
    assert away.min(dim=1).values.max() < 6.0


@pytest.mark.parametrize("process", ["zero terminal", "cosine", "flow, shift 3"])
@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_every_schedule_of_any_length_stays_finite(path, n, process, mixture, problem) -> None:
    if path in {"flow", "sd3"} and "flow" not in process:
        return
    made = schedule(path, PROCESSES[process][0], n)
    for name in SAMPLERS:
        *_, last = sampler(name)(mixture, problem["start"] * made[0].sigma, made, SeededNoise(range(16)))
        assert last.x.isfinite().all(), name


@pytest.mark.parametrize("name", SAMPLERS)
def test_evaluations_and_noise_are_as_the_entry_says(name, mixture, problem) -> None:
    family = RectifiedFlow()
    made = schedule("flow", family, 7)
    asked: list[Level] = []

    def counted(x: Tensor, level: Level) -> Tensor:
        asked.append(level)
        return mixture(x, level)

    seeds = SeededNoise(range(16))
    before = [state.clone() for state in seeds.state()]
    steps = list(sampler(name)(counted, problem["start"], made, seeds))
    entry = SAMPLERS[name]
    assert len(steps) == 7 and [step.level for step in steps] == list(made[1:])
    # The first and the last step are of infinite length; the first other one of PLMS is tried.
    assert len(asked) == 2 + 5 * entry.evaluations + (name == "plms")
    assert all(level == family.at(level.t) for level in asked), "the network is asked off its process"
    drew = any(not torch.equal(a, b) for a, b in zip(before, seeds.state(), strict=True))
    assert drew == entry.stochastic


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_to_clean_data_is_x0(name, mixture, problem) -> None:
    made = schedule("karras", Discrete.scaled_linear(), 6)
    *_, last = sampler(name)(mixture, problem["start"], made, SeededNoise(range(16)))
    assert torch.equal(last.x, last.x0)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_schedule_may_start_late_and_end_early(name, mixture, problem) -> None:
    made = schedule("trailing", Discrete.scaled_linear(), 20).strength(0.5)[:-1]
    x = made[0].mix(mixture.means[[0] * 16], problem["start"])
    *_, last = sampler(name)(mixture, x, made, SeededNoise(range(16)))
    assert last.level == made[-1] and last.x.isfinite().all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_gradients_are_off_inside_and_as_before_outside(name, problem) -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    made = schedule("trailing", Discrete.scaled_linear(), 4)
    steps = sampler(name)(lambda x, level: weight * x, problem["start"], made, SeededNoise(range(16)))
    for step in steps:
        assert torch.is_grad_enabled()
        assert not step.x.requires_grad


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_does_not_depend_on_its_batch(name, mixture) -> None:
    made = schedule("karras", Discrete.scaled_linear(), 6)

    def paint(seeds: list[int]) -> Tensor:
        noise = SeededNoise(seeds)
        x = noise.start((2,), dtype=torch.float64) * made[0].sigma
        *_, last = sampler(name)(mixture, x, made, noise)
        return last.x

    together = paint([3, 1, 4])
    torch.testing.assert_close(torch.cat([paint([3]), paint([1]), paint([4])]), together, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_float32_is_close_to_float64(name, mixture, problem) -> None:
    made = schedule("karras", Discrete.scaled_linear(), 10)

    def paint(dtype: torch.dtype) -> Tensor:
        x = problem["start"].to(dtype) * made[0].sigma
        *_, last = sampler(name)(lambda x, level: mixture(x.double(), level).to(dtype), x, made, SeededNoise(range(16)))
        assert last.x.dtype == dtype
        return last.x.double()

    torch.testing.assert_close(paint(torch.float32), paint(torch.float64), rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpm++", {}, "does not exist; give one of ddim, ddpm"),
        ("euler", {"eta": 1.0}, "takes no options"),
        ("ddim", {"eta": -1.0}, "from 0 to inf"),
        ("ddim", {"eta": math.nan}, "from 0 to inf"),
        ("unipc", {"variant": "bh3"}, "bh1 or bh2"),
        ("lms", {"order": 2.5}, "whole number from 1 to 4"),
        ("dpmpp_2m", {"solver": 1.0}, "midpoint or heun"),
    ],
)
def test_mistakes_say_what_to_do(name, options, message) -> None:
    with pytest.raises(MaquetteError, match=message):
        sampler(name, **options)
