"""The tables are complete as of the programs' own lists, and a schedule that is called the same has the same levels."""

import math

import numpy as np
import pytest

from maquette.diffusion.process import Discrete
from maquette.diffusion.samplers import SAMPLERS
from maquette.diffusion.schedules import SCHEDULES, schedule
from maquette.workflows import peer_names
from maquette.workflows.peer_names import Meaning

LISTS = {  # as they stand in modules/sd_samplers_*.py and sd_schedulers.py, comfy/samplers.py, schedulers.py
    "A1111_SAMPLERS": "DPM++ 2M|DPM++ SDE|DPM++ 2M SDE|DPM++ 2M SDE Heun|DPM++ 2S a|DPM++ 3M SDE|Euler a|Euler|LMS|"
    "Heun|DPM2|DPM2 a|DPM fast|DPM adaptive|Restart|DDIM|DDIM CFG++|PLMS|UniPC|LCM",
    "A1111_SCHEDULES": "Uniform|Karras|Exponential|Polyexponential|SGM Uniform|KL Optimal|Align Your Steps|Simple|"
    "Normal|DDIM|Beta",
    "COMFYUI_SAMPLERS": "euler|euler_cfg_pp|euler_ancestral|euler_ancestral_cfg_pp|heun|heunpp2|exp_heun_2_x0|"
    "exp_heun_2_x0_sde|dpm_2|dpm_2_ancestral|lms|dpm_fast|dpm_adaptive|dpmpp_2s_ancestral|dpmpp_2s_ancestral_cfg_pp|"
    "dpmpp_sde|dpmpp_sde_gpu|dpmpp_2m|dpmpp_2m_cfg_pp|dpmpp_2m_sde|dpmpp_2m_sde_gpu|dpmpp_2m_sde_heun|"
    "dpmpp_2m_sde_heun_gpu|dpmpp_3m_sde|dpmpp_3m_sde_gpu|ddpm|lcm|ipndm|ipndm_v|deis|res_multistep|"
    "res_multistep_cfg_pp|res_multistep_ancestral|res_multistep_ancestral_cfg_pp|gradient_estimation|"
    "gradient_estimation_cfg_pp|er_sde|seeds_2|seeds_3|sa_solver|sa_solver_pece|ddim|uni_pc|uni_pc_bh2",
    "COMFYUI_SCHEDULES": "simple|sgm_uniform|karras|exponential|ddim_uniform|beta|normal|linear_quadratic|kl_optimal",
    "INVOKEAI_SAMPLERS": "ddim|ddpm|deis|deis_k|lms|lms_k|pndm|heun|heun_k|euler|euler_k|euler_a|kdpm_2|kdpm_2_k|"
    "kdpm_2_a|kdpm_2_a_k|dpmpp_2s|dpmpp_2s_k|dpmpp_2m|dpmpp_2m_k|dpmpp_2m_sde|dpmpp_2m_sde_k|dpmpp_3m|dpmpp_3m_k|dpmpp_sde|"
    "dpmpp_sde_k|er_sde|unipc|unipc_k|lcm|tcd|edm_euler|edm_dpmpp_2m|plms|k_lms|k_dpm_2|k_dpm_2_a|k_dpmpp_2|"
    "k_dpmpp_2_a|k_euler|k_euler_a|k_heun|dpmpp_2",
}
TABLES = {name: table for name, table in vars(peer_names).items() if name.endswith(("_SAMPLERS", "_SCHEDULES"))}


@pytest.mark.parametrize("name", LISTS)
def test_every_name_that_a_program_has_is_in_its_table(name: str) -> None:
    assert set(LISTS[name].split("|")) - set(TABLES[name]) == set()


@pytest.mark.parametrize("name", [*TABLES, "COMFYUI_SCHEDULE_NODES"])
def test_a_name_means_one_that_exists_or_says_why_not(name: str) -> None:
    ours = SCHEDULES if "SCHEDULE" in name else SAMPLERS
    for label, meaning in vars(peer_names)[name].items():
        assert isinstance(meaning, Meaning)
        assert meaning.ours in ours if meaning.ours else meaning.but, label
        for chosen in filter(None, (meaning.schedule, meaning.automatic)):
            assert chosen in SCHEDULES, label


def test_nodes_of_samplers_mean_names_that_are_known() -> None:
    assert set(peer_names.COMFYUI_SAMPLER_NODES.values()) <= set(peer_names.COMFYUI_SAMPLERS)


PROCESS = Discrete.scaled_linear()
SIGMAS = np.exp([-PROCESS.at(PROCESS.trained(t)).lam for t in range(1000)])  # sigma / alpha of the training steps
LOW, HIGH = SIGMAS[0], SIGMAS[-1]


def at(times: np.ndarray) -> np.ndarray:
    """k-diffusion's t_to_sigma: between training steps the logarithm is linear."""
    return np.exp(np.interp(times, np.arange(1000), np.log(SIGMAS)))


def comfyui(name: str, n: int) -> np.ndarray:
    """The levels of a scheduler of ComfyUI's, by its formula in comfy/samplers.py or k_diffusion/sampling.py."""
    k = np.arange(n)
    ramp = k / (n - 1)
    match name:
        case "normal":
            return at(999 * (1 - ramp))
        case "sgm_uniform":
            return at(999 * (1 - k / n))
        case "simple":
            return np.array([SIGMAS[-(1 + int(each * 1000 / n))] for each in k])
        case "ddim_uniform":
            return SIGMAS[1 :: 1000 // n][::-1]
        case "karras":
            return (HIGH ** (1 / 7) + ramp * (LOW ** (1 / 7) - HIGH ** (1 / 7))) ** 7
        case "exponential":
            return np.exp(math.log(HIGH) + ramp * (math.log(LOW) - math.log(HIGH)))
    return np.tan(ramp * math.atan(LOW) + (1 - ramp) * math.atan(HIGH))  # kl_optimal


SAME = [name for name, meaning in peer_names.COMFYUI_SCHEDULES.items() if not meaning.but] + ["ddim_uniform"]


@pytest.mark.parametrize("steps", [10, 20, 25])
@pytest.mark.parametrize("name", SAME)
def test_a_schedule_has_the_levels_that_it_has_there(name: str, steps: int) -> None:
    ours = schedule(str(peer_names.COMFYUI_SCHEDULES[name].ours), PROCESS, steps)
    found = np.exp([-level.lam for level in list(ours)[:-1]])
    assert found == pytest.approx(comfyui(name, steps), rel=2e-3)  # between training steps they interpolate otherwise
    if name in ("simple", "ddim_uniform", "karras", "exponential", "kl_optimal"):
        assert found == pytest.approx(comfyui(name, steps), rel=1e-5)
