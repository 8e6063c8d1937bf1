"""Samplers against the schedulers of diffusers, run here in float64 on the same denoiser and noise.

The schedulers compute in float32 of their own accord; here they are made to in float64, with our sigmas or alphas put
in, so that every state must agree to 1e-9. Where the definitions differ:

========================  =======================================================================================
reference                 why, and how far
========================  =======================================================================================
LCMScheduler              mixes a share of x into x0, 4e-8 of it at the lowest time here, 259: 1e-6
UniPC from pure noise     corrects the first step, of infinite length; ours, first order, does not: from below only
DEIS from pure noise      is NaN, as is its step to sigma 0: compared between them
PNDM's last step          takes a mean of the noise to alpha 1 as well; ours gives x0: compared up to there
========================  =======================================================================================
"""

import importlib
import math
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from maquette.diffusion.process import Discrete, RectifiedFlow
from maquette.diffusion.samplers import sampler
from maquette.diffusion.schedules import Schedule, schedule

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # numpy's, inside diffusers

SD = Discrete.scaled_linear()
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


class Torch64:
    """torch, but what asks for float32 gets float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture
def make(problem, monkeypatch, double: None):
    """Make a scheduler that computes in float64 and draws the recorded noise."""

    def made(scheduler, **config):
        module = importlib.import_module(scheduler.__module__)
        draws = iter(problem["noise"])
        monkeypatch.setattr(module, "torch", Torch64())
        monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(draws), raising=False)
        theirs = scheduler(**config)
        theirs.is_scale_input_called = True  # the denoiser here takes x as it is
        return theirs

    return made


def run_by_sigmas(scheduler, made: Schedule, mixture, x, ratio_space: bool = False):
    """Every state of a scheduler that steps between sigmas, with ours put in."""
    scheduler.set_timesteps(len(made) - 1)
    flow = isinstance(made.process, RectifiedFlow)
    sigmas = [level.sigma if flow else math.exp(-level.lam) for level in made]
    scheduler.sigmas = torch.tensor(sigmas)
    levels = list(made)
    if isinstance(scheduler, HeunDiscreteScheduler):  # it is asked at both ends of a step
        levels = [level for level in made for _ in range(2)][1:-1]
        scheduler.sigmas = torch.tensor(sigmas).repeat_interleave(2)[1:]
    states = []
    for t, level in zip(scheduler.timesteps, levels, strict=False):
        ours = x * level.alpha if ratio_space else x
        x0 = mixture(ours, level)
        noise = level.noise(ours, x0)
        x = scheduler.step(noise - x0 if flow else noise, t, x).prev_sample
        states.append(x)
    return states


def run_by_alphas(scheduler, made: Schedule, mixture, x, **step):
    """Every state of a scheduler that steps between entries of its alphas, with ours put in."""
    scheduler.set_timesteps(len(made) - 1)
    scheduler.alphas_cumprod = torch.tensor([SD.at(float(t)).alpha ** 2 for t in range(1000)])
    states = []
    for t, level in zip(scheduler.timesteps, made, strict=False):
        assert t == level.t
        x = scheduler.step(level.noise(x, mixture(x, level)), t, x, **step).prev_sample
        states.append(x)
    return states


def ours(name: str, options, made: Schedule, mixture, x, noise):
    return [step.x for step in sampler(name, **options)(mixture, x, made, noise)]


def assert_equal(states, expected, atol: float = 1e-9) -> None:
    torch.testing.assert_close(torch.stack(states), torch.stack(expected), rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("name", "options", "scheduler", "config"),
    [
        ("dpmpp_2m", {}, DPMSolverMultistepScheduler, {}),
        ("dpmpp_2m", {"solver": "heun"}, DPMSolverMultistepScheduler, {"solver_type": "heun"}),
        ("dpmpp_2m_sde", {}, DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
        (
            "dpmpp_2m_sde",
            {"solver": "heun"},
            DPMSolverMultistepScheduler,
            {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
        ),
        ("dpmpp_3m_sde", {"eta": 0.0, "solver": "midpoint"}, DPMSolverMultistepScheduler, {"solver_order": 3}),
        ("unipc", {}, UniPCMultistepScheduler, {}),
        ("unipc", {"order": 1}, UniPCMultistepScheduler, {"solver_order": 1}),
        ("unipc", {"order": 3}, UniPCMultistepScheduler, {"solver_order": 3}),
        ("deis", {}, DEISMultistepScheduler, {"solver_order": 3}),
        ("deis", {"order": 2}, DEISMultistepScheduler, {"solver_order": 2}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_multistep_samplers(name, options, scheduler, config, mixture, problem, recorded_noise, make) -> None:
    made = schedule("linspace", SD, 20)
    theirs = make(scheduler, **BETAS, **config)
    if name == "deis":
        made = made[:-1]
    expected = run_by_sigmas(theirs, made, mixture, problem["start"])
    assert_equal(ours(name, options, made, mixture, problem["start"], recorded_noise), expected)


@pytest.mark.parametrize("order", [2, 3])
def test_unipc_bh1_where_it_does_not_end_clean(order, mixture, problem, recorded_noise, make) -> None:
    made = schedule("linspace", SD, 20)[:-1]
    theirs = make(UniPCMultistepScheduler, **BETAS, solver_type="bh1", solver_order=order)
    expected = run_by_sigmas(theirs, made, mixture, problem["start"])
    options = {"variant": "bh1", "order": order}
    assert_equal(ours("unipc", options, made, mixture, problem["start"], recorded_noise), expected)


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("euler", EulerDiscreteScheduler),
        ("euler_a", EulerAncestralDiscreteScheduler),
        ("heun", HeunDiscreteScheduler),
    ],
)
def test_samplers_of_karras(name, scheduler, mixture, problem, recorded_noise, make) -> None:
    made = schedule("karras", SD, 20)
    theirs = make(scheduler, **BETAS)
    x = problem["start"] * math.exp(-made[0].lam)
    expected = run_by_sigmas(theirs, made, mixture, x, ratio_space=True)
    if name == "heun":
        expected = [*expected[1::2], expected[-1]]
    states = ours(name, {}, made, mixture, x * made[0].alpha, recorded_noise)
    assert_equal([state / level.alpha for state, level in zip(states, made[1:], strict=True)], expected)


def test_plms(mixture, problem, recorded_noise, make) -> None:
    made = schedule("leading", SD, 20)
    theirs = make(PNDMScheduler, **BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=True)
    theirs.set_timesteps(20)
    theirs.alphas_cumprod = torch.tensor([SD.at(float(t)).alpha ** 2 for t in range(1000)])
    x, expected = problem["start"], []
    for t in theirs.timesteps:
        level = SD.at(float(t))
        x = theirs.step(level.noise(x, mixture(x, level)), t, x).prev_sample
        expected.append(x)
    found = ours("plms", {}, made, mixture, problem["start"], recorded_noise)
    assert_equal(found[:-1], expected[1:-1])  # the first is tried


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta, mixture, problem, recorded_noise, make) -> None:
    made = schedule("leading", SD, 20)
    theirs = make(DDIMScheduler, **BETAS, clip_sample=False, steps_offset=1)
    expected = run_by_alphas(theirs, made, mixture, problem["start"], eta=eta)
    assert_equal(ours("ddim", {"eta": eta}, made, mixture, problem["start"], recorded_noise), expected)


def test_ddpm(mixture, problem, recorded_noise, make) -> None:
    made = schedule("trailing", SD, 20)
    theirs = make(DDPMScheduler, **BETAS, clip_sample=False, timestep_spacing="trailing")
    expected = run_by_alphas(theirs, made, mixture, problem["start"])
    assert_equal(ours("ddpm", {}, made, mixture, problem["start"], recorded_noise), expected)


def test_lcm(mixture, problem, recorded_noise, make) -> None:
    theirs = make(LCMScheduler, **BETAS)
    theirs.set_timesteps(4)
    made = schedule("lcm", SD, 4)
    assert [level.t for level in made[:-1]] == theirs.timesteps.tolist()
    expected = run_by_alphas(theirs, made, mixture, problem["start"])
    assert_equal(ours("lcm", {}, made, mixture, problem["start"], recorded_noise), expected, atol=1e-6)


FLOWS = [
    ("euler", {}, FlowMatchEulerDiscreteScheduler, {}),
    ("dpmpp_2m", {}, DPMSolverMultistepScheduler, FLOW),
    ("dpmpp_2m_sde", {}, DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++", **FLOW}),
    ("unipc", {}, UniPCMultistepScheduler, FLOW),
    ("unipc", {"order": 3}, UniPCMultistepScheduler, {"solver_order": 3, **FLOW}),
    ("deis", {}, DEISMultistepScheduler, {"solver_order": 3, **FLOW}),
]


@pytest.mark.parametrize(
    ("name", "options", "scheduler", "config", "first"),
    [
        *((*case, 0) for case in FLOWS if case[0] not in {"unipc", "deis"}),  # from pure noise
        *((*case, 1) for case in FLOWS),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_rectified_flow(name, options, scheduler, config, first, mixture, problem, recorded_noise, make) -> None:
    made = schedule("flow", RectifiedFlow(shift=3.0), 20)[first:]
    if name == "deis":
        made = made[:-1]
    theirs = make(scheduler, **config)
    expected = run_by_sigmas(theirs, made, mixture, problem["start"])
    states = ours(name, options, made, mixture, problem["start"], recorded_noise)
    assert_equal(states, expected)
