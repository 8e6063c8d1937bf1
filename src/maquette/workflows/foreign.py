"""Settings that a picture was painted with, by this program or by another one, in our words as far as they go."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from maquette.workflows.peer_names import Meaning

MAX_TEXT = 2**23  # characters of one text in a picture; workflows of ComfyUI may be large
MAX_NAME = 60
NOT_HERE = "there is no such setting here"
BEGAN_WITH_PICTURE = "the picture that it began with is not in the file"
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


def _lower(known: Mapping[str, Meaning]) -> dict[str, str]:
    return {name.lower(): name for name in known}


def number(value: object) -> int | float | None:
    """A value of JSON if it is a number that can be calculated with: finite, and not beyond 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -(2**64) <= value <= 2**64 else None
