"""Settings that a picture was painted with, by this program or by another one, in our words as far as they go."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from maquette.errors import MaquetteError
from maquette.families.family import Family
from maquette.workflows.peer_names import Meaning
from maquette.workflows.request import Request

MAX_TEXT = 2**23  # characters of one text in a picture; workflows of ComfyUI may be large
MAX_NAME = 60
NOT_HERE = "there is no such setting here"
BEGAN_WITH_PICTURE = "the picture that it began with is not in the file"
ADD_EMBEDDING = "open the model with it: --embedding WORD=FILE"
NO_LORA = "it is not found; give --lora-folder FOLDER, or --lora FILE:SCALE"


class Untranslated(NamedTuple):
    """A setting that could not be taken over as it was, and why."""

    name: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} {self.value!r:.60}: {self.why}"


@dataclass(slots=True, kw_only=True)
class Settings:
    """What a picture says of its making.

    `fields` are those of a `Request`. `noise` is the name of an emulation (`maquette.diffusion.emulation`) and
    `noise_delta` its ENSD. `hashes` are what the program wrote down: of the "model", of the final "latent", ...
    `opened_with` is what `maquette.open` was told beside the model's name. `place` is which of the request's pictures
    it is (from 0), where they were drawn together and none can be painted alone.
    `layer` is that of the text encoder where it was counted from the last one (1) and not from the family's own, as
    `clip_skip` in the fields is then too; `only_sd1` says that other families kept their own. `cfg_alone` says that
    `guidance` is classifier-free and that nothing was told to a model that was distilled for its own, `zeros` whether
    an empty negative prompt was told as zeros. What these mean depends on the family: `suited`.
    """

    program: str
    version: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    untranslated: list[Untranslated] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    opened_with: dict[str, Any] = field(default_factory=dict)
    noise: str = "cpu"
    noise_delta: int = 0
    place: int | None = None
    layer: int | None = None
    only_sd1: bool = False
    cfg_alone: bool = False
    zeros: bool | None = None

    @property
    def told(self) -> dict[str, Any]:
        """The fields, and the noise unless they name it."""
        return {"noise": self.noise, "noise_delta": self.noise_delta, **self.fields}

    def leave(self, name: str, value: object, why: str) -> None:
        """Say that a setting is not taken over, or not quite as it was."""
        readable = name if name.isprintable() else repr(name)  # a stranger's name may hold a terminal's commands
        self.untranslated.append(Untranslated(readable[:MAX_NAME], str(value), why))

    def add_lora(self, name: object, scale: object, text_scale: object = None) -> None:
        """Take over a LoRA by its name, or leave it."""
        if name == "None":  # what nodes with room for several say of no LoRA
            return
        numbers = [number(each) for each in (scale, text_scale)]
        if not isinstance(name, str) or not name or numbers[0] is None:
            self.leave("lora", f"{name}:{scale}", "it is no name with a number")
            return
        told: dict[str, Any] = {"file": name.replace("\\", "/"), "scale": float(numbers[0])}
        if numbers[1] is not None and numbers[1] != numbers[0]:
            told["text_scale"] = float(numbers[1])
        self.fields.setdefault("loras", []).append(told)

    def translate(self, kind: str, label: str, name: str, known: Mapping[str, Meaning]) -> Meaning | None:
        """Take over the name of a sampler or a schedule (`kind` says which), or leave it; what it means."""
        meaning = known.get(name) or known.get(_lower(known).get(name.lower(), ""))
        if meaning is None:
            self.leave(label, name, f"this name of a {kind} is not known")
            return None
        if meaning.but:
            self.leave(label, name, meaning.but)
        if meaning.ours is not None:
            self.fields[kind] = meaning.ours
        return meaning


def fitted(settings: Settings) -> Settings:
    """The same settings; what a request refuses, alone or together with what was told before it, is left."""
    fits: dict[str, Any] = {}
    for name, value in settings.told.items():
        for part in [[each] for each in value] if isinstance(value, list) else [value]:
            try:
                Request.read(fits | {name: part})
            except MaquetteError as error:
                settings.leave(name, part, str(error).removeprefix(f"{name} "))
            else:
                fits[name] = [*fits.get(name, []), *part] if isinstance(part, list) else part
    settings.fields = {name: fits[name] for name in settings.fields if name in fits}
    settings.noise, settings.noise_delta = fits.get("noise", "cpu"), fits.get("noise_delta", 0)
    return settings


TOLD_BY_COMFYUI = 3.5  # to a distilled model, where no node says another guidance


def suited(request: Request, settings: Settings, family: Family) -> Request:
    """The request with what depends on the model's family; what that cannot have is left."""
    if settings.cfg_alone and family.distilled:
        told = {"guidance": TOLD_BY_COMFYUI, "true_guidance": max(request.guidance or 1.0, 1.0)}
        request = request.model_copy(update=told)
    if settings.zeros is not None and settings.zeros != family.zero_empty_negative and not family.distilled:
        there, here = ("zeros", "the empty text") if settings.zeros else ("the empty text", "zeros")
        settings.leave("negative", "", f"there the model was told {there}; {family.name} is told {here} here")
    return _count_layer(request, settings, family)


def _count_layer(request: Request, settings: Settings, family: Family) -> Request:
    """The request with the text encoder's layer counted from the family's own; what it cannot read is left.

    SD 2 and SDXL read the last but one, which other programs call 2 and we 1.
    """
    layer = settings.layer
    if layer is None or "clip_skip" not in settings.fields:
        return request
    own = 1 + max((reading.skip for reading in family.readings if reading.kind == "clip"), default=0)
    if own > 1 and settings.only_sd1:
        if layer != own:
            settings.leave("clip_skip", layer, f"{family.name} keeps its own layer there, unless told otherwise")
        layer = own
    elif layer < own:
        settings.leave("clip_skip", layer, f"{family.name} reads no later layer than its own, {own}, which is taken")
    return request.model_copy(update={"clip_skip": max(layer - own + 1, 1)})


def second_pass(steps: int, strength: float) -> dict[str, float]:
    """The second pass that walks `steps`: theirs lay out as many more as it takes for the strength to leave so many."""
    if steps < 1 or strength <= 0.0:
        return {"strength": strength}
    whole = max(int(steps / min(strength, 0.999)), steps)
    return {"strength": steps / whole, "steps": whole}


def _lower(known: Mapping[str, Meaning]) -> dict[str, str]:
    return {name.lower(): name for name in known}


def number(value: object) -> int | float | None:
    """A value of JSON if it is a number that can be calculated with: finite, and not beyond 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -(2**64) <= value <= 2**64 else None
