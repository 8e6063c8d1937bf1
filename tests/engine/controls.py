"""Controls of random weights, written in every layout, and questions asked with and without them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from small_models import FLUX, SD1, SD3, SMALL, named, original
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.engine import kinds
from maquette.engine.control import Control, ControlNetwork, controlled
from maquette.engine.model import Model
from maquette.models import clip_config, controlnet_config
from maquette.models.clip import CLIPImageSpec
from maquette.models.controlnet import ControlNetSpec
from maquette.models.ip_adapter import IPAdapterSpec, cross_attentions
from maquette.models.t2i_adapter import T2IAdapterSpec
from maquette.models.transformer_controlnet import FluxControlNetSpec, MMDiTControlNetSpec
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import prefixed, union

CONTROLNET = ControlNetSpec(unet=SD1)
ADAPTER = T2IAdapterSpec(widths=SD1.widths)
TOWER = CLIPImageSpec(size=28, patch=7, width=128, layers=2, heads=2, hidden=256, projection=32, activation="gelu")
SD3_CONTROLNET = MMDiTControlNetSpec(body=replace(SD3, layers=1))
FLUX_CONTROLNET = FluxControlNetSpec(body=replace(FLUX, double=1, single=1), modes=2)
SIZE = 64  # pixels of a picture, of 8 x 8 places


def ip_spec(model: Model, **more: Any) -> IPAdapterSpec:
    widths = tuple(module.q.out_features for module in cross_attentions(model.network))
    return IPAdapterSpec(**{"widths": widths, "context": model.network.spec.context, "image": 32, **more})


def write(path: Path, kind: kinds.Kind, spec: Any, layout: str = "original", prefix: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, prefixed(named(kind, spec, layout, seed=7), prefix))
    return path


def write_folder(folder: Path, kind: kinds.Kind, spec: Any, config: Mapping[str, Any], layout: str) -> Path:
    write(folder / "model.safetensors", kind, spec, layout)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_ip_adapter(folder: Path, spec: IPAdapterSpec) -> Path:
    """As published: the adapter, and the tower in a folder beside it."""
    write_folder(folder / "image_encoder", kinds.CLIP_IMAGE, TOWER, clip_config.image_to_config(TOWER), "transformers")
    return write(folder / "ip-adapter.safetensors", kinds.IP_ADAPTER, spec)


def picture(count: int = 1, side: int = SIZE) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def latent(count: int, side: int = SIZE // 8, channels: int = 4) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(2))


def told(model: Model, count: int = 1) -> Conditioning:
    """Of `count` pictures what is wanted, then what is not."""
    positive, negative = model.contrast("a red apple", "rain")
    return Conditioning.cat([positive.repeat(count), negative.repeat(count)])


def ask(model: Model, *controls: Control, x: Tensor | None = None, t: float = 500.0) -> Tensor:
    """x0 of a batch of both halves, heeding the controls."""
    x = latent(2) if x is None else x
    return controlled(model.denoiser, controls)(x, model.process.at(t), told(model, len(x) // 2))


def with_residuals(model: Model, opened: ControlNetwork, scales: Tensor) -> Tensor:
    """The answer with a ControlNet's residuals, each row scaled, computed by hand."""
    x, conditioning, level = latent(2), told(model), model.process.at(500.0)
    residuals = opened.network(x, 500.0, conditioning, opened.network.read(picture()))
    scaled = tuple(scales[:, None, None, None] * each for each in residuals)
    return model.denoiser(x, level, replace(conditioning, control=scaled))


def write_whole(path: Path) -> Path:
    """As the authors published it: together with the model that it was trained with."""
    control = prefixed(named(kinds.CONTROLNET, CONTROLNET, "original", seed=7), "control_model.")
    write_safetensors(path, union([original(SMALL["sd1"]), control]))
    return path


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "original": lambda path: write(path / "c.safetensors", kinds.CONTROLNET, CONTROLNET, prefix="control_model."),
    "bare": lambda path: write(path / "c.safetensors", kinds.CONTROLNET, CONTROLNET),
    "diffusers file": lambda path: write(path / "c.safetensors", kinds.CONTROLNET, CONTROLNET, "diffusers"),
    "diffusers folder": lambda path: write_folder(
        path, kinds.CONTROLNET, CONTROLNET, controlnet_config.to_config(CONTROLNET), "diffusers"
    ),
}
