"""Opening a model: by the name of one in the package, from a file or a folder, or by its name on the hub."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from maquette import collector_paused
from maquette.engine.adapt import Origin
from maquette.engine.build import fill
from maquette.engine.compiling import compile_blocks
from maquette.engine.device import fastest_device, fitting_precision, read_device, read_precision
from maquette.engine.fit import check_complete, check_fit, parts_to_stream
from maquette.engine.folder import FAMILY_KEY, INDEX
from maquette.engine.hub import fetch, is_name
from maquette.engine.memory import SHORT, free_memory, is_out_of_memory
from maquette.engine.model import FirstStage, Model
from maquette.engine.parts import Part, unread_layers, warn_of_surplus
from maquette.engine.recognise import Recognition, Wishes, recognise
from maquette.engine.storage import ROLES, STORAGES, store
from maquette.engine.streaming import Streamed
from maquette.engine.text import ClassEncoder, Encoder, LongTextEncoder, TextEncoder
from maquette.engine.tokens import ended, find_tokenizer
from maquette.errors import MaquetteError
from maquette.families.family import Family, Reading
from maquette.models.pixels import Pixels, PixelSpec
from maquette.text.t5_tokenizer import T5Tokenizer
from maquette.text.tokenizer import CLIPTokenizer
from maquette.weights.json_file import read_json
from maquette.weights.place import ASSETS, existing, expanded

__all__ = ["ASSETS", "FAMILY_KEY", "INDEX", "find", "names", "open", "read_json"]

LARGE_PICTURE = 2 * 1024 * 1024  # pixels; larger ones are computed by tiles
SMALL_PICTURE = 512 * 1024  # the same where memory is short
LORA_FOLDER = "MAQUETTE_LORA_FOLDER"  # the environment's name for where LoRAs are
Paths = str | Path | Sequence[str | Path]


def open(
    name: str | Path,
    *,
    family: str | None = None,
    prediction: str | None = None,
    vae: str | Path | None = None,
    text: Paths = (),
    tokenizer: Paths = (),
    loras: Iterable[tuple[str | Path, float]] = (),
    embeddings: Mapping[str, str | Path] | None = None,
    lora_folder: str | Path | None = None,
    variant: str | None = None,
    averaged: bool = False,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    storage: str | None = None,
    stream: bool | None = None,
    tile_vae: bool | None = None,
    compile: bool = False,
) -> Model:
    """Open a model: one of the package by name, a file or a diffusers folder by path, or "org/model" from the hub.

    What a file does not hold is given beside it: `vae` (a first stage), `text` (CLIP and T5 files or folders),
    `tokenizer` (folders or tokenizer.json files). `family` and `prediction` say what weights cannot tell. `loras` are
    files with a scale each, `embeddings` files of textual inversions by the word that stands for them; `lora_folder`,
    by default $MAQUETTE_LORA_FOLDER, is where prompts that say <lora:name:0.8> find theirs. `variant`
    chooses files such as model.fp16.safetensors, `averaged` the moving average in a training checkpoint.
    `device` and `dtype` are by default the accelerator, if there is one, and the precision that suits it
    ($MAQUETTE_DTYPE, or see `engine/device.py`); pictures tell which it was.
    `storage` keeps the large matrices of denoiser and T5 in 8 bits: "float8" widens them as they are used, "int8" also
    multiplies in int8; pictures then differ a little.
    `stream` reads each block from the file whenever it runs, so that the model may be larger than the memory; by
    default where memory does not suffice. `tile_vae` computes large pictures by tiles in the first stage, in less
    memory and without seams; by default from 2 megapixels on, or from half a megapixel on where the model is streamed.
    `compile` lets PyTorch compile the denoiser's blocks at their first step, which wins nothing on a CPU.

    Raises:
        MaquetteError: there is no such model, or a file of it is missing, damaged or of another kind.
    """
    path = find(name, variant)
    place = fastest_device() if device is None else read_device(device)
    loras, first_stage = tuple(loras), None if vae is None else _there(vae)
    files = tuple(expanded(file) for file, *_ in loras)
    wishes = Wishes(family, prediction, variant, averaged, first_stage, tuple(map(_there, _paths(text))), files)
    found, its = _recognised(path, wishes)
    precision = fitting_precision(place, its.half) if dtype is None else read_precision(dtype)
    kept = _storage(storage)
    loading = _Loading(found, place, precision, _streamed(found, stream, precision, kept, place), kept)
    model = _assemble(loading, its, list(map(_there, _paths(tokenizer))))
    model.first_stage.tile_from = _tile_from(tile_vae, "vae" in loading.streamed)
    if embeddings:
        model.set_embeddings(embeddings)
    model.set_loras(loras)
    if compile:
        _compile(model, streamed=loading.origins["denoiser"].streamed is not None)
    model.opened_as, model.lora_folder = str(name), _folder(lora_folder)
    texts = {"text": _paths(text), "tokenizer": _paths(tokenizer)}
    asked = {"family": family, "prediction": prediction, "vae": vae, "variant": variant, "storage": storage}
    wider = [f"{file}:{scale!r}" for file, scale in loras] if found.widened else []
    model.opened_with = _told(**asked, **texts, averaged=averaged, dtype=precision, lora=wider)
    return model


def _compile(model: Model, *, streamed: bool) -> None:
    if streamed:
        raise MaquetteError(f"{model.name}: its blocks are read as they run and cannot be compiled; leave out compile")
    compile_blocks(model.network)


def _told(**asked: Any) -> dict[str, str | bool | list[str]]:
    """What was asked for, as settings tell it."""

    def tell(value: Any) -> str | bool | list[str]:
        if isinstance(value, bool):
            return value
        return list(map(str, value)) if isinstance(value, list | tuple) else str(value).removeprefix("torch.")

    return {option: tell(value) for option, value in asked.items() if value}


def _recognised(path: Path, wishes: Wishes) -> tuple[Recognition, Family]:
    """What a file or folder is, if it is a model that can paint here."""
    found = recognise(path, wishes)
    if found.family is None:
        raise MaquetteError(f"{path}: holds no denoiser, only: {found.title}; give it beside a model, as vae= or text=")
    if found.surplus:
        warn_of_surplus(found.path, found.surplus, "that belong to no part")
    check_complete(found, found.family)
    _say_what_is_assumed(found)
    check_fit(found)
    return found, found.family


def companion(model: Model, name: str) -> Model:
    """A model that works with another one, such as a refiner, on its device and in its precision."""
    opened: Model = model.companions.get(name, lambda: _companion(model, name))
    return opened


def _companion(model: Model, name: str) -> Model:
    return open(name, device=str(model.device), dtype=model.dtype, lora_folder=model.lora_folder)


def find(name: str | Path, variant: str | None = None) -> Path:
    """Where a model is: one of the package's by name, else a path, else a name of the hub, which is fetched."""
    if str(name) in names():
        return ASSETS / str(name)
    if (path := existing(name)) is not None:
        if path.is_file() or (path / INDEX).is_file():
            return path
        raise MaquetteError(
            f"{path}: is no model folder, for it holds no {INDEX}; give the folder that does, or a .safetensors file"
        )
    if isinstance(name, str) and is_name(name):
        return fetch(name, variant)
    raise MaquetteError(
        f"there is no model {str(name)!r}: give one of {', '.join(names()) or 'none'}, a file, a folder, "
        "or a name of the hub such as org/model"
    )


def names() -> list[str]:
    """The models in the package."""
    return sorted(index.parent.name for index in ASSETS.glob(f"*/{INDEX}"))


def _paths(given: Paths) -> Sequence[str | Path]:
    return (given,) if isinstance(given, str | Path) else given


def _there(path: str | Path) -> Path:
    if (there := existing(path)) is None:
        raise MaquetteError(f"{path}: does not exist; check the path")
    return there


def _folder(given: str | Path | None) -> Path | None:
    folder = os.environ.get(LORA_FOLDER) if given is None else given
    return _there(folder) if folder else None


def _storage(name: str | None) -> torch.dtype | None:
    if name is None or name in STORAGES:
        return None if name is None else STORAGES[name]
    raise MaquetteError(f"unknown storage {name!r}; use {', '.join(STORAGES)}")


def _say_what_is_assumed(found: Recognition) -> None:
    for each in found.evidence:
        if each.assumed:
            message = f"{found.path}: nothing tells its {each.what}; {each.value} is assumed: give it if it is another"
            warnings.warn(message, stacklevel=4)


def _streamed(
    found: Recognition, asked: bool | None, dtype: torch.dtype, storage: torch.dtype | None, device: torch.device
) -> frozenset[str]:
    """The parts whose blocks are to be read whenever they run."""
    if asked is None:
        return parts_to_stream(found.parts, dtype, free_memory(device), device.type, storage)
    return frozenset(found.parts) if asked else frozenset()


def _tile_from(asked: bool | None, memory_is_short: bool) -> int | None:
    """The pixels above which a picture is computed by tiles."""
    if asked is None:
        return SMALL_PICTURE if memory_is_short else LARGE_PICTURE
    return 0 if asked else None


@dataclass(frozen=True)
class _Loading:
    """How the networks of a model are filled; `origins` are those that were."""

    found: Recognition
    place: torch.device
    precision: torch.dtype
    streamed: frozenset[str]
    storage: torch.dtype | None
    origins: dict[str, Origin] = field(default_factory=dict)

    def load(self, name: str, dtype: torch.dtype) -> Any:
        """The network of a part, with its tensors or, if it is streamed, with those outside of its blocks."""
        part = self.found.parts[name]
        network = part.network()
        origin = self.origins[name] = Origin(part.kind, network, part.read(network))
        if self.storage is not None and part.kind.role in ROLES:
            origin.storage = store(network, self.storage)
        weights = origin.kept(origin.weights)
        if name not in self.streamed:
            try:
                return fill(network, weights, self.place, dtype)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                warnings.warn(f"{SHORT}; weights are read as they are used: {name}", stacklevel=5)
        origin.streamed = Streamed(network, weights, self.place, dtype)
        return network


@collector_paused()
def _assemble(loading: _Loading, family: Family, tokenizers: Sequence[Path]) -> Model:
    """The networks of a model with their tensors."""
    found, precision = loading.found, loading.precision
    encoders: list[Encoder | None] = []
    for reading in family.readings:
        if reading.part in found.parts:
            part = found.parts[reading.part]
            words = None
            if reading.kind != "class":
                words = find_tokenizer(reading, part.spec, found.path, tokenizers)
            wide = torch.bfloat16 if reading.kind == "t5" and precision == torch.float16 else precision
            encoders.append(_encoder(_reading_of(reading, part), family, words, loading.load(reading.part, wide)))
        else:
            encoders.append(None)
    overflows = family.latent.overflows and precision == torch.float16
    if family.pixels:
        stage = Pixels(PixelSpec(channels=found.parts["denoiser"].spec.out_channels))
    else:
        stage = loading.load("vae", torch.float32 if overflows else precision)
    first_stage = FirstStage(stage, family.latent)
    network, origins = loading.load("denoiser", precision), loading.origins
    name = found.path.resolve().name if found.is_folder else found.path.stem
    return Model(found, name=name, encoders=encoders, network=network, first_stage=first_stage, origins=origins)


def _encoder(reading: Reading, family: Family, words: CLIPTokenizer | T5Tokenizer | None, tower: Any) -> Encoder:
    if words is None:
        return ClassEncoder(reading, tower)
    if isinstance(words, T5Tokenizer):
        return LongTextEncoder(reading, words, tower)
    tower.spec = ended(tower.spec, words)
    return TextEncoder(reading, words, tower, family.emphasis)


def _reading_of(reading: Reading, part: Part) -> Reading:
    """How a tower is read, given the layout that it was saved in."""
    reading = replace(reading, skip=unread_layers(reading, part))
    if reading.pooled_in_files is not None and not part.configured:
        reading = replace(reading, pooled=reading.pooled_in_files)
    return reading
