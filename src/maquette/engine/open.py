"""Opening a model: by the name of one in the package, or from a folder in the diffusers layout."""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from maquette.engine.build import fastest_device, fill, outline
from maquette.engine.model import FirstStage, Model, TextEncoder
from maquette.engine.scheduler import read_scheduler
from maquette.errors import MaquetteError
from maquette.families.family import Family
from maquette.families.known import FAMILIES
from maquette.models import clip_config, clip_names, unet_config, unet_names, vae_config, vae_names
from maquette.models.clip import CLIPText
from maquette.models.unet import UNet
from maquette.models.vae import VAE
from maquette.text.tokenizer import CLIPTokenizer
from maquette.weights.dialect import recognise
from maquette.weights.open_file import open_weights

ASSETS = Path(str(files("maquette"))) / "assets"
INDEX = "model_index.json"
FAMILY_KEY = "_maquette_family"  # beside diffusers' own keys, which ignores those that begin with _
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open(name: str | Path, *, device: str | None = None, dtype: str | torch.dtype | None = None) -> Model:
    """Open a model of the package by its name, or a folder in the diffusers layout by its path.

    `device` and `dtype` are by default the accelerator, if there is one, and the precision that suits it.

    Raises:
        MaquetteError: there is no such model, or a file of it is missing, damaged or of another kind.
    """
    folder = find(name)
    index = read_json(folder / INDEX)
    family = _family(index, folder)
    place = fastest_device() if device is None else _device(device)
    precision = _precision(dtype, place)
    process, prediction = family.process, family.prediction
    scheduler = folder / "scheduler/scheduler_config.json"
    if scheduler.exists():
        process, prediction = read_scheduler(read_json(scheduler), str(scheduler))
    encoders = [_text_encoder(folder, part, place, precision) for part in family.encoders]
    first_stage = _first_stage(folder / "vae", place, precision)
    config = folder / "unet/config.json"
    options = read_json(config)
    network = outline(UNet, unet_config.from_config(options, str(config)))
    weights = open_weights(folder / "unet")
    fill(network, recognise(weights, unet_names.DIALECTS).read(weights, network), place, precision)
    _check_fit(folder, network, first_stage, encoders)
    side = options.get("sample_size")
    if type(side) is int and 0 < side <= 1024:
        side *= first_stage.vae.spec.factor
        family = replace(family, defaults=replace(family.defaults, width=side, height=side))
    return Model(
        folder.resolve().name,
        family,
        process=process,
        prediction=prediction,
        encoders=encoders,
        network=network,
        first_stage=first_stage,
        weights_path=_weights_path(weights, folder),
    )


def find(name: str | Path) -> Path:
    """The folder of a model: one of the package's by name, else the path."""
    packaged = ASSETS / str(name)
    if str(name) in names():
        return packaged
    try:
        path = Path(name).expanduser()
        if (path / INDEX).is_file():
            return path
        is_there = path.exists()
    except (OSError, ValueError, RuntimeError):  # too long, or with characters that no path has
        is_there = False
    if is_there:
        raise MaquetteError(f"{path}: is no model folder, for it holds no {INDEX}")
    raise MaquetteError(f"there is no model {str(name)!r}: give one of {', '.join(names()) or 'none'}, or a folder")


def names() -> list[str]:
    """The models in the package."""
    return sorted(index.parent.name for index in ASSETS.glob(f"*/{INDEX}"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or a MaquetteError that says what is wrong with the file."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MaquetteError(f"{path}: is missing; the model's folder is incomplete") from None
    except (OSError, ValueError, RecursionError) as error:
        raise MaquetteError(f"{path}: is not readable JSON ({error})") from None
    if not isinstance(value, dict):
        raise MaquetteError(f"{path}: holds no JSON object")
    return value


def _family(index: dict[str, Any], folder: Path) -> Family:
    named = index.get(FAMILY_KEY)
    if isinstance(named, str) and named in FAMILIES:
        return FAMILIES[named]
    pipeline = index.get("_class_name")
    for family in FAMILIES.values():
        if family.pipeline == pipeline:
            return family
    raise MaquetteError(f"{folder / INDEX}: the pipeline {pipeline!r} is not supported; known are {_pipelines()}")


def _pipelines() -> str:
    return ", ".join(sorted({family.pipeline for family in FAMILIES.values()}))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise MaquetteError(f"device {name!r} cannot be used here ({reason}); try cpu") from None
    return device


def _precision(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.float16
    wanted = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if isinstance(wanted, torch.dtype) and wanted.is_floating_point:
        return wanted
    raise MaquetteError(f"unknown precision {str(dtype)!r}; use {', '.join(DTYPES)}")


def _first_stage(folder: Path, device: torch.device, dtype: torch.dtype) -> FirstStage:
    config = vae_config.from_config(read_json(folder / "config.json"), str(folder / "config.json"))
    weights = open_weights(folder)
    vae = outline(VAE, config.spec)
    fill(vae, recognise(weights, vae_names.DIALECTS).read(weights, vae), device, dtype)
    return FirstStage(vae, config.scale, config.shift)


def _text_encoder(folder: Path, part: str, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    where = folder / part / "config.json"
    spec = clip_config.text_from_config(read_json(where), str(where))
    weights = open_weights(folder / part)
    tower = outline(CLIPText, spec)
    fill(tower, recognise(weights, clip_names.TEXT_DIALECTS).read(weights, tower), device, dtype)
    words = folder / part.replace("text_encoder", "tokenizer")
    tokenizer = CLIPTokenizer.read(words, length=spec.positions)
    if max(tokenizer.vocabulary.values()) >= spec.vocabulary:
        raise MaquetteError(
            f"{words}: has {len(tokenizer)} words, more than the {spec.vocabulary} that {folder / part} knows; "
            "it belongs to another model"
        )
    return TextEncoder(tokenizer, tower)


def _check_fit(folder: Path, network: UNet, first_stage: FirstStage, encoders: Sequence[TextEncoder]) -> None:
    """Refuse parts of different models."""
    context = sum(encoder.tower.spec.width for encoder in encoders)
    for what, wanted, given in (
        ("latent channels", network.spec.out_channels, first_stage.vae.spec.channels),
        ("context widths", network.spec.context, context),
    ):
        if wanted != given:
            raise MaquetteError(
                f"{folder}: the {what} of its parts differ ({wanted} and {given}); use parts of one model"
            )


def _weights_path(weights: Any, folder: Path) -> Path:
    path = weights.source(next(iter(weights)))
    return path if path is not None else folder / INDEX
