"""What InvokeAI wrote into its pictures, in the three forms that it had.

| text | since | form |
|---|---|---|
| `invokeai_metadata` | 3 | JSON, flat |
| `sd-metadata` | 1.14 | JSON with an "image" in it |
| `Dream` | lstein's fork | "a prompt" -s 50 -S 7 -W 512 -H 512 -C 7.5 -A k_lms |
"""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from maquette.errors import MaquetteError
from maquette.workflows.foreign import BEGAN_WITH_PICTURE, NOT_HERE, Settings, number
from maquette.workflows.peer_names import INVOKEAI_SAMPLERS, KARRAS_BELOW, Meaning
from maquette.workflows.peer_words import STRONGER, leave_triggers, read_plain

SDXL = {"sdxl", "sdxl-refiner"}
NOT_FLOW = {"sd-1", "sd-2", *SDXL, ""}  # the bases whose schedules are over training steps
_SILENT = {
    *("generation_mode", "positive_prompt", "negative_prompt", "width", "height", "seed", "cfg_scale", "steps"),
    *("scheduler", "clip_skip", "model", "rand_device", "app_version", "loras", "cfg_rescale_multiplier"),
    *("strength", "init_image", "hrf_enabled", "_canvas_objects", "canvas_v2_metadata"),
    *("refiner_model", "refiner_start"),
}
_LOOKED_AT = "the pictures that it looked at are not in the file; give them with --control"
_WHY = {
    **{"vae": "open the model with it: --vae FILE", "hrf_method": "its second pass is not taken over"},
    **{"ref_images": _LOOKED_AT, "referenceImages": _LOOKED_AT, "controlLayers": _LOOKED_AT},
    "regionalGuidance": "the masks of its regions are not in the file; give them with --region",
}
_ON_CANVAS = ("controlLayers", "referenceImages", "regionalGuidance")
_SWITCHES = {"s": "steps", "S": "seed", "W": "width", "H": "height", "C": "cfg_scale", "A": "sampler"}
_BLEND = re.compile(r"[\w)][+-]{1,9}(?=[\s,.)]|$)|\)[\d.]+")
_NEGATIVE = re.compile(r"\[([^\[\]]*)\]")


def read_metadata(text: str) -> Settings:
    """What the `invokeai_metadata` of version 3 and later says."""
    told = _json(text, "invokeai_metadata")
    model = told.get("model")
    model = model if isinstance(model, dict) else {}
    settings = Settings(program="InvokeAI", version=str(told.get("app_version", "")))
    settings.noise = "invokeai" if told.get("rand_device", "cpu") == "cpu" else "invokeai-cuda"
    _take(settings, told, ("width", "height", "seed", "steps"), int)
    _take(settings, told, ("cfg_scale",), float)
    _read_words(settings, told.get("positive_prompt"), told.get("negative_prompt"))
    _read_model(settings, _name(model), model.get("hash"))
    _read_sampler(settings, told.get("scheduler"))
    base = model.get("base", model.get("base_model", ""))
    if base not in NOT_FLOW:
        settings.fields["schedule"] = "flow"
    if base in SDXL:
        _space_as_sdxl(settings)
    if base == "flux" and (guidance := number(told.get("guidance"))) is not None:
        if (true := settings.fields.get("guidance", 1.0)) > 1.0:
            settings.fields["true_guidance"] = true
        settings.fields["guidance"] = float(guidance)
        told = {name: value for name, value in told.items() if name != "guidance"}
    _take(settings, told, ("clip_skip",), int)
    if "clip_skip" in settings.fields:
        settings.fields["clip_skip"] += 1  # A1111, and we, count from 1
    if (rescale := number(told.get("cfg_rescale_multiplier"))) is not None:
        settings.fields["rescale"] = float(rescale)
    if name := _name(told.get("refiner_model")):
        settings.fields["refiner"] = {"model": name, "at": told.get("refiner_start", 0.8)}
    _leave_rest(settings, told)
    return settings


def _space_as_sdxl(settings: Settings) -> None:
    """SDXL's own files say how its levels are spaced, and InvokeAI obeys them."""
    schedule = settings.fields.get("schedule")
    if schedule == "linspace":
        settings.fields["schedule"] = "leading"
    elif schedule == "karras":
        settings.leave(
            "scheduler", schedule, "there Karras's levels begin at the first of SDXL's own spacing, a lower one"
        )


def _name(model: object) -> object:
    """The name of a model, which versions put in different places."""
    return model.get("name") or model.get("model_name") if isinstance(model, dict) else None


def _leave_rest(settings: Settings, told: Mapping[str, Any]) -> None:
    mode = str(told.get("generation_mode") or "txt2img")
    if "txt2img" not in mode:
        settings.leave("generation_mode", mode, BEGAN_WITH_PICTURE)
    loras = told.get("loras")
    for lora in loras if isinstance(loras, list) else ():
        named = lora if isinstance(lora, dict) else {}
        settings.add_lora(_name(named.get("model") or named.get("lora")), named.get("weight"))
    for name, value in told.items():
        if name not in _SILENT and value not in (None, "", [], False, {}):
            settings.leave(name, value, _WHY.get(name, NOT_HERE))
    _leave_canvas(settings, told.get("canvas_v2_metadata"))


def _leave_canvas(settings: Settings, canvas: object) -> None:
    """What acted on the picture from the canvas; layers that were switched off are told there, too, and did not."""
    if not isinstance(canvas, dict):
        return
    for name in _ON_CANVAS:
        layers = canvas.get(name)
        each = layers if isinstance(layers, list) else [layers] if layers else []
        acting = [layer for layer in each if not (isinstance(layer, dict) and layer.get("isEnabled") is False)]
        if acting:
            settings.leave(name, acting, _WHY[name])


def read_sd_metadata(text: str) -> Settings:
    """What the `sd-metadata` of version 2 says."""
    told = _json(text, "sd-metadata")
    image = told.get("image")
    if not isinstance(image, dict):
        raise MaquetteError("the text 'sd-metadata' has no 'image'; the picture was changed")
    settings = Settings(program="InvokeAI", version=str(told.get("app_version", "")), noise="a1111-nv")
    _take(settings, image, ("width", "height", "seed", "steps"), int)
    _take(settings, image, ("cfg_scale",), float)
    prompt = image.get("prompt")
    if isinstance(prompt, list):
        parts = [part.get("prompt") if isinstance(part, dict) else part for part in prompt]
        if len(parts) > 1:
            settings.leave("prompt", parts[1:], "prompts that are weighed against each other are written with AND here")
        prompt = parts[0] if parts else ""
    _read_old_words(settings, prompt)
    _read_model(settings, told.get("model_weights"), told.get("model_hash"))
    _read_sampler(settings, image.get("sampler"))
    if str(image.get("type", "txt2img")) != "txt2img":
        settings.leave("type", image["type"], BEGAN_WITH_PICTURE)
    for name in ("threshold", "perlin", "seamless", "hires_fix", "variations", "postprocessing", "facetool_strength"):
        if image.get(name):
            settings.leave(name, image[name], NOT_HERE)
    return settings


def read_dream(text: str) -> Settings:
    """What the `Dream` command of the first versions says."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words:
        raise MaquetteError(f"the text 'Dream' is no command: {text!r:.60}; the picture was changed")
    settings, told = Settings(program="InvokeAI", noise="a1111-nv"), {}
    prompt, rest = words[0], iter(words[1:])
    for word in rest:
        if not re.fullmatch(r"-[A-Za-z].*", word, re.DOTALL):
            settings.leave("Dream", word, NOT_HERE)
        elif word[1] in _SWITCHES:
            told[_SWITCHES[word[1]]] = word[2:] or next(rest, "")
        else:
            settings.leave(word[:2], word[2:], BEGAN_WITH_PICTURE if word[1] in "If" else NOT_HERE)
    try:
        for name in ("steps", "seed", "width", "height"):
            if name in told:
                settings.fields[name] = int(told[name])
        if "cfg_scale" in told:
            settings.fields["guidance"] = float(told["cfg_scale"])
    except ValueError as error:
        raise MaquetteError(f"the text 'Dream' holds no number where one should be: {error}") from None
    _read_old_words(settings, prompt)
    _read_sampler(settings, told.get("sampler", "k_lms"))
    return settings


def _json(text: str, name: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise MaquetteError(f"the text {name!r} is not what InvokeAI writes; the picture was changed")
    return told


def _take(settings: Settings, told: Mapping[str, Any], names: tuple[str, ...], kind: type[int] | type[float]) -> None:
    """Take over numbers; what is none is left."""
    for name in names:
        value = number(told.get(name))
        if value is not None and kind(value) == value:
            settings.fields["guidance" if name == "cfg_scale" else name] = kind(value)
        elif told.get(name) is not None:
            settings.leave(name, told[name], "it is no number that can be taken")


def _read_words(settings: Settings, prompt: object, negative: object) -> None:
    for name, words in (("prompt", prompt), ("negative", negative)):
        text = words if isinstance(words, str) else ""
        if _BLEND.search(text):
            settings.leave(name, text, "weights are written word+ or (words)1.2 there, and (words:1.2) here")
        elif STRONGER.search(text):
            settings.leave("(", text, "parentheses without a number behind them are no weight there; here they are")
        leave_triggers(settings, text)
        settings.fields[name] = read_plain(settings, text, negative=name == "negative")


def _read_old_words(settings: Settings, prompt: object) -> None:
    """One text, in which what is not wanted stands in square brackets."""
    text = prompt if isinstance(prompt, str) else ""
    _read_words(settings, _NEGATIVE.sub("", text).strip(), " ".join(_NEGATIVE.findall(text)).strip())


def _read_model(settings: Settings, name: object, digest: object) -> None:
    if isinstance(name, str) and name:
        settings.fields["model"] = name
    if isinstance(digest, str):
        settings.hashes["model"] = digest


def _read_sampler(settings: Settings, name: object) -> None:
    if not isinstance(name, str):
        return
    meaning = settings.translate("sampler", "scheduler", name, INVOKEAI_SAMPLERS) or Meaning(None)
    if meaning.schedule is not None:
        settings.fields["schedule"] = meaning.schedule
    elif name.startswith("k_"):
        settings.fields["schedule"] = "karras" if settings.fields.get("steps", 0) < KARRAS_BELOW else "linspace"
