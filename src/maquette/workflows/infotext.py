"""A1111's infotext: the settings of a picture as three paragraphs of text, which every gallery tool reads.

    the prompt
    Negative prompt: the negative prompt
    Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 512x512, Model: mini

Keys and their order are A1111's. A prompt with a line that begins with "Negative prompt: " cannot be told from its
negative, and pictures that a request began with are not told: the form is lossy, which is why Maquette writes its own
JSON beside it.
"""

import json
import re
from collections.abc import Iterator, Mapping

from maquette import __version__
from maquette.diffusion.samplers import SAMPLERS
from maquette.engine.merge import MOST
from maquette.errors import MaquetteError
from maquette.text.script import counts_steps
from maquette.workflows.foreign import ADD_EMBEDDING, BEGAN_WITH_PICTURE, NOT_HERE, Settings
from maquette.workflows.infotext_hires import read_hires, write_hires
from maquette.workflows.loras import name_of, names_of, take_tags, tell, write_tag
from maquette.workflows.peer_names import A1111_SAMPLERS, A1111_SCHEDULES, Meaning
from maquette.workflows.preprocessors import read_preprocessor
from maquette.workflows.request import Resolved
from maquette.workflows.settings import Control, Lora

MAX_INFOTEXT = 2**17  # characters


def _labels(known: Mapping[str, Meaning]) -> dict[str, str]:
    return {meaning.ours: label for label, meaning in reversed(list(known.items())) if meaning.ours is not None}


SAMPLER_LABELS = _labels(A1111_SAMPLERS)
"""A1111's name for a sampler of ours; one that it does not have keeps our name."""

SCHEDULE_LABELS = _labels(A1111_SCHEDULES)
"""A1111's name for a schedule of ours; one that it does not have keeps our name."""

GENERATORS = {"cpu": "CPU", "a1111-cpu": "CPU", "a1111-nv": "NV"}
"""A1111's RNG that draws the same first noise."""

MODULES = {"blur": "blur_gaussian", "grey": "recolor_luminance", "tile": "tile_resample"}
"""The ControlNet extension's names for our preprocessors, where they are others."""

RESIZE_MODES = {"crop": "Crop and Resize", "pad": "Resize and Fill", "stretch": "Just Resize"}
CONTROL_MODES = {
    "balanced": "Balanced",
    "prompt": "My prompt is more important",
    "control": "ControlNet is more important",
}

_OURS = "maquette "  # how the version begins in what we wrote
_NEGATIVE = "\nNegative prompt: "
_SETTING = re.compile(r'(?P<key>\w[\w /()-]{0,60}): (?P<value>"(?:\\.|[^"\\]){0,8192}"|[^,]*)(?:,|$)')
_NETWORK = re.compile(r"<(?P<kind>\w{1,20}):(?P<told>[^<>]{1,200})>")  # <hypernet:name:0.8>
_LAST_TAG = re.compile(r" <lora:[^<>]{1,400}>\Z")
_NUMBERS: dict[str, tuple[str, type[int] | type[float]]] = {
    "Steps": ("steps", int),
    "CFG scale": ("guidance", float),
    "Image CFG scale": ("image_guidance", float),
    "Seed": ("seed", int),
    "Clip skip": ("clip_skip", int),
}
_SILENT = {  # what changes nothing, or is read together with another setting
    *("Version", "Model hash", "VAE hash", "Lora hashes", "TI hashes", "Hashes", "Batch size", "Batch pos", "User"),
    *("Size", "Model", "Sampler", "Schedule type", "RNG", "ENSD", "Noise", "Created Date", *_NUMBERS),
    *("Denoising strength", "Hires upscale", "Hires resize", "Hires steps", "Hires upscaler", "Hires schedule steps"),
    *("Variation seed", "Variation seed strength", "Refiner", "Refiner switch at", "Distilled CFG Scale"),
    *("Refiner switch by sampling steps", "Hires refiner", "Token merging ratio", "Step cache"),
}
_WHY = {
    "VAE": "open the model with it: --vae FILE",
    "Init image hash": BEGAN_WITH_PICTURE,
    "Pad conds": "there empty chunks follow the shorter text; here it is told as if it were alone",
}
_TWICE = "it asks the model twice a step; there words that change by turns or after some steps count each question"
_FOLLOWS = "the picture that it follows is not in the file; give it again: --control"


def write_infotext(request: Resolved, model_hash: str, hashes: Mapping[str, str] | None = None) -> str:
    """The infotext of the one picture that `request` describes.

    `hashes` are those of what was added to the model ("lora NAME", "embedding WORD").
    """
    settings = {
        "Steps": request.steps,
        "Sampler": SAMPLER_LABELS.get(request.sampler, request.sampler),
        "Schedule type": SCHEDULE_LABELS.get(request.schedule, request.schedule),
        "CFG scale": request.guidance if request.true_guidance == 1.0 else request.true_guidance,
        "Distilled CFG Scale": None if request.true_guidance == 1.0 else request.guidance,
        "Seed": request.seed,
        "Size": f"{request.width}x{request.height}",
        "Model hash": model_hash[:10] or None,
        "Model": name_of(request.model),
        **_more(request),
        **dict(_added(request, hashes or {})),
        "Version": f"{_OURS}{__version__}",
    }
    told = ", ".join(f"{key}: {_quote(value)}" for key, value in settings.items() if value is not None)
    prompt = request.prompt + "".join(f" {write_tag(lora)}" for lora in _tellable(request))
    negative = _NEGATIVE + request.negative if request.negative else ""
    return f"{prompt}{negative}\n{told}"


def _more(request: Resolved) -> dict[str, object]:
    """What A1111 says only where it is not as usual; None is not said."""
    varied, hires, refiner, generator = request.variation, request.hires, request.refiner, GENERATORS.get(request.noise)
    told = varied is not None and varied.seed is not None
    speed = request.speed
    return {
        "Variation seed": varied.seed if varied and told else None,
        "Variation seed strength": varied.amount if varied and told else None,
        "Denoising strength": request.strength if hires is None else hires.strength,
        "Image CFG scale": request.image_guidance,
        "Clip skip": request.clip_skip if request.clip_skip > 1 else None,
        "ENSD": request.noise_delta or None,
        "RNG": generator,
        "Noise": None if _RNG_OF_OURS.get(generator or "") == request.noise else request.noise,
        "Mask blur": None if request.mask is None else request.mask_blur,
        **({} if hires is None else write_hires(request, hires)),
        "Refiner": None if refiner is None else refiner.model,
        "Refiner switch at": None if refiner is None else refiner.at,
        "Refiner switch by sampling steps": None if refiner is None else True,
        "Token merging ratio": None if speed is None else speed.merge or None,
        "Step cache": f"{tell(speed.cache)} {speed.outer}" if speed is not None and speed.cache else None,
    }


_RNG_OF_OURS = {"CPU": "cpu", "NV": "a1111-nv"}  # what RNG means in what we wrote, unless Noise says another


def _added(request: Resolved, hashes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for k, control in enumerate(request.controls):
        yield f"ControlNet {k}", _control_line(control)
    loras = names_of(lora.file for lora in _tellable(request))
    if loras:
        yield "Lora hashes", ", ".join(f"{name}: {hashes.get(f'lora {name}', '')}" for name in loras)
    if request.embeddings:
        words = [each.word for each in request.embeddings]
        yield "TI hashes", ", ".join(f"{word}: {hashes.get(f'embedding {word}', '')}" for word in words)


def _tellable(request: Resolved) -> list[Lora]:
    """The LoRAs whose names A1111 can say."""
    return [lora for lora in request.loras or () if not re.search(r'[<>:,"\\]', name_of(lora.file))]


def _control_line(control: Control) -> str:
    """As the ControlNet extension tells a unit."""
    name, numbers = ("none", ()) if control.preprocessor is None else read_preprocessor(control.preprocessor)
    thresholds = dict(zip(("Threshold A", "Threshold B"), map(tell, numbers), strict=False))
    told = {
        "Module": MODULES.get(name, name),
        "Model": name_of(control.model),
        "Weight": tell(control.scale),
        "Resize Mode": RESIZE_MODES[control.resize],
        **thresholds,
        "Guidance Start": tell(control.start),
        "Guidance End": tell(control.end),
        "Pixel Perfect": True,
        "Control Mode": CONTROL_MODES[control.mode],
    }
    return ", ".join(f"{key}: {value}" for key, value in told.items())


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
            _read_ours(settings, told)
        else:
            _read_theirs(settings, told)
        _read_rest(settings, told)
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
    if "Distilled CFG Scale" in told:  # as Forge has it, with models that are told their guidance
        if (true := settings.fields.get("guidance", 1.0)) > 1.0:
            settings.fields["true_guidance"] = true
        settings.fields["guidance"] = float(told["Distilled CFG Scale"])
    if "Size" in told:
        width, _, height = told["Size"].partition("x")
        settings.fields |= {"width": int(width), "height": int(height)}
    cache, _, outer = told.get("Step cache", "0").partition(" ")
    merge = min(float(told.get("Token merging ratio", 0)), MOST)
    if float(cache) or merge:
        settings.fields["speed"] = {"cache": float(cache), "outer": int(outer or 1), "merge": merge}
    if "Model" in told:
        settings.fields["model"] = told["Model"]
    if "Model hash" in told:
        settings.hashes["model"] = told["Model hash"]


def _read_ours(settings: Settings, told: Mapping[str, str]) -> None:
    """What we wrote: names are A1111's, or ours where it has none, and the LoRAs stand at the prompt's end."""
    settings.program, settings.version = "Maquette", settings.version.removeprefix(_OURS)
    for key, kind, labels in (("Sampler", "sampler", SAMPLER_LABELS), ("Schedule type", "schedule", SCHEDULE_LABELS)):
        if key in told:
            settings.fields[kind] = next((ours for ours, label in labels.items() if label == told[key]), told[key])
    settings.noise = told.get("Noise", _RNG_OF_OURS.get(told.get("RNG", ""), settings.noise))
    settings.fields |= {"noise": settings.noise, "noise_delta": int(told.get("ENSD", 0))}
    if "Mask blur" in told:
        settings.fields["mask_blur"] = int(told["Mask blur"])
    loras: list[dict[str, object]] = []
    for _ in range(len(_pairs(told.get("Lora hashes", "")))):
        if (tag := _LAST_TAG.search(settings.fields["prompt"])) is not None:
            loras = take_tags(tag[0])[1] + loras
            settings.fields["prompt"] = settings.fields["prompt"][: tag.start()]
    if loras:
        settings.fields["loras"] = loras


def _read_theirs(settings: Settings, told: Mapping[str, str]) -> None:
    loras = []
    for name in ("prompt", "negative"):
        words, named = take_tags(settings.fields[name].strip())
        for match in _NETWORK.finditer(words):
            settings.leave(match["kind"], match["told"], NOT_HERE)
        settings.fields[name] = _NETWORK.sub("", words)
        loras += named
    if loras:
        settings.fields["loras"] = loras
    _read_sampler(settings, told)
    settings.noise = "a1111-cpu" if told.get("RNG") == "CPU" else "a1111-nv"  # where nothing is said: from the GPU
    settings.noise_delta = int(told.get("ENSD", 0))
    if (skip := settings.fields.get("clip_skip", 1)) > 1:  # 1 is every family's own
        settings.layer, settings.only_sd1 = skip, not settings.version.startswith("f")  # of Forge, for all families


def _read_rest(settings: Settings, told: Mapping[str, str]) -> None:
    """What is told alike by both; everything else is left."""
    if "Variation seed" in told and "Variation seed strength" in told:
        amount = float(told["Variation seed strength"])
        settings.fields["variation"] = {"seed": int(told["Variation seed"]), "amount": amount}
    read_hires(settings, told)
    if "Refiner" in told:
        model = re.sub(r" \[[0-9a-f]+\]$", "", told["Refiner"])
        settings.fields["refiner"] = {"model": model, "at": float(told.get("Refiner switch at", 0.8))}
        _leave_refiner(settings, told)
    for kind, key in (("lora", "Lora hashes"), ("embedding", "TI hashes")):
        for name, digest in _pairs(told.get(key, "")):
            settings.hashes[f"{kind} {name}"] = digest
            if kind == "embedding":
                settings.leave("embedding", name, ADD_EMBEDDING)
    for key, value in told.items():
        if key not in _SILENT and not (key == "Mask blur" and "mask_blur" in settings.fields):
            settings.leave(key, value, _FOLLOWS if key.startswith("ControlNet") else _WHY.get(key, NOT_HERE))


def _leave_refiner(settings: Settings, told: Mapping[str, str]) -> None:
    """Say where A1111's refiner begins elsewhere than at that share of the steps of both passes."""
    if settings.program == "Maquette":
        return
    version = re.search(r"v(\d{1,4})\.(\d{1,4})", settings.version)
    by_time = version is not None and (int(version[1]), int(version[2])) >= (1, 8)
    if by_time and told.get("Refiner switch by sampling steps") != "True":
        settings.leave(
            "Refiner switch at", told.get("Refiner switch at", 0.8), "there it is a share of the noise's time"
        )
    if ("Hires upscale" in told or "Hires resize" in told) and told.get("Hires refiner") != "both passes":
        only = told.get("Hires refiner", "second pass")
        settings.leave("Hires refiner", only, "here it works in both passes")


def _pairs(told: str) -> list[tuple[str, str]]:
    """The names and hashes of "name: hash, name: hash"."""
    return [(name, digest) for name, _, digest in (pair.rpartition(": ") for pair in filter(None, told.split(", ")))]


def _read_sampler(settings: Settings, told: Mapping[str, str]) -> None:
    """The sampler and its schedule, which older versions wrote as one name."""
    label, schedule = told.get("Sampler"), told.get("Schedule type")
    if label is None:
        return
    first, _, last = label.rpartition(" ")
    if schedule is None and last in A1111_SCHEDULES and label not in A1111_SAMPLERS:
        label, schedule = first, last
    meaning = settings.translate("sampler", "Sampler", label, A1111_SAMPLERS) or Meaning(None)
    if meaning.schedule is not None and not settings.version.startswith("f"):  # Forge's obey what is chosen
        settings.fields["schedule"] = meaning.schedule
    elif schedule == "Automatic":
        settings.fields["schedule"] = meaning.automatic or meaning.schedule or "linspace"
    elif schedule is not None:
        settings.translate("schedule", "Schedule type", schedule, A1111_SCHEDULES)
    else:
        settings.fields["schedule"] = meaning.schedule or "linspace"
    twice = meaning.ours is not None and SAMPLERS[meaning.ours].evaluations > 1
    if twice and any(counts_steps(settings.fields[name]) for name in ("prompt", "negative")):
        settings.leave("Sampler", label, _TWICE)


def _quote(value: object) -> str:
    """As A1111: a value with a comma, a colon or a line break stands in JSON quotes."""
    text = tell(value) if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n\r"]', text) else text


def _unquote(text: str) -> str:
    try:
        return str(json.loads(text)) if text.startswith('"') else text
    except ValueError:
        return text
