"""The folders that we write open in diffusers and transformers, and compute the same there."""

import json
from pathlib import Path
from typing import Any

import pytest
import references as r
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from maquette.models import clip_config, clip_names, unet_config, unet_names, vae_config, vae_names
from maquette.weights.dialect import Dialect, recognise
from maquette.weights.safetensors_file import SafetensorsFile, write_safetensors


def write_folder(folder: Path, config: dict[str, Any], network: Any, dialect: Dialect[Any, Any], name: str) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / name, dialect.write(network.state_dict(), network), {"format": "pt"})


def config_of(spec: Any) -> dict[str, Any]:
    match spec:
        case r.UNetSpec():
            return unet_config.to_config(spec, sample_size=16)
        case r.VAESpec():
            return vae_config.to_config(vae_config.VAEConfig(spec, scale=0.5, shift=0.25), sample_size=128)
        case r.CLIPTextSpec():
            return clip_config.text_to_config(spec)
        case _:
            return clip_config.image_to_config(spec)


DIFFUSERS_FILE, TRANSFORMERS_FILE = "diffusion_pytorch_model.safetensors", "model.safetensors"
FOLDERS = {
    "mini unet": (r.MINI_UNET, UNet2DConditionModel, unet_names.DIFFUSERS, DIFFUSERS_FILE),
    "mini vae": (r.MINI_VAE, AutoencoderKL, vae_names.DIFFUSERS, DIFFUSERS_FILE),
    "old vae": (r.SMALL_VAE, AutoencoderKL, vae_names.DIFFUSERS_OLD, DIFFUSERS_FILE),
    "mini text": (r.MINI_CLIP, CLIPTextModel, clip_names.TEXT_HF, TRANSFORMERS_FILE),
    "flat text": (r.SMALL_CLIP, CLIPTextModel, clip_names.TEXT_HF_FLAT, TRANSFORMERS_FILE),
    "projecting text": (r.SMALL_OPEN_CLIP, CLIPTextModelWithProjection, clip_names.TEXT_HF, TRANSFORMERS_FILE),
    "image": (r.SMALL_IMAGE, CLIPVisionModelWithProjection, clip_names.IMAGE_HF, TRANSFORMERS_FILE),
}


@pytest.mark.parametrize("what", FOLDERS)
@torch.no_grad()
def test_from_pretrained_opens_our_folder(what: str, tmp_path: Path) -> None:
    spec, reference_class, dialect, file = FOLDERS[what]
    kind = r.KINDS[type(spec)]
    network = r.randomise(kind.network(spec))
    write_folder(tmp_path / "part", config_of(spec), network, dialect, file)
    reference, report = reference_class.from_pretrained(tmp_path / "part", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    inputs = kind.inputs(spec)
    assert max(r.errors(kind.ours(network, **inputs), kind.theirs(reference.eval(), **inputs)).values()) < 1e-5


@pytest.mark.parametrize("what", [name for name in FOLDERS if name not in ("old vae", "flat text")])
@torch.no_grad()
def test_we_open_their_folder(what: str, tmp_path: Path) -> None:
    spec, _, _, file = FOLDERS[what]
    kind = r.KINDS[type(spec)]
    network = r.randomise(kind.network(spec))
    kind.reference(network).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    match spec:
        case r.UNetSpec():
            found, dialects = unet_config.from_config(config), unet_names.DIALECTS
        case r.VAESpec():
            found, dialects = vae_config.from_config(config).spec, vae_names.DIALECTS
        case r.CLIPTextSpec():
            found, dialects = clip_config.text_from_config(config), clip_names.TEXT_DIALECTS
        case _:
            found, dialects = clip_config.image_from_config(config), clip_names.IMAGE_DIALECTS
    assert found == spec
    weights = SafetensorsFile(tmp_path / file)
    ours = recognise(weights, dialects).read(weights, network)
    for name, tensor in network.state_dict().items():
        assert torch.equal(ours[name], tensor), name
