"""A finished run as a model: a folder in the diffusers layout, half precision, that this package and diffusers open."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from maquette.diffusion.prediction import PREDICTIONS
from maquette.engine import kinds
from maquette.engine.convert import VERSION, write_json
from maquette.engine.kinds import Kind
from maquette.engine.open import FAMILY_KEY, INDEX
from maquette.engine.scheduler import ddim_config
from maquette.errors import MaquetteError
from maquette.models import clip_config, unet_config, vae_config
from maquette.models.vae_config import VAEConfig
from maquette.training.half import write_half
from maquette.training.run import Run
from maquette.training.scenes import EXTENT

INDEXED = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": VERSION,
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
        MaquetteError: a stage is not finished, a weight is not finite, or the folder is not writable or
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
    unet, vae, text, scale = run.unet(), run.vae(), run.text(), run.scale()
    text.projection, text.spec = None, replace(text.spec, projection=None)  # SD 1 reads the states before it
    side = EXTENT // vae.spec.factor
    _part(folder / "unet", kinds.UNET, unet, unet_config.to_config(unet.spec, sample_size=side))
    vae_options = vae_config.to_config(VAEConfig(vae.spec, scale), sample_size=EXTENT)
    _part(folder / "vae", kinds.KL_STAGE, vae, vae_options)
    _part(folder / "text_encoder", kinds.CLIP, text, clip_config.text_to_config(text.spec))
    run.words.write(folder / "tokenizer")
    told = run.recipe.diffusion
    scheduler = ddim_config(PREDICTIONS[told.prediction], zero_terminal_snr=told.zero_terminal_snr)
    write_json(folder / "scheduler/scheduler_config.json", scheduler)
    write_json(folder / INDEX, {**INDEXED, FAMILY_KEY: "mini"})


def _part(folder: Path, kind: Kind, network: nn.Module, config: Mapping[str, Any]) -> None:
    write_half(folder, kind, network.spec, network.state_dict(), config)
