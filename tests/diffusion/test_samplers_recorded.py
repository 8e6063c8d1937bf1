"""Samplers against recorded trajectories of k-diffusion (float64) and of diffusers (float32 tables).

Where the definitions agree, every state of a k-diffusion run is equal to 1e-12. Elsewhere:

=====================  ==========================================================================================
reference              why, and how far
=====================  ==========================================================================================
k-diffusion lms        its last step extrapolates to sigma 0, where lam is infinite; ours is first order there, so
                       that a kept region ends exactly clean: 6e-3 in the result, none before it
all of diffusers       sigmas and alphas are float32: 2e-5, and 4e-5 where many steps are small
euler_v_ztsnr          stands 4096 in for the infinite ratio at pure noise: 2e-4
dpmpp2m_sigma_min      its last step is first order though finite: compared before it
dpmpp3m                its step before the last is of order 2 in schedules under 15 steps: compared before it
lms                    as for k-diffusion
ddim_linspace          steps to t - 100 and not to the next time of its list: not compared
ddpm_fixed_large       another variance, which diverges from DDPM's posterior: not compared
=====================  ==========================================================================================
"""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from maquette.diffusion.process import CLEAN, Discrete, RectifiedFlow, vp
from maquette.diffusion.samplers import sampler
from maquette.diffusion.schedules import Schedule

FOUR = ("karras10", "discrete10", "karras10_tail", "karras10_nozero", "exponential10")
ONE = ("karras10",)

# Ours, its options; k-diffusion's name, and the schedules recorded for it.
KDIFFUSION = [
    ("euler", {}, "euler", FOUR),
    ("ddim", {}, "euler", FOUR),
    ("heun", {}, "heun", FOUR),
    ("dpm2", {}, "dpm_2", FOUR),
    ("lms", {}, "lms", FOUR),
    ("lms", {"order": 2}, "lms_order2", ONE),
    ("dpmpp_2m", {}, "dpmpp_2m", FOUR),
    ("euler_a", {}, "euler_ancestral", FOUR),
    ("euler_a", {"eta": 0.5}, "euler_ancestral_eta0.5", ONE),
    ("euler_a", {"s_noise": 1.05}, "euler_ancestral_snoise1.05", ONE),
    ("ddpm", {}, "euler_ancestral", FOUR),
    ("dpm2_a", {}, "dpm_2_ancestral", FOUR),
    ("dpmpp_2s_a", {}, "dpmpp_2s_ancestral", FOUR),
    ("dpmpp_2s_a", {"eta": 0.0}, "dpmpp_2s_ancestral_eta0", ONE),
    ("dpmpp_sde", {}, "dpmpp_sde", FOUR),
    ("dpmpp_sde", {"eta": 0.0}, "dpmpp_sde_eta0", ONE),
    ("dpmpp_sde", {"r": 0.3}, "dpmpp_sde_r0.3", ONE),
    ("dpmpp_2m_sde", {}, "dpmpp_2m_sde", FOUR),
    ("dpmpp_2m_sde", {"eta": 0.0}, "dpmpp_2m_sde_eta0", ONE),
    ("dpmpp_2m_sde", {"eta": 0.5}, "dpmpp_2m_sde_eta0.5", ONE),
    ("dpmpp_2m_sde", {"solver": "heun"}, "dpmpp_2m_sde_heun", ONE),
    ("dpmpp_3m_sde", {}, "dpmpp_3m_sde", FOUR),
    ("dpmpp_3m_sde", {"eta": 0.0}, "dpmpp_3m_sde_eta0", ONE),
]


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [(name, options, f"{theirs}|{path}") for name, options, theirs, paths in KDIFFUSION for path in paths],
)
def test_every_state_is_kdiffusion_s(
    name, options, key, mixture, problem, kdiffusion, recorded_schedules, recorded_noise, ratio
) -> None:
    schedule = ratio.schedule(recorded_schedules["k." + key.split("|")[1]])
    states = kdiffusion[f"{key}|x"]
    steps = list(sampler(name, **options)(mixture, states[0] * schedule[0].alpha, schedule, recorded_noise))
    ours = torch.stack([step.x / step.level.alpha for step in steps])
    torch.testing.assert_close(ours[:-1], states[1:-1], rtol=0, atol=1e-12)
    lms_to_clean = name == "lms" and schedule[-1] == CLEAN
    torch.testing.assert_close(ours[-1], states[-1], rtol=0, atol=7e-3 if lms_to_clean else 1e-12)
    if recorded_noise.calls:
        asked = torch.tensor(recorded_noise.calls, dtype=torch.float64)
        torch.testing.assert_close(asked, kdiffusion[f"{key}|sigma_calls"], rtol=1e-9, atol=0)


@dataclass
class Run:
    """A recorded run of a diffusers scheduler: what it is here, and which states to compare how closely."""

    theirs: str
    name: str
    options: dict[str, float | str] = field(default_factory=dict)
    states: int = 11
    atol: float = 2e-5
    flow: bool = False
    ratio_space: bool = False  # its state is x0 + sigma * noise
    end: float | None = 0.0  # the time of the last level where no sigmas are recorded; None: clean
    zero_terminal: bool = False


DIFFUSERS = [
    Run("ddim_leading", "ddim"),
    Run("ddim_trailing", "ddim"),
    Run("ddim_eta1", "ddim", {"eta": 1.0}),
    Run("ddim_v", "ddim"),
    Run("ddim_v_ztsnr", "ddim", zero_terminal=True),
    Run("ddpm", "ddpm", end=None),
    Run("ddpm_v", "ddpm", end=None),
    Run("dpmpp1", "ddim"),
    Run("dpmpp2m_kpoints", "dpmpp_2m"),
    Run("dpmpp2m_leading", "dpmpp_2m"),
    Run("dpmpp2m_linspace", "dpmpp_2m"),
    Run("dpmpp2m_trailing", "dpmpp_2m"),
    Run("dpmpp2m_karras", "dpmpp_2m"),
    Run("dpmpp2m_euler_final", "dpmpp_2m"),
    Run("dpmpp2m_v", "dpmpp_2m"),
    Run("dpmpp2m_heun", "dpmpp_2m", {"solver": "heun"}),
    Run("dpmpp2m_sigma_min", "dpmpp_2m", states=10),
    Run("dpmpp2m_sde", "dpmpp_2m_sde"),
    Run("dpmpp2m_sde_karras", "dpmpp_2m_sde"),
    Run("dpmpp2m_sde_kpoints", "dpmpp_2m_sde"),
    Run("dpmpp3m", "dpmpp_3m_sde", {"eta": 0.0, "solver": "midpoint"}, states=9),
    Run("dpmpp3m_kpoints", "dpmpp_3m_sde", {"eta": 0.0, "solver": "midpoint"}, states=9),
    Run("euler_leading", "euler", ratio_space=True),
    Run("euler_linspace", "euler", ratio_space=True),
    Run("euler_trailing", "euler", ratio_space=True),
    Run("euler_karras", "euler", ratio_space=True),
    Run("euler_v_ztsnr", "euler", ratio_space=True, atol=2e-4),
    Run("euler_a", "euler_a", ratio_space=True),
    Run("heun", "heun", ratio_space=True),
    Run("lms", "lms", ratio_space=True, states=10),
    Run("unipc_bh1", "unipc", {"variant": "bh1"}),
    Run("unipc_bh2", "unipc"),
    Run("unipc_order3", "unipc", {"order": 3}),
    Run("unipc_v", "unipc"),
    Run("unipc_karras", "unipc", atol=4e-5),
    Run("flow_shift1", "euler", flow=True),
    Run("flow_shift3", "euler", flow=True),
    Run("flow_dynamic_mu0.8", "euler", flow=True),
]


def recorded_levels(run: Run, recorded: dict[str, Tensor]) -> Schedule:
    process = RectifiedFlow() if run.flow else Discrete.scaled_linear(zero_terminal_snr=run.zero_terminal)
    if f"{run.theirs}|sigmas" not in recorded:
        levels = [process.at(t) for t in recorded[f"{run.theirs}|timesteps"].tolist()]
        return Schedule(process, (*levels, CLEAN if run.end is None else process.at(run.end)))
    sigmas = recorded[f"{run.theirs}|sigmas"].tolist()
    if run.theirs == "heun":  # each inner sigma is listed twice
        sigmas = [sigmas[0], *sigmas[1:-1:2], sigmas[-1]]
    at = process.at if run.flow else lambda sigma: vp(0.0, -math.log(sigma))
    return Schedule(process, tuple(at(sigma) if sigma else CLEAN for sigma in sigmas))


@pytest.mark.parametrize("run", DIFFUSERS, ids=lambda run: run.theirs)
def test_every_state_is_that_of_diffusers(run, mixture, diffusers_runs, recorded_noise) -> None:
    schedule = recorded_levels(run, diffusers_runs)
    states = diffusers_runs[f"{run.theirs}|x"]
    if run.theirs == "heun":  # a state after each of the two halves of a step; the last step is one half
        states = torch.cat([states[::2], states[-1:]])
    scales = [level.alpha if run.ratio_space else 1.0 for level in schedule]
    steps = sampler(run.name, **run.options)(mixture, states[0] * scales[0], schedule, recorded_noise)
    ours = [step.x / scale for step, scale in zip(steps, scales[1:], strict=True)]
    torch.testing.assert_close(torch.stack(ours)[: run.states - 1], states[1 : run.states], rtol=0, atol=run.atol)
