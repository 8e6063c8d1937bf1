import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from maquette.diffusion.process import CLEAN, Discrete, Level, Process, RectifiedFlow, shifted
from maquette.errors import MaquetteError

DISCRETE = {
    "linear": Discrete.linear(),
    "scaled_linear": Discrete.scaled_linear(),
    "cosine": Discrete.cosine(),
    "linear, zero terminal": Discrete.linear(zero_terminal_snr=True),
    "scaled_linear, zero terminal": Discrete.scaled_linear(zero_terminal_snr=True),
    "cosine, zero terminal": Discrete.cosine(zero_terminal_snr=True),
}
PROCESSES: dict[str, Process] = {**DISCRETE, "flow": RectifiedFlow(), "flow, shift 3": RectifiedFlow(shift=3.0)}


@pytest.mark.parametrize(
    ("ours", "theirs"), [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2")]
)
def test_betas_are_those_of_diffusers(ours: str, theirs: str) -> None:
    first, last = (0.00085, 0.012) if ours == "scaled_linear" else (1e-4, 0.02)
    betas = DDPMScheduler(beta_start=first, beta_end=last, beta_schedule=theirs).betas
    torch.testing.assert_close(torch.tensor(DISCRETE[ours].betas), betas, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_zero_terminal_snr_is_the_rescaling_of_diffusers(name: str) -> None:
    theirs = rescale_zero_terminal_snr(torch.tensor(DISCRETE[name].betas, dtype=torch.float64))
    ours = torch.tensor(DISCRETE[f"{name}, zero terminal"].betas, dtype=torch.float64)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert DISCRETE[f"{name}, zero terminal"].at(999.0) == Level(999.0, 0.0, 1.0)


def test_tables_are_those_of_stable_diffusion(recorded_schedules: dict[str, list[float]]) -> None:
    process = DISCRETE["scaled_linear"]
    bars = [process.at(float(t)).alpha ** 2 for t in range(1000)]
    assert bars == pytest.approx(recorded_schedules["sd.alphas_cumprod"], abs=1e-14)


def test_fractional_times_are_those_of_kdiffusion(recorded_schedules: dict[str, list[float]]) -> None:
    process = DISCRETE["scaled_linear"]
    for t, ratio in zip(recorded_schedules["k.t"], recorded_schedules["k.t_to_sigma"], strict=True):
        assert math.exp(-process.at(t).lam) == pytest.approx(ratio, rel=1e-8)  # its weights are float32
    for ratio, t in zip(recorded_schedules["k.sigma"], recorded_schedules["k.sigma_to_t"], strict=True):
        assert process.time(-math.log(ratio)) == pytest.approx(t, abs=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_time_is_the_inverse_of_at(name: str) -> None:
    process = PROCESSES[name]
    for part in (0.0, 0.0003, 0.25, 0.51, 0.9993, 0.9999, 1.0):
        t = part * process.start
        assert process.time(process.at(t).lam) == pytest.approx(t, abs=1e-9 * process.start)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_batch_of_times_gives_the_same_levels_as_each_alone(name: str) -> None:
    process = PROCESSES[name]
    times = [part * process.start for part in (0.0, 0.0003, 0.25, 0.51, 0.9993, 0.9999, 1.0)]
    batch = process.at(torch.tensor(times, dtype=torch.float64))
    assert batch.alpha.shape == batch.sigma.shape == (7, 1, 1, 1)
    for i, t in enumerate(times):
        one = process.at(t)
        assert batch.alpha[i].item() == pytest.approx(one.alpha, abs=1e-14)
        assert batch.sigma[i].item() == pytest.approx(one.sigma, abs=1e-14)
    assert process.at(torch.tensor(times)).alpha.dtype == torch.float32


@pytest.mark.parametrize("name", PROCESSES)
def test_noise_grows_with_time_and_keeps_the_process_s_law(name: str) -> None:
    process = PROCESSES[name]
    levels = [process.at(process.start * i / 3333) for i in range(3334)]
    assert all(level.lam > later.lam for level, later in pairwise(levels))
    for level in levels:
        power = level.alpha + level.sigma if isinstance(process, RectifiedFlow) else level.alpha**2 + level.sigma**2
        assert power == pytest.approx(1.0, abs=1e-14)


def test_levels_mix_and_tell_noise_apart() -> None:
    x0, noise = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    level = Discrete.scaled_linear().at(300.5)
    torch.testing.assert_close(level.noise(level.mix(x0, noise), x0), noise)
    assert torch.equal(CLEAN.mix(x0, noise), x0)
    assert CLEAN.lam == math.inf and CLEAN.snr == math.inf
    assert RectifiedFlow().at(1.0).lam == -math.inf
    assert level.snr == pytest.approx(math.exp(2 * level.lam))


def test_flow_steps_are_shifted() -> None:
    assert RectifiedFlow(shift=3.0).trained(499) == shifted(0.5, 3.0) == 0.75
    assert RectifiedFlow(shift=3.0).trained(999) == 1.0
    assert torch.equal(RectifiedFlow().trained(torch.tensor([499.0])), torch.tensor([0.5]))


@pytest.mark.parametrize("t", [-0.1, 999.5, math.nan])
def test_times_outside_of_a_process_are_an_error(t: float) -> None:
    with pytest.raises(MaquetteError, match="times 0 to 999"):
        Discrete.scaled_linear().at(t)
    with pytest.raises(MaquetteError, match="times 0 to 1"):
        RectifiedFlow().at(t + 1.0 if t > 0 else t)


def test_what_is_no_noise_schedule_is_an_error() -> None:
    with pytest.raises(MaquetteError, match="not a noise schedule"):
        Discrete((0.1, 1.5))
    with pytest.raises(MaquetteError, match="shift"):
        RectifiedFlow(shift=0.0)
