"""A finished run as a model: a folder in the diffusers layout, half precision, that this package and diffusers open."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maquette.diffusion.prediction import PREDICTIONS
from maquette.engine.open import FAMILY_KEY, INDEX
from maquette.engine.scheduler import ddim_config
from maquette.errors import MaquetteError
from maquette.models import clip_config, clip_names, unet_config, unet_names, vae_config, vae_names
from maquette.models.vae_config import VAEConfig
from maquette.training.recipe import Run
from maquette.training.scenes import EXTENT
from maquette.weights.dialect import Dialect
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import Weights

INDEXED = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def export(run: Run, folder: Path) -> Path:
    """Write the finished stages of a run as a model folder; of a model that is there, what else lies beside it stays.

    Raises:
        MaquetteError: a stage is not finished, a weight overflows half precision, or the folder is not writable or
            holds something that is not a model. What was there is then still there.
    """
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / INDEX).exists():
            raise MaquetteError(f"{folder}: holds something else; give an empty folder or one with a model")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as staged:
            _write(run, Path(staged))
            for part in sorted(Path(staged).iterdir(), key=lambda path: path.name == INDEX):  # the index last
                if part.is_dir():
                    shutil.rmtree(folder / part.name, ignore_errors=True)
                part.replace(folder / part.name)
    except OSError as error:
        raise MaquetteError(
            f"{error.filename or folder}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    return folder


def _write(run: Run, folder: Path) -> None:
    unet, vae, text, scale = run.unet(), run.vae(), run.clip().text, run.scale()
    text.projection, text.spec = None, replace(text.spec, projection=None)  # SD 1 reads the states before it
    side = EXTENT // vae.spec.factor
    _network(folder / "unet", unet, unet_names.DIFFUSERS, unet_config.to_config(unet.spec, sample_size=side))
    vae_options = vae_config.to_config(VAEConfig(vae.spec, scale), sample_size=EXTENT)
    _network(folder / "vae", vae, vae_names.DIFFUSERS, vae_options)
    text_options = clip_config.text_to_config(text.spec)
    _network(folder / "text_encoder", text, clip_names.TEXT_HF, text_options, "model.safetensors")
    run.words.write(folder / "tokenizer")
    told = run.recipe.diffusion
    scheduler = ddim_config(PREDICTIONS[told.prediction], zero_terminal_snr=told.zero_terminal_snr)
    _json(folder / "scheduler/scheduler_config.json", scheduler)
    _json(folder / INDEX, {**INDEXED, FAMILY_KEY: "mini"})


def _network(
    folder: Path,
    network: nn.Module,
    dialect: Dialect[Any, Any],
    config: Mapping[str, Any],
    name: str = "diffusion_pytorch_model.safetensors",
) -> None:
    state: dict[str, Tensor] = {key: value.to(torch.float16) for key, value in network.state_dict().items()}
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise MaquetteError(
                f"the weight {key!r} of the {folder.name} is not finite in half precision; train it again"
            )
    theirs: Weights = dialect.write(state, network)
    _json(folder / "config.json", config)
    write_safetensors(folder / name, {key: theirs[key] for key in theirs}, {"format": "pt"})


def _json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
