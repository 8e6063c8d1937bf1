"""A1111's infotext: the settings of a picture as three paragraphs of text, which every gallery tool reads.

    the prompt
    Negative prompt: the negative prompt
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 512x512, Model: mini

A prompt with a line that begins with "Negative prompt: " cannot be told from its negative: the form is lossy, which
is why Maquette writes its own JSON beside it.
"""

import json
import re
from typing import Any

from maquette import __version__
from maquette.errors import MaquetteError
from maquette.workflows.request import Resolved

SAMPLER_LABELS = {
    "ddim": "DDIM",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2s_a": "DPM++ 2S a",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "lcm": "LCM",
    "lms": "LMS",
    "unipc": "UniPC",
}
"""A1111's name for a sampler of ours; one that it does not have keeps our name."""

SCHEDULE_LABELS = {
    "align_your_steps": "Align Your Steps",
    "beta": "Beta",
    "exponential": "Exponential",
    "karras": "Karras",
    "kl_optimal": "KL Optimal",
    "leading": "DDIM",
    "linspace": "Uniform",
    "sgm_uniform": "SGM Uniform",
    "simple": "Simple",
}
"""A1111's name for a schedule of ours; one that it does not have keeps our name."""

_NEGATIVE = "\nNegative prompt: "
_SETTING = re.compile(r'\s*(?P<key>\w[\w /-]*): (?P<value>"(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')


def write_infotext(request: Resolved, model_hash: str) -> str:
    """The infotext of the one picture that `request` describes."""
    settings = {
        "Steps": request.steps,
        "Sampler": SAMPLER_LABELS.get(request.sampler, request.sampler),
        "Schedule type": SCHEDULE_LABELS.get(request.schedule, request.schedule),
        "CFG scale": f"{request.guidance:g}",
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model hash": model_hash[:10],
        "Model": request.model,
        "Version": f"maquette {__version__}",
    }
    negative = _NEGATIVE + request.negative if request.negative else ""
    return f"{request.prompt}{negative}\n" + ", ".join(f"{key}: {_quote(value)}" for key, value in settings.items())


def read_infotext(text: str) -> dict[str, Any]:
    """The fields of a `Request` that an infotext gives; raises MaquetteError where it is none."""
    words, _, last = text.rpartition("\n")
    settings = {match["key"]: _unquote(match["value"]) for match in _SETTING.finditer(last)}
    if "Steps" not in settings:
        raise MaquetteError(f"no settings in the text {last!r:.60}; its last line should begin with 'Steps: '")
    prompt, _, negative = ("\n" + words).partition(_NEGATIVE)
    try:
        return {"prompt": prompt[1:], "negative": negative, **_fields(settings)}
    except ValueError as error:
        raise MaquetteError(f"the settings {last!r:.60} hold no number where one should be: {error}") from None


def _fields(settings: dict[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {"steps": int(settings["Steps"])}
    if "Sampler" in settings:
        fields["sampler"] = _name(settings["Sampler"], SAMPLER_LABELS)
    if "Schedule type" in settings:
        fields["schedule"] = _name(settings["Schedule type"], SCHEDULE_LABELS)
    if "CFG scale" in settings:
        fields["guidance"] = float(settings["CFG scale"])
    if "Seed" in settings:
        fields["seed"] = int(settings["Seed"])
    if "Size" in settings:
        width, _, height = settings["Size"].partition("x")
        fields |= {"width": int(width), "height": int(height)}
    if "Model" in settings:
        fields["model"] = settings["Model"]
    return fields


def _name(label: str, labels: dict[str, str]) -> str:
    """Our name for A1111's label; a label that is not in the table is taken for a name."""
    return next((name for name, known in labels.items() if known == label), label.lower())


def _quote(value: object) -> str:
    """As A1111: a value with a comma, a colon or a line break stands in JSON quotes."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n\r"]', text) else text


def _unquote(text: str) -> str:
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return text
