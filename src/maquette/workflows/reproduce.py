"""Painting a picture again from what it says of its making, and comparing the two."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from maquette import __version__
from maquette.engine.model import Model
from maquette.engine.open import find
from maquette.errors import MaquetteError
from maquette.workflows.finders import runs_code
from maquette.workflows.foreign import NO_LORA, Settings
from maquette.workflows.loop import Result
from maquette.workflows.loras import find_lora
from maquette.workflows.request import Request

HERE = f"{__version__} with torch {torch.__version__}"
LEVELS = 255
ROUNDING = 2  # levels that pictures painted in batches of different sizes differ by
SHA_DIGITS = 10  # of a model's SHA-256 are told
ADDED_DIGITS = 12  # of what was added to it
MAX_REMARKS = 20


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two pictures side by side. `latent` says whether the final latents are equal, None where no hash was told.

    `largest` is the largest difference of a channel of a pixel, of 255, and None where the sizes differ; `psnr` is in
    decibels.
    """

    latent: bool | None
    largest: int | None
    psnr: float

    @property
    def identical(self) -> bool:
        return self.largest == 0 and self.latent is not False

    def __str__(self) -> str:
        latent = {True: "the latent is equal", False: "the latent differs", None: "no hash of the latent is told"}
        if self.largest is None:
            pixels = "the sizes differ"
        elif self.largest == 0:
            pixels = "all pixels are equal"
        else:
            why = "; so much comes from another machine or size of batch" if self.largest <= ROUNDING else ""
            pixels = f"pixels differ by at most {self.largest} of {LEVELS}, PSNR {self.psnr:.1f} dB{why}"
        return f"{'identical' if self.identical else 'different'}: {latent[self.latent]}, {pixels}"


def request_of(
    settings: Settings,
    other: Mapping[str, Any] | None = None,
    lora_folder: Path | None = None,
    *,
    trusted: bool = False,
) -> Request:
    """The request to paint one picture again, and those it was drawn together with; `other` fields replace its own.

    LoRAs and a refiner that another program names and that are not found are left in the settings. Its layer of the
    text encoder is counted as SD 1 does, until the family is known (`foreign.suited`).

    Raises:
        MaquetteError: a setting is none that can be painted with, or could run code and is not `trusted`.
    """
    alone: dict[str, Any] = {} if settings.place is not None else {"count": 1}
    fields = {**settings.told, **alone, **(other or {})}
    if settings.program != "Maquette":
        if "loras" in fields:
            there = [lora for lora in fields.pop("loras") if _is_there(settings, lora, lora_folder)]
            fields |= {"loras": there} if there else {}  # without any, the model keeps those that it is opened with
        if "refiner" in fields and "refiner" not in (other or {}) and not _is_found(settings, fields["refiner"]):
            del fields["refiner"]
    request = Request.read(fields)
    finder = request.detail.finder if request.detail is not None else None
    if finder is not None and runs_code(finder) and not trusted:
        raise MaquetteError(
            f"the picture asks for the finder {finder!r:.100}, which can run code; if you trust it, say --trust-finder"
        )
    return request


def given(settings: Settings, name: str, path: str | None) -> dict[str, Any] | str | None:
    """A picture that the settings tell, at the place where it is now; only the one that they mean is taken."""
    told = settings.told.get(name)
    return {**told, "path": path} if isinstance(told, Mapping) and path is not None else path


def _is_found(settings: Settings, refiner: Mapping[str, Any]) -> bool:
    try:
        find(refiner["model"])
    except MaquetteError:
        settings.leave("refiner", refiner["model"], "it is not found; give it: --refiner MODEL:AT")
        return False
    return True


def _is_there(settings: Settings, lora: Mapping[str, Any], folder: Path | None) -> bool:
    try:
        find_lora(lora["file"], folder)
    except MaquetteError:
        settings.leave("lora", f"{lora['file']}:{lora['scale']:g}", NO_LORA)
        return False
    return True


def remarks(settings: Settings, model: Model, hashes: Mapping[str, str] | None = None) -> Iterator[str]:
    """Why the picture painted again may be another one; `hashes` are those of its `Result`."""
    told = settings.hashes.get("model", "")
    comparable = len(told) >= SHA_DIGITS and set(told) <= set("0123456789abcdef")
    if comparable and told[:SHA_DIGITS] != model.hash[:SHA_DIGITS]:
        yield f"the model is another: {told[:SHA_DIGITS]} painted it, {model.name} is {model.hash[:SHA_DIGITS]}"
    for name, now in (hashes or {}).items():
        before = settings.hashes.get(name) or now
        if not now.startswith(before) and not before.startswith(now):
            yield f"the {name} is another: {before:.{ADDED_DIGITS}} painted it, this is {now:.{ADDED_DIGITS}}"
    precision, now = settings.opened_with.get("dtype"), str(model.dtype).removeprefix("torch.")
    if settings.program == "Maquette" and now != (precision or "float32"):
        yield f"it was painted in {precision or 'a precision that it does not tell'}, this is in {now}; see --dtype"
    if settings.program == "Maquette" and settings.version and settings.version not in HERE:
        yield f"it was painted by Maquette {settings.version}; this is {HERE}"
    for each in settings.untranslated[:MAX_REMARKS]:
        yield f"not taken over: {each}"
    if (more := len(settings.untranslated) - MAX_REMARKS) > 0:
        yield f"not taken over: {more} more settings"


def compare(result: Result, settings: Settings, original: Image.Image) -> Comparison:
    """The picture of a result that was to be painted again, and the picture whose settings these are."""
    told, k = settings.hashes.get("latent"), min(settings.place or 0, len(result.images) - 1)
    return compare_images(result.images[k], original, result.latent_hashes[k] == told if told else None)


def compare_images(again: Image.Image, original: Image.Image, latent: bool | None = None) -> Comparison:
    """Two pictures; `latent` is whether their latents are known to be equal."""
    if again.size != original.size:
        return Comparison(latent, None, 0.0)
    levels = (np.asarray(image.convert("RGB"), np.float64) for image in (again, original))
    difference = np.abs(np.subtract(*levels))
    error = float((difference**2).mean())
    return Comparison(latent, int(difference.max()), 10 * math.log10(LEVELS**2 / error) if error else math.inf)
