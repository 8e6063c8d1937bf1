"""EDM in the coordinates x = alpha x0 + sigma noise: the paper's formulas and diffusers' schedulers."""

import math

import pytest
import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler

from maquette.diffusion.noise import SeededNoise
from maquette.diffusion.prediction import PRECONDITIONED, PREDICTIONS, V
from maquette.diffusion.process import EDM
from maquette.diffusion.samplers import sampler
from maquette.diffusion.schedules import schedule
from maquette.errors import MaquetteError

PLAYGROUND, COSXL = EDM(), EDM(sigma_max=120.0, sigma_data=1.0)


def noise(seed: int) -> torch.Tensor:
    return torch.randn(1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(x: torch.Tensor, t: float) -> torch.Tensor:
    return torch.sin(3 * x + t)


@pytest.mark.parametrize("ratio", [0.002, 0.3, 5.0, 80.0])
def test_the_paper_s_table_1(ratio: float) -> None:
    """D(x; ratio) = c_skip x + c_out F(c_in x; c_noise), with x and D in the paper's units."""
    data = PLAYGROUND.sigma_data
    level = PLAYGROUND.at(0.25 * math.log(ratio))
    x = data * noise(0) + ratio * noise(1)
    c_in = 1 / math.hypot(ratio, data)
    assert torch.allclose(level.mix(noise(0), noise(1)), c_in * x, atol=1e-12)
    assert level.t == 0.25 * math.log(ratio)
    output = network(c_in * x, float(level.t))
    c_skip, c_out = data**2 / (ratio**2 + data**2), ratio * data / math.hypot(ratio, data)
    assert torch.allclose(data * PRECONDITIONED.x0(output, c_in * x, level), c_skip * x + c_out * output, atol=1e-12)
    target = (data * noise(0) - c_skip * x) / c_out  # equation 8: what the network is trained to give
    assert torch.allclose(PRECONDITIONED.target(noise(0), noise(1), level), target, atol=1e-8)


def test_batches_of_times_are_single_times() -> None:
    times = torch.linspace(COSXL.end, COSXL.start, 5, dtype=torch.float64)
    levels = COSXL.at(times)
    for index, t in enumerate(times.tolist()):
        one = COSXL.at(t)
        assert (levels.alpha[index].item(), levels.sigma[index].item()) == pytest.approx((one.alpha, one.sigma))
        assert COSXL.time(one.lam) == pytest.approx(t)
    steps = [COSXL.trained(float(step)) for step in (0, 999)]
    assert steps == pytest.approx([COSXL.end, COSXL.start])
    assert torch.allclose(COSXL.trained(torch.tensor([0.0, 999.0])), torch.tensor(steps))


@pytest.mark.parametrize("process", [PLAYGROUND, COSXL], ids=["playground", "cosxl"])
@pytest.mark.parametrize("how", ["euler", "dpmpp_2m"])
def test_steps_are_those_of_diffusers(how: str, process: EDM) -> None:
    prediction, theirs = (PRECONDITIONED, "epsilon") if process is PLAYGROUND else (V, "v_prediction")
    options = {"sigma_min": process.sigma_min, "sigma_max": process.sigma_max, "sigma_data": process.sigma_data}
    kind = EDMEulerScheduler if how == "euler" else EDMDPMSolverMultistepScheduler
    their = kind(**options, prediction_type=theirs, sigma_schedule="karras")
    their.set_timesteps(8)
    data, levels = process.sigma_data, schedule("karras", process, 8)
    start = noise(2)
    x = start * process.sigma_max
    for t in their.timesteps:
        output = network(their.scale_model_input(x, t), float(t))
        x = their.step(output, t, x).prev_sample

    def guided(x: torch.Tensor, level) -> torch.Tensor:
        return prediction.x0(network(x, float(level.t)), x, level)

    begin = start * process.sigma_max / math.hypot(process.sigma_max, data)  # diffusers' start, times c_in
    *_, last = sampler(how)(guided, begin, levels, SeededNoise([0]))
    assert torch.allclose(data * last.x, x, atol=2e-5)


def test_mistakes_are_told() -> None:
    with pytest.raises(MaquetteError, match="the first the smallest"):
        EDM(sigma_min=3.0, sigma_max=2.0)
    with pytest.raises(MaquetteError, match=r"times -1\.55365 to 1\.09551"):
        PLAYGROUND.at(2.0)
    assert PREDICTIONS["edm"] is PRECONDITIONED
