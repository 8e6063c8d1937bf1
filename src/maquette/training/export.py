"""A finished run as a model: a folder in the diffusers layout, half precision, that this package and diffusers open."""

import json
import shutil
from collections.abc import Mapping
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
    """Write the finished stages of a run as a model folder, replacing one that is there.

    Raises:
        MaquetteError: a stage is not finished, or the folder holds something that is not a model.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / INDEX).exists():
        raise MaquetteError(f"{folder}: holds something else; give an empty folder or one with a model")
    unet, vae, text, scale = run.unet(), run.vae(), run.clip().text, run.scale()
    text.projection = None  # CLIPTextModel has none: SD 1 reads the states before it
    shutil.rmtree(folder, ignore_errors=True)
    _network(folder / "unet", unet, unet_names.DIFFUSERS, unet_config.to_config(unet.spec) | {"sample_size": 16})
    _network(folder / "vae", vae, vae_names.DIFFUSERS, vae_config.to_config(VAEConfig(vae.spec, scale)))
    name = "model.safetensors"
    text_config = clip_config.text_to_config(text.spec)
    _network(folder / "text_encoder", text, clip_names.TEXT_HF, text_config, name)
    run.words.write(folder / "tokenizer")
    told = run.recipe.diffusion
    scheduler = ddim_config(PREDICTIONS[told.prediction], zero_terminal_snr=told.zero_terminal_snr)
    _json(folder / "scheduler/scheduler_config.json", scheduler)
    _json(folder / INDEX, {**INDEXED, FAMILY_KEY: "mini"})
    return folder


def _network(
    folder: Path,
    network: nn.Module,
    dialect: Dialect[Any, Any],
    config: Mapping[str, Any],
    name: str = "diffusion_pytorch_model.safetensors",
) -> None:
    state: dict[str, Tensor] = {key: value.to(torch.float16) for key, value in network.state_dict().items()}
    theirs: Weights = dialect.write(state, network)
    _json(folder / "config.json", config)
    write_safetensors(folder / name, {key: theirs[key] for key in theirs}, {"format": "pt"})


def _json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
