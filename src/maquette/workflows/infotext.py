"""A1111's infotext: the settings of a picture as three paragraphs of text, which every gallery tool reads.

    the prompt
    Negative prompt: the negative prompt
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 512x512, Model: mini

A prompt with a line that begins with "Negative prompt: " cannot be told from its negative: the form is lossy, which
is why Maquette writes its own JSON beside it.
"""

import json
import re
from collections.abc import Mapping

from maquette import __version__
from maquette.errors import MaquetteError
from maquette.workflows.foreign import BEGAN_WITH_PICTURE, NO_LORA, NOT_HERE, Settings
from maquette.workflows.peer_names import A1111_SAMPLERS, A1111_SCHEDULES, Meaning
from maquette.workflows.request import Resolved

MAX_INFOTEXT = 2**17  # characters


def _labels(known: Mapping[str, Meaning]) -> dict[str, str]:
    return {meaning.ours: label for label, meaning in reversed(list(known.items())) if meaning.ours is not None}


SAMPLER_LABELS = _labels(A1111_SAMPLERS)
"""A1111's name for a sampler of ours; one that it does not have keeps our name."""

SCHEDULE_LABELS = _labels(A1111_SCHEDULES)
"""A1111's name for a schedule of ours; one that it does not have keeps our name."""

_OURS = "maquette "  # how the version begins in what we wrote
_NEGATIVE = "\nNegative prompt: "
_SETTING = re.compile(r'(?P<key>\w[\w /()-]{0,60}): (?P<value>"(?:\\.|[^"\\]){0,8192}"|[^,]*)(?:,|$)')
_NETWORK = re.compile(r"<(?P<kind>\w{1,20}):(?P<told>[^<>]{1,200})>")  # <lora:name:0.8>
_NUMBERS: dict[str, tuple[str, type[int] | type[float]]] = {
    "Steps": ("steps", int),
    "CFG scale": ("guidance", float),
    "Seed": ("seed", int),
    "Clip skip": ("clip_skip", int),
}
_SILENT = {  # what changes nothing, or is read together with another setting
    *("Version", "Model hash", "VAE hash", "Lora hashes", "TI hashes", "Hashes", "Batch size", "Batch pos", "User"),
    *("Size", "Model", "Sampler", "Schedule type", "RNG", "ENSD", "Created Date", *_NUMBERS),
    *("Denoising strength", "Hires upscale", "Hires resize", "Hires steps", "Hires upscaler"),
    *("Variation seed", "Variation seed strength", "Refiner", "Refiner switch at", "Distilled CFG Scale"),
}
_WHY = {"VAE": "open the model with it: --vae FILE", "Init image hash": BEGAN_WITH_PICTURE}


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
        "Version": f"{_OURS}{__version__}",
    }
    negative = _NEGATIVE + request.negative if request.negative else ""
    return f"{request.prompt}{negative}\n" + ", ".join(f"{key}: {_quote(value)}" for key, value in settings.items())


def read_infotext(text: str) -> Settings:
    """What an infotext says.

    Raises:
        MaquetteError: it is none, or holds something else where a number should be.
    """
    if len(text) > MAX_INFOTEXT:
        raise MaquetteError(f"the settings are {len(text):,} characters long; at most {MAX_INFOTEXT:,} are read")
    words, last, after = _split(text)
    told = {match["key"]: _unquote(match["value"]) for match in _SETTING.finditer(last)}
    prompt, _, negative = ("\n" + words).partition(_NEGATIVE)
    settings = Settings(program="A1111", version=told.get("Version", ""))
    settings.fields |= {"prompt": prompt[1:], "negative": negative}
    try:
        _read_numbers(settings, told)
        if settings.version.startswith(_OURS):
            _read_our_names(settings, told)
        else:
            _read_theirs(settings, told)
    except (ValueError, OverflowError) as error:
        raise MaquetteError(f"the settings {last!r:.60} hold no number where one should be: {error}") from None
    if after:
        settings.leave("Template", after, NOT_HERE)
    return settings


def _split(text: str) -> tuple[str, str, str]:
    """The prompts, the line of settings, and what extensions wrote behind it."""
    lines = text.split("\n")
    for place in reversed(range(len(lines))):
        if lines[place].lstrip().startswith("Steps: "):
            return "\n".join(lines[:place]), lines[place], "\n".join(lines[place + 1 :]).strip()
    raise MaquetteError(f"no settings in the text {lines[-1]!r:.60}; its last line should begin with 'Steps: '")


def _read_numbers(settings: Settings, told: Mapping[str, str]) -> None:
    for key, (name, kind) in _NUMBERS.items():
        if key in told:
            settings.fields[name] = kind(told[key])
    if "Size" in told:
        width, _, height = told["Size"].partition("x")
        settings.fields |= {"width": int(width), "height": int(height)}
    if "Model" in told:
        settings.fields["model"] = told["Model"]
    if "Model hash" in told:
        settings.hashes["model"] = told["Model hash"]


def _read_our_names(settings: Settings, told: Mapping[str, str]) -> None:
    """Names in what we wrote: A1111's, or ours where it has none."""
    settings.program, settings.version = "Maquette", settings.version.removeprefix(_OURS)
    for key, kind, labels in (("Sampler", "sampler", SAMPLER_LABELS), ("Schedule type", "schedule", SCHEDULE_LABELS)):
        if key in told:
            settings.fields[kind] = next((ours for ours, label in labels.items() if label == told[key]), told[key])


def _read_theirs(settings: Settings, told: Mapping[str, str]) -> None:
    for name in ("prompt", "negative"):
        settings.fields[name] = _take_networks(settings, settings.fields[name].strip())
    if "Distilled CFG Scale" in told:  # Forge, with models that are told their guidance
        settings.fields["guidance"] = float(told["Distilled CFG Scale"])
    _read_sampler(settings, told)
    _read_noise(settings, told)
    _read_hires(settings, told)
    if "Refiner" in told:
        model = re.sub(r" \[[0-9a-f]+\]$", "", told["Refiner"])
        settings.fields["refiner"] = {"model": model, "at": float(told.get("Refiner switch at", 0.8))}
    for kind, key in (("lora", "Lora hashes"), ("embedding", "TI hashes")):
        for pair in filter(None, told.get(key, "").split(", ")):
            name, _, digest = pair.rpartition(": ")
            settings.hashes[f"{kind} {name}"] = digest
            if kind == "embedding":
                settings.leave("embedding", name, "open the model with it: --embedding WORD=FILE")
    for key, value in told.items():
        if key not in _SILENT:
            settings.leave(key, value, _WHY.get(key, NOT_HERE))


def _take_networks(settings: Settings, prompt: str) -> str:
    """The prompt without its <lora:name:0.8>, which are left."""
    for match in _NETWORK.finditer(prompt):
        settings.leave(match["kind"], match["told"], NO_LORA if match["kind"] in ("lora", "lyco") else NOT_HERE)
    return _NETWORK.sub("", prompt)


def _read_sampler(settings: Settings, told: Mapping[str, str]) -> None:
    """The sampler and its schedule, which older versions wrote as one name."""
    label, schedule = told.get("Sampler"), told.get("Schedule type")
    if label is None:
        return
    first, _, last = label.rpartition(" ")
    if schedule is None and last in A1111_SCHEDULES and label not in A1111_SAMPLERS:
        label, schedule = first, last
    meaning = settings.translate("sampler", "Sampler", label, A1111_SAMPLERS) or Meaning(None)
    if schedule == "Automatic":
        settings.fields["schedule"] = meaning.automatic or meaning.schedule or "linspace"
    elif schedule is not None:
        settings.translate("schedule", "Schedule type", schedule, A1111_SCHEDULES)
    else:
        settings.fields["schedule"] = meaning.schedule or "linspace"


def _read_noise(settings: Settings, told: Mapping[str, str]) -> None:
    """The noise; where nothing is said of it, it came from the GPU."""
    settings.noise = "a1111-cpu" if told.get("RNG") == "CPU" else "a1111-nv"
    settings.noise_delta = int(told.get("ENSD", 0))
    if "Variation seed" in told and float(told.get("Variation seed strength", 0)):
        amount = float(told.get("Variation seed strength", 0))
        settings.fields["variation"] = {"seed": int(told["Variation seed"]), "amount": amount}


def _read_hires(settings: Settings, told: Mapping[str, str]) -> None:
    """The second pass; a strength without one belongs to a picture that was begun with."""
    strength = told.get("Denoising strength")
    if "Hires upscale" not in told and "Hires resize" not in told:
        if strength is not None:
            settings.leave("Denoising strength", strength, BEGAN_WITH_PICTURE)
        return
    scale = float(told.get("Hires upscale", 0))
    if "Hires resize" in told:
        scale = int(told["Hires resize"].partition("x")[0]) / max(settings.fields.get("width", 0), 1)
    upscaler = told.get("Hires upscaler", "Latent")
    by = "latent" if upscaler.startswith("Latent") else "pixel"
    settings.fields["hires"] = {"scale": scale, "strength": float(strength or 0.7), "by": by}
    if int(told.get("Hires steps", 0)):
        settings.fields["hires"]["steps"] = int(told["Hires steps"])
    if upscaler != "Latent":
        settings.leave("Hires upscaler", upscaler, f"another way to enlarge the {by}s is taken")


def _quote(value: object) -> str:
    """As A1111: a value with a comma, a colon or a line break stands in JSON quotes."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n\r"]', text) else text


def _unquote(text: str) -> str:
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return text
