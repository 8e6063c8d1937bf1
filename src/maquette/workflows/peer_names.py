"""What other programs call samplers and schedules, and which of ours each of them is.

The tables hold every name that A1111's web UI 1.10, ComfyUI 0.3 and InvokeAI 2 to 6 have. A name without a counterpart
says why; one whose counterpart is not quite the same says what is different.
"""

from typing import NamedTuple


class Meaning(NamedTuple):
    """Our name for a sampler or a schedule, or None; what is different, or why there is none; and its schedule.

    `schedule` is the one that a sampler has where none is named, `automatic` the one that A1111 1.9 and later choose.
    """

    ours: str | None
    but: str = ""
    schedule: str | None = None
    automatic: str | None = None


BROWNIAN = "its noise comes from a Brownian tree (torchsde); here each step draws its own"
ON_GPU = "its Brownian path is drawn on the GPU there; here on the CPU"
DROPPED = "there the last but one of one level more is left out; here are as many levels as steps"
LAST = "there the last step extrapolates, too; here it ends with what was answered"
HEUN = "it is the form with solver 'heun', which requests cannot name; taken as the one with 'midpoint'"
CFG_PP = "guidance that changes the sampler's own step (CFG++) is not here"
ADAPTIVE = "a sampler that chooses its own steps is not here"
NO_SAMPLER = "this method is not here"
BH1 = "there it is UniPC of order 3; here of order 2"
UNEVEN = "there are more levels than steps where the steps do not divide 1000; here as many as steps"
ENDS = "there the last step ends at the first training step, and a step is left out or added where 1000 is not divided"
OWN_LEVELS = "its own 50 levels are not here; taken at those of the schedule"
WHOLE = "there each level is rounded to a whole training step"
DEIS = "there it interpolates in another coordinate"

A1111_SAMPLERS = {
    "DPM++ 2M": Meaning("dpmpp_2m", automatic="karras"),
    "DPM++ SDE": Meaning("dpmpp_sde", automatic="karras"),
    "DPM++ 2M SDE": Meaning("dpmpp_2m_sde", automatic="exponential"),
    "DPM++ 2M SDE Heun": Meaning("dpmpp_2m_sde", HEUN, automatic="exponential"),
    "DPM++ 2S a": Meaning("dpmpp_2s_a", automatic="karras"),
    "DPM++ 3M SDE": Meaning("dpmpp_3m_sde", DROPPED, automatic="exponential"),
    "Euler a": Meaning("euler_a"),
    "Euler": Meaning("euler"),
    "LMS": Meaning("lms", LAST),
    "Heun": Meaning("heun"),
    "DPM2": Meaning("dpm2", DROPPED, automatic="karras"),
    "DPM2 a": Meaning("dpm2_a", DROPPED, automatic="karras"),
    "DPM fast": Meaning(None, NO_SAMPLER),
    "DPM adaptive": Meaning(None, ADAPTIVE),
    "Restart": Meaning(None, NO_SAMPLER, automatic="karras"),
    "DDIM": Meaning("ddim", ENDS, schedule="leading"),
    "DDIM CFG++": Meaning(None, CFG_PP, schedule="leading"),
    "PLMS": Meaning("plms", ENDS, schedule="leading"),
    "UniPC": Meaning("unipc", BH1, schedule="sgm_uniform"),
    "LCM": Meaning("lcm", OWN_LEVELS),
}
"""A1111's labels; older versions append the schedule, as in "DPM++ 2M Karras". With a `schedule` it has no other."""

A1111_SCHEDULES = {
    "Uniform": Meaning("linspace"),
    "Normal": Meaning("linspace"),
    "Karras": Meaning("karras"),
    "Exponential": Meaning("exponential"),
    "Polyexponential": Meaning("exponential"),  # with its rho of 1; another one is said as "Schedule rho"
    "SGM Uniform": Meaning("sgm_uniform"),
    "SGMUniform": Meaning("sgm_uniform"),
    "KL Optimal": Meaning("kl_optimal", "there the last step ends at the smallest level and not at a clean picture"),
    "Align Your Steps": Meaning(
        "align_your_steps", "there the smallest level has a step of its own; here SD 1's table"
    ),
    "Simple": Meaning("simple"),
    "DDIM": Meaning("leading", UNEVEN),
    "Beta": Meaning("beta", "there the quantiles are of the noise levels; here of the training steps"),
    "Turbo": Meaning(None, "its ten fixed levels are not here"),
}
"""A1111's labels; "Automatic" is what the sampler says."""

COMFYUI_SAMPLERS = {
    "euler": Meaning("euler"),
    "euler_cfg_pp": Meaning(None, CFG_PP),
    "euler_ancestral": Meaning("euler_a"),
    "euler_ancestral_cfg_pp": Meaning(None, CFG_PP),
    "heun": Meaning("heun"),
    "heunpp2": Meaning(None, NO_SAMPLER),
    "exp_heun_2_x0": Meaning(None, NO_SAMPLER),
    "exp_heun_2_x0_sde": Meaning(None, NO_SAMPLER),
    "dpm_2": Meaning("dpm2", DROPPED),
    "dpm_2_ancestral": Meaning("dpm2_a", DROPPED),
    "lms": Meaning("lms", LAST),
    "dpm_fast": Meaning(None, NO_SAMPLER),
    "dpm_adaptive": Meaning(None, ADAPTIVE),
    "dpmpp_2s_ancestral": Meaning("dpmpp_2s_a"),
    "dpmpp_2s_ancestral_cfg_pp": Meaning(None, CFG_PP),
    "dpmpp_sde": Meaning("dpmpp_sde"),
    "dpmpp_sde_gpu": Meaning("dpmpp_sde", ON_GPU),
    "dpmpp_2m": Meaning("dpmpp_2m"),
    "dpmpp_2m_cfg_pp": Meaning(None, CFG_PP),
    "dpmpp_2m_sde": Meaning("dpmpp_2m_sde"),
    "dpmpp_2m_sde_gpu": Meaning("dpmpp_2m_sde", ON_GPU),
    "dpmpp_2m_sde_heun": Meaning("dpmpp_2m_sde", HEUN),
    "dpmpp_2m_sde_heun_gpu": Meaning("dpmpp_2m_sde", f"{HEUN}; {ON_GPU}"),
    "dpmpp_3m_sde": Meaning("dpmpp_3m_sde"),
    "dpmpp_3m_sde_gpu": Meaning("dpmpp_3m_sde", ON_GPU),
    "ddpm": Meaning("ddpm"),
    "lcm": Meaning("lcm"),
    "ipndm": Meaning(None, NO_SAMPLER),
    "ipndm_v": Meaning(None, NO_SAMPLER),
    "deis": Meaning("deis", DEIS),
    "cfgpp_ud10_ab": Meaning(None, CFG_PP),
    "res_multistep": Meaning("dpmpp_2m", HEUN),
    "res_multistep_cfg_pp": Meaning(None, CFG_PP),
    "res_multistep_ancestral": Meaning(None, NO_SAMPLER),
    "res_multistep_ancestral_cfg_pp": Meaning(None, CFG_PP),
    "gradient_estimation": Meaning(None, NO_SAMPLER),
    "gradient_estimation_cfg_pp": Meaning(None, CFG_PP),
    "er_sde": Meaning(None, NO_SAMPLER),
    "seeds_2": Meaning(None, NO_SAMPLER),
    "seeds_3": Meaning(None, NO_SAMPLER),
    "sa_solver": Meaning(None, NO_SAMPLER),
    "sa_solver_pece": Meaning(None, NO_SAMPLER),
    "ddim": Meaning("ddim"),
    "uni_pc": Meaning("unipc", f"{BH1}; {DROPPED}"),
    "uni_pc_bh2": Meaning("unipc", f"{BH1}; {DROPPED}"),
}

COMFYUI_SCHEDULES = {
    "normal": Meaning("linspace"),
    "karras": Meaning("karras"),
    "exponential": Meaning("exponential"),
    "sgm_uniform": Meaning("sgm_uniform"),
    "simple": Meaning("simple"),
    "ddim_uniform": Meaning("leading", UNEVEN),
    "beta": Meaning("beta", WHOLE),
    "linear_quadratic": Meaning(None, "this schedule is not here"),
    "kl_optimal": Meaning("kl_optimal"),
}

COMFYUI_SAMPLER_NODES = {
    "SamplerEulerAncestral": "euler_ancestral",
    "SamplerEulerAncestralCFGPP": "euler_ancestral_cfg_pp",
    "SamplerEulerCFGpp": "euler_cfg_pp",
    "SamplerLMS": "lms",
    "SamplerDPMPP_2S_Ancestral": "dpmpp_2s_ancestral",
    "SamplerDPMPP_SDE": "dpmpp_sde",
    "SamplerDPMPP_2M_SDE": "dpmpp_2m_sde",
    "SamplerDPMPP_3M_SDE": "dpmpp_3m_sde",
    "SamplerDPMAdaptative": "dpm_adaptive",
    "SamplerER_SDE": "er_sde",
    "SamplerSASolver": "sa_solver",
    "SamplerSEEDS2": "seeds_2",
}
"""Nodes that make one sampler each, where KSamplerSelect makes any by name."""

COMFYUI_SCHEDULE_NODES = {
    "KarrasScheduler": Meaning("karras"),
    "ExponentialScheduler": Meaning("exponential"),
    "PolyexponentialScheduler": Meaning("exponential", "its rho is taken to be 1"),
    "BetaSamplingScheduler": Meaning("beta", f"its alpha and beta are taken to be 0.6; {WHOLE}"),
    "AlignYourStepsScheduler": Meaning("align_your_steps", "here it is SD 1's table"),
    "SDTurboScheduler": Meaning(None, "its ten fixed levels are not here"),
    "LaplaceScheduler": Meaning(None, "this schedule is not here"),
    "VPScheduler": Meaning(None, "this schedule is not here"),
    "GITSScheduler": Meaning(None, "this schedule is not here"),
    "Flux2Scheduler": Meaning(None, "this schedule is not here"),
    "LTXVScheduler": Meaning(None, "this schedule is not here"),
    "OptimalStepsScheduler": Meaning(None, "this schedule is not here"),
    "ManualSigmas": Meaning(None, "levels given by hand cannot be told in a request"),
}
"""Nodes that make one schedule each, where BasicScheduler makes any by name."""

INVOKEAI_SAMPLERS = {
    "ddim": Meaning("ddim", schedule="leading"),
    "ddpm": Meaning("ddpm", schedule="leading"),
    "deis": Meaning("deis", "there it is of order 2; here of order 3", schedule="linspace"),
    "deis_k": Meaning("deis", "there it is of order 2; here of order 3", schedule="karras"),
    "lms": Meaning("lms", LAST, schedule="linspace"),
    "lms_k": Meaning("lms", LAST, schedule="karras"),
    "pndm": Meaning("plms", "the first steps are taken by another method there", schedule="leading"),
    "heun": Meaning("heun", schedule="linspace"),
    "heun_k": Meaning("heun", schedule="karras"),
    "euler": Meaning("euler", schedule="linspace"),
    "euler_k": Meaning("euler", schedule="karras"),
    "euler_a": Meaning("euler_a", schedule="linspace"),
    "kdpm_2": Meaning("dpm2", schedule="linspace"),
    "kdpm_2_k": Meaning("dpm2", schedule="karras"),
    "kdpm_2_a": Meaning("dpm2_a", schedule="linspace"),
    "kdpm_2_a_k": Meaning("dpm2_a", schedule="karras"),
    "dpmpp_2s": Meaning(None, "without fresh noise it is not here", schedule="linspace"),
    "dpmpp_2s_k": Meaning(None, "without fresh noise it is not here", schedule="karras"),
    "dpmpp_2m": Meaning("dpmpp_2m", WHOLE, schedule="linspace"),
    "dpmpp_2m_k": Meaning("dpmpp_2m", WHOLE, schedule="karras"),
    "dpmpp_2m_sde": Meaning("dpmpp_2m_sde", WHOLE, schedule="linspace"),
    "dpmpp_2m_sde_k": Meaning("dpmpp_2m_sde", WHOLE, schedule="karras"),
    "dpmpp_3m": Meaning(None, "of order 3 it is here only with fresh noise", schedule="linspace"),
    "dpmpp_3m_k": Meaning(None, "of order 3 it is here only with fresh noise", schedule="karras"),
    "dpmpp_sde": Meaning("dpmpp_sde", BROWNIAN, schedule="linspace"),
    "dpmpp_sde_k": Meaning("dpmpp_sde", BROWNIAN, schedule="karras"),
    "er_sde": Meaning(None, NO_SAMPLER),
    "unipc": Meaning("unipc", WHOLE, schedule="linspace"),
    "unipc_k": Meaning("unipc", WHOLE, schedule="karras"),
    "uni_pc": Meaning("unipc", schedule="flow"),  # of flow models
    "lcm": Meaning("lcm", schedule="lcm"),
    "tcd": Meaning(None, NO_SAMPLER),
    "sa_solver": Meaning(None, NO_SAMPLER),
    "edm_euler": Meaning(None, "it is for models of EDM, which are not here"),
    "edm_dpmpp_2m": Meaning(None, "it is for models of EDM, which are not here"),
    "plms": Meaning("plms", schedule="leading"),
    "dpmpp_2": Meaning("dpmpp_2m", WHOLE, schedule="linspace"),
    "k_lms": Meaning("lms", LAST),
    "k_euler": Meaning("euler"),
    "k_euler_a": Meaning("euler_a"),
    "k_heun": Meaning("heun"),
    "k_dpm_2": Meaning("dpm2"),
    "k_dpm_2_a": Meaning("dpm2_a"),
    "k_dpmpp_2": Meaning("dpmpp_2m"),
    "k_dpmpp_2_a": Meaning("dpmpp_2s_a"),
}
"""InvokeAI's names, those of version 2 last; a name is of a sampler and its schedule together."""

KARRAS_BELOW = 30
"""InvokeAI 2 paints with k_... samplers at Karras's levels below so many steps, and at the training steps' above."""
