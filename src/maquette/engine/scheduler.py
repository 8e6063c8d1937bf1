"""The `scheduler_config.json` of a diffusers folder: how the model was trained to see noise, read and written."""

from collections.abc import Mapping
from typing import Any

from maquette.diffusion.prediction import EPSILON, PRECONDITIONED, SAMPLE, Prediction, V
from maquette.diffusion.process import EDM, Discrete, Process, RectifiedFlow
from maquette.errors import MaquetteError
from maquette.models.config import Config

BETAS = {
    "linear": Discrete.linear,
    "scaled_linear": Discrete.scaled_linear,
}
LATENT_DIFFUSION = ((0.0015, 0.0195), (0.0015, 0.0155))  # first and last betas before Stable Diffusion
MOST_STEPS = 100_000
ZERO_SNR = "rescale_betas_zero_snr"
FLOW = "FlowMatchEulerDiscreteScheduler"
PREDICTIONS: dict[str, Prediction] = {"epsilon": EPSILON, "sample": SAMPLE, "v_prediction": V}


def read_scheduler(options: Mapping[str, Any], where: str) -> tuple[Discrete, Prediction]:
    """The process and the prediction that a discrete scheduler's options describe; `where` names their file.

    Raises:
        MaquetteError: an option is damaged or unknown.
    """
    config = Config(options, where)
    config.expect({"trained_betas": None, "use_flow_sigmas": False})
    betas = str(config.get("beta_schedule", "linear"))
    prediction = str(config.get("prediction_type", "epsilon"))
    steps = config.integer("num_train_timesteps", 1000)
    zero_snr = config.flag(ZERO_SNR, False)
    for name, value, known in (
        ("beta_schedule", betas, (*BETAS, "squaredcos_cap_v2")),
        ("prediction_type", prediction, PREDICTIONS),
    ):
        if value not in known:
            raise MaquetteError(f"{where}: {name} is {value!r}; known are {', '.join(known)}")
    if not 2 <= steps <= MOST_STEPS:
        raise config.refuse("num_train_timesteps", f"expected 2 to {MOST_STEPS}")
    if betas == "squaredcos_cap_v2":
        process = Discrete.cosine(steps, zero_terminal_snr=zero_snr)
    else:
        first, last = config.number("beta_start", 0.0001), config.number("beta_end", 0.02)
        if not 0 < first < last < 1:
            raise config.refuse("beta_start", f"expected 0 < beta_start < beta_end < 1, and beta_end is {last}")
        process = BETAS[betas](first, last, steps, zero_terminal_snr=zero_snr)
    return process, PREDICTIONS[prediction]


def is_edm(options: Mapping[str, Any]) -> bool:
    """Whether a scheduler sees noise as EDM does."""
    return str(options.get("_class_name", "")).startswith("EDM")


def read_edm(options: Mapping[str, Any], where: str) -> tuple[EDM, Prediction]:
    """The process and the prediction that one of diffusers' EDM schedulers describes.

    Raises:
        MaquetteError: an option is damaged or unknown.
    """
    config = Config(options, where)
    names = {"epsilon": PRECONDITIONED, "v_prediction": V}
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in names:
        raise config.refuse("prediction_type", f"expected {' or '.join(names)}")
    low, high, data = (config.number(name, getattr(EDM, name)) for name in ("sigma_min", "sigma_max", "sigma_data"))
    return EDM(low, high, data, config.integer("num_train_timesteps", EDM.steps)), names[prediction]


def edm_config(edm: EDM, prediction: Prediction) -> dict[str, Any]:
    """The options of diffusers' EDMEulerScheduler."""
    return {
        "_class_name": "EDMEulerScheduler",
        "sigma_min": edm.sigma_min,
        "sigma_max": edm.sigma_max,
        "sigma_data": edm.sigma_data,
        "num_train_timesteps": edm.steps,
        "prediction_type": "v_prediction" if prediction is V else "epsilon",
    }


def ddim_config(prediction: Prediction, *, zero_terminal_snr: bool) -> dict[str, Any]:
    """The options of diffusers' DDIMScheduler for a model trained on SD's scaled-linear betas."""
    name = next(name for name, known in PREDICTIONS.items() if known is prediction)
    return {
        "_class_name": "DDIMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": name,
        ZERO_SNR: zero_terminal_snr,
        "timestep_spacing": "trailing" if zero_terminal_snr else "leading",
        "steps_offset": 1,  # read where the spacing is "leading" alone; diffusers warns of any other number
        "clip_sample": False,
        "set_alpha_to_one": True,
    }


def read_flow(options: Mapping[str, Any], where: str, flow: Process) -> tuple[RectifiedFlow, bool]:
    """The process of a flow's scheduler, and whether its shift grows with the picture; `flow` is the family's.

    Raises:
        MaquetteError: an option is damaged or unknown.
    """
    config = Config(options, where)
    if config.get("_class_name", FLOW) != FLOW:
        raise config.refuse("_class_name", f"expected {FLOW}")
    by_size = config.flag("use_dynamic_shifting", False)
    if by_size:
        config.expect({"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096})
        assert isinstance(flow, RectifiedFlow)
        return flow, True
    return RectifiedFlow(config.number("shift", 1.0)), False


def flow_config(flow: RectifiedFlow, *, by_size: bool) -> dict[str, Any]:
    """The options of diffusers' FlowMatchEulerDiscreteScheduler for a rectified flow."""
    return {
        "_class_name": FLOW,
        "num_train_timesteps": flow.steps,
        "shift": flow.shift,
        "use_dynamic_shifting": by_size,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    }


def scheduler_config(process: Process, prediction: Prediction, *, by_size: bool) -> dict[str, Any]:
    """The options of the scheduler of diffusers that sees noise as the process does.

    Raises:
        MaquetteError: diffusers has no options for the process.
    """
    if isinstance(process, RectifiedFlow):
        return flow_config(process, by_size=by_size)
    if isinstance(process, EDM):
        return edm_config(process, prediction)
    for zero in (False, True):
        if process == Discrete.scaled_linear(zero_terminal_snr=zero):
            return ddim_config(prediction, zero_terminal_snr=zero)
    for first, last in LATENT_DIFFUSION:
        if process == Discrete.scaled_linear(first, last):
            return ddim_config(prediction, zero_terminal_snr=False) | {"beta_start": first, "beta_end": last}
    if process == Discrete.linear():
        linear = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}
        return ddim_config(prediction, zero_terminal_snr=False) | linear
    raise MaquetteError("this model's noise has no name among diffusers' schedulers; keep the model as it is")
