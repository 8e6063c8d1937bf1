"""Pictures: from a tensor to PIL, and PNG files that carry the settings they were painted with.

A file holds two texts: `parameters`, in A1111's infotext form for other programs, and `maquette`, the JSON that is
read back exactly. Pictures of other programs are read as well. Files appear whole or not at all.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from maquette import __version__
from maquette.errors import MaquetteError
from maquette.families.family import Family
from maquette.weights.atomic_file import write_all
from maquette.workflows.comfyui import read_graph
from maquette.workflows.exif import read_exif
from maquette.workflows.foreign import MAX_TEXT, Settings, fitted, suited
from maquette.workflows.infotext import read_infotext, write_infotext
from maquette.workflows.invokeai import read_dream, read_metadata, read_sd_metadata
from maquette.workflows.request import MAX_COUNT, Request, Resolved

LONGEST_NAME = 255  # bytes, on every common file system
CARRIERS = ("PNG", "JPEG", "WEBP", "AVIF")  # the formats that settings are read from


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What made a picture: its request, the hashes of the model, of its latent and of what was added to the model
    ("lora NAME", "embedding WORD"), and what the model was opened with (`Model.opened_with`).

    The request is for this picture alone, or for all that it was drawn together with; `place` is then its among them.
    """

    request: Resolved
    model_hash: str
    latent_hash: str
    hashes: Mapping[str, str] = field(default_factory=dict)
    opened_with: Mapping[str, Any] = field(default_factory=dict)
    place: int | None = None


def hash_latent(latent: Tensor) -> str:
    """SHA-256 of a latent (C, h, w), read as little-endian float32: tells whether two runs walked the same path."""
    return hashlib.sha256(latent.float().cpu().contiguous().numpy().astype("<f4").tobytes()).hexdigest()


def encode_png(image: Image.Image, origin: Origin) -> bytes:
    """The picture as a PNG that tells its `origin`."""
    record: dict[str, Any] = {
        "version": __version__,
        "torch": torch.__version__,
        "request": origin.request.model_dump(exclude_none=True),
        "model_hash": origin.model_hash,
        "latent_hash": origin.latent_hash,
        "hashes": dict(origin.hashes),
        "opened_with": dict(origin.opened_with),
    }
    record |= {} if origin.place is None else {"place": origin.place}
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", write_infotext(origin.request, origin.model_hash, origin.hashes))
    texts.add_text("maquette", json.dumps(record))
    buffer = BytesIO()
    image.save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


def read_texts(path: Path) -> dict[str, str]:
    """The texts that a picture carries in front of its pixels, which are not read."""
    Image.init()
    if not path.exists():
        raise MaquetteError(f"there is no file {path}; check the name")
    try:
        with Image.open(path, formats=[name for name in CARRIERS if name in Image.OPEN]) as image:
            texts = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
            if image.format != "PNG":
                texts |= read_exif(image.getexif())
    except Exception as error:  # Pillow raises errors of every kind where a file is damaged
        raise MaquetteError(f"cannot read {path} as a PNG, JPEG, WebP or AVIF picture: {error}") from None
    for name, text in texts.items():
        if len(text) > MAX_TEXT:
            raise MaquetteError(
                f"the text {name!r:.40} in {path} has {len(text):,} characters; too many to be settings"
            )
    return texts


def read_settings(path: Path) -> Settings:
    """What a picture says of its making: our own JSON, A1111's infotext, ComfyUI's graph or InvokeAI's metadata.

    What no request takes is left, unless it is our own JSON's.

    Raises:
        MaquetteError: it says nothing, or what it says is damaged.
    """
    texts = read_texts(path)
    for name, read in READERS.items():
        if name in texts:
            try:
                return read(texts[name]) if name == "maquette" else fitted(read(texts[name]))
            except MaquetteError as error:
                raise MaquetteError(f"{path}: {error}") from None
    raise MaquetteError(f"{path} carries no settings; only pictures as they were saved do, not copies from a web page")


def read_request(path: Path, family: Family | None = None) -> Request:
    """The request that a picture was painted from, as far as its settings can be told in one.

    Another program's layer of the text encoder is counted as the `family` does, or SD 1 where none is given.
    """
    settings = read_settings(path)
    request = Request.read(settings.told)
    return request if family is None else suited(request, settings, family)


def _read_ours(text: str) -> Settings:
    try:
        told = json.loads(text)
        fields = dict(told["request"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MaquetteError("the text 'maquette' is not what Maquette writes; the picture was changed") from None
    added, opened_with = told.get("hashes"), told.get("opened_with")
    hashes = {name: told.get(f"{name}_hash") for name in ("model", "latent")}
    hashes |= added if isinstance(added, dict) else {}
    place = told.get("place")
    return Settings(
        program="Maquette",
        version=f"{told.get('version')} with torch {told.get('torch')}",
        fields=fields,
        hashes={name: digest for name, digest in hashes.items() if isinstance(digest, str)},
        opened_with=_plain(opened_with),
        place=place if type(place) is int and 0 <= place < MAX_COUNT else None,
    )


def _plain(told: object) -> dict[str, str | bool | list[str]]:
    """What may be said of how a model was opened: words, yes or no, lists of words."""
    given = told if isinstance(told, dict) else {}
    lists = {
        name: each for name, each in given.items() if isinstance(each, list) and all(isinstance(x, str) for x in each)
    }
    return {name: each for name, each in given.items() if isinstance(each, str | bool)} | lists


READERS: dict[str, Callable[[str], Settings]] = {
    "maquette": _read_ours,
    "parameters": read_infotext,
    "prompt": read_graph,
    "invokeai_metadata": read_metadata,
    "sd-metadata": read_sd_metadata,
    "Dream": read_dream,
}
"""What reads a picture's text of this name; the first that a picture has is read."""


def check_out(out: Path) -> None:
    """Refuse a name that no picture can be written to, before anything is painted."""
    if out.suffix.lower() != ".png":
        raise MaquetteError(f"cannot write {out}: pictures are PNG files; give a name that ends in .png")
    if len(os.fsencode(out.name)) + len("-1000") > LONGEST_NAME:
        raise MaquetteError(f"cannot write {out.name:.40}...: the name is too long; give a shorter one")
    if out.is_dir():
        raise MaquetteError(f"cannot write {out}: it is a folder; give the name of a file")
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise MaquetteError(f"cannot write {out}: {folder} is no folder that can be written to; choose another name")


def name_files(out: Path, count: int) -> list[Path]:
    """`out` itself for one picture; out-1, out-2, ... for several."""
    return [out] if count == 1 else [out.with_stem(f"{out.stem}-{k + 1}") for k in range(count)]


def checked_names(out: Path, count: int) -> list[Path]:
    """The same names, if a picture can be written to each."""
    paths = name_files(out, count)
    for path in (out, *paths):  # complaints are of the name that was given where they can be
        check_out(path)
    return paths


def free_name(folder: Path, request: Resolved, taken: Collection[Path] = ()) -> Path:
    """A name in `folder` that says words and seed, such as a-red-apple-7.png.

    No file has it yet, and none of the `taken` paths, which are resolved, will be one.
    """
    letters = "".join(c if c.isalnum() else " " for c in request.prompt)
    words = "-".join(letters.split()).lower().encode()[:60].decode(errors="ignore") or "picture"
    stems = (f"{words}-{request.seed}{again}" for again in ("", *(f"-again-{k}" for k in range(1, 10_000))))
    names = (folder / f"{stem}.png" for stem in stems)
    return next(
        name
        for name in names
        if not any(file.exists() or file.resolve() in taken for file in name_files(name, request.count))
    )


def write_files(files: Sequence[tuple[Path, bytes]]) -> None:
    """Write all files, or none where one cannot be written; missing folders are made."""
    for folder in dict.fromkeys(path.parent for path, _ in files):
        make_folder(folder)
    write_all(files)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless it is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MaquetteError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from error
