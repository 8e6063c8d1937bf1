"""Whole small models here and in diffusers: the same random weights, noise, words and steps.

A model is written as an original single file and converted to a folder, which diffusers opens; we open either, or the
same weights in another layout. benchmarks/parity.py shows the figures, test_parity.py holds them to a bound.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import (
    EulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from gguf_files import write_gguf
from small_models import SMALL, original, write_tokenizers
from torch import Tensor

import maquette
from maquette.diffusion.denoise import bind
from maquette.diffusion.guidance import Pair, cfg
from maquette.diffusion.noise import SeededNoise
from maquette.diffusion.samplers import sampler
from maquette.diffusion.schedules import schedule
from maquette.engine.convert import convert
from maquette.engine.model import Model
from maquette.engine.recognise import Wishes, recognise
from maquette.weights.safetensors_file import SafetensorsFile, write_safetensors
from maquette.weights.view import InMemory, union

PROMPT, STEPS, SIDE = "a red apple, green grass", 4, 64
WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True)
class Case:
    """One picture: the family, diffusers' pipeline for it, and how it is painted."""

    family: str
    pipeline: Any
    sampler: str
    spacing: str
    guidance: float = 5.0
    negative: str = "rain"
    options: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Any = None
    loader: bool = True
    """Diffusers' loader of original files takes any width; for FLUX the published one alone (see test_flux.py)."""


_SD1 = Case("sd1", StableDiffusionPipeline, "ddim", "leading")
_SDXL = Case("sdxl", StableDiffusionXLPipeline, "euler", "leading", scheduler=EulerDiscreteScheduler)
_SD3 = Case("sd3", StableDiffusion3Pipeline, "euler", "sd3")
_FLUX = Case("flux-dev", FluxPipeline, "euler", "flow", 3.5, loader=False)
CASES = {
    "SD 1": _SD1,
    "SD 2, v": replace(_SD1, family="sd2-v", options={"prediction": "v"}),
    "SD 2, epsilon": replace(_SD1, family="sd2-v", options={"prediction": "epsilon"}),
    "SDXL": _SDXL,
    "SDXL, nothing unwanted": replace(_SDXL, negative=""),
    "SD3": _SD3,
    "SD3.5 medium": replace(_SD3, family="sd3.5-medium"),
    "FLUX.1 dev": _FLUX,
    "FLUX.1 schnell": replace(_FLUX, family="flux-schnell"),
}


class Given(NamedTuple):
    """A model in a layout: what `maquette.open` takes, the original file, and the folder that diffusers opens."""

    path: Path
    options: Mapping[str, Any]
    file: Path
    folder: Path

    @property
    def denoiser(self) -> str:
        """What the folder calls the denoiser."""
        return "unet" if (self.folder / "unet").is_dir() else "transformer"

    def open(self) -> Model:
        return maquette.open(self.path, device="cpu", **self.options)


def give(case: Case, layout: str, place: Path) -> Given:
    """Write the case's model below `place`, for us in one of the `LAYOUTS`."""
    file, folder = place / "model.safetensors", place / "folder"
    view = original(SMALL[case.family])
    quantised = place / "denoiser.gguf"
    if layout in QUANTISED:
        prefix = SMALL[case.family].parts["denoiser"][2]
        others = tuple(name for name in SMALL[case.family].parts if name != "denoiser")
        alone = {name.removeprefix(prefix): view[name] for name in view if name.startswith(prefix)}
        numbers = write_gguf(quantised, alone, layout.removeprefix("GGUF "))
        theirs = InMemory({prefix + name: tensor for name, tensor in numbers.items()})
        view = union([theirs, original(SMALL[case.family], only=others)])
    write_safetensors(file, view)
    write_tokenizers(case.family, place)
    convert(recognise(file, Wishes(prediction=case.options.get("prediction"))), folder, "diffusers", None, [])
    if layout in QUANTISED:
        texts = sorted(folder.glob("text_encoder*"))
        return Given(quantised, {**case.options, "vae": folder / "vae", "text": texts}, file, folder)
    if layout == "original":
        return Given(file, case.options, file, folder)
    given = Given(folder, {}, file, folder)
    if layout == "diffusers, sharded":
        shard(folder / given.denoiser)
    return given


QUANTISED = ("GGUF Q8_0", "GGUF Q4_K")
LAYOUTS = ("original", "diffusers", "diffusers, sharded", *QUANTISED)


def shard(part: Path) -> dict[str, Tensor]:
    """Divide the weights of a folder's part into two files and an index; what they are."""
    whole = part / f"{WEIGHTS}.safetensors"
    tensors = {name: tensor.clone() for name, tensor in SafetensorsFile(whole).items()}
    names, places = sorted(tensors), {}
    for number, chosen in enumerate((names[::2], names[1::2]), 1):
        file = f"{WEIGHTS}-0000{number}-of-00002.safetensors"
        write_safetensors(part / file, {name: tensors[name] for name in chosen}, {"format": "pt"})
        places |= dict.fromkeys(chosen, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    whole.unlink()
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (part / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps(index))
    return tensors


def open_folder(case: Case, given: Given) -> Any:
    """Diffusers' pipeline of the folder."""
    return _prepared(case, case.pipeline.from_pretrained(given.folder))


def _prepared(case: Case, pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    if case.scheduler is not None:
        pipe.scheduler = case.scheduler.from_config(pipe.scheduler.config)
    return pipe


def open_file(case: Case, given: Given) -> Any:
    """Diffusers' pipeline of the original file, by its own loader; the folder gives configs and tokenizers alone."""
    options = {"config": str(given.folder), "local_files_only": True, "torch_dtype": torch.float32}
    return _prepared(case, case.pipeline.from_single_file(str(given.file), **options))


def compared_tensors(one: Any, other: Any) -> dict[str, bool]:
    """Of every tensor of two pipelines, whether it is the same; diffusers leaves T5's without data."""
    same = {}
    for part, network in one.components.items():
        if isinstance(network, torch.nn.Module):
            left, right = network.state_dict(), getattr(other, part).state_dict()
            assert left.keys() == right.keys()
            there = (name for name in left if not right[name].is_meta)
            same |= {f"{part}.{name}": torch.equal(left[name], right[name]) for name in there}
    return same


def noise(model: Model) -> Tensor:
    return torch.randn(1, *model.latent_shape(SIDE, SIDE), generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def paint_ours(model: Model, case: Case) -> Tensor:
    """The picture in [0, 1]."""
    process = model.process_for(SIDE, SIDE)
    told = {"width": SIDE, "height": SIDE, "guidance": case.guidance}
    positive, unwanted = model.contrast(PROMPT, case.negative, **told)
    guided = cfg(Pair(model.denoiser, positive, unwanted), case.guidance)
    if model.family.distilled:
        guided = bind(model.denoiser, positive)
    steps = list(sampler(case.sampler)(guided, noise(model), schedule(case.spacing, process, STEPS), SeededNoise([0])))
    return (model.decode(steps[-1].x) + 1) / 2


def paint_theirs(pipe: Any, case: Case, model: Model) -> Tensor:
    """The same picture by diffusers; of our model, the shape of the noise and the length of texts."""
    latents, options = noise(model), {}
    if model.family.distilled:
        latents = FluxPipeline._pack_latents(latents, *latents.shape)
        options["max_sequence_length"] = model.encoders[1].tokenizer.length
    else:
        options["negative_prompt"] = case.negative or None
    words = {"prompt": PROMPT, "width": SIDE, "height": SIDE, "output_type": "pt"}
    return pipe(**words, **options, latents=latents, guidance_scale=case.guidance, num_inference_steps=STEPS).images


def psnr(ours: Tensor, theirs: Tensor) -> float:
    """Of pictures in [0, 1], in dB."""
    assert ours.shape == theirs.shape
    assert ours.std() > 0.02  # a grey picture would agree with every other one
    return float(-10 * (ours.double() - theirs.double()).square().mean().log10())


@torch.no_grad()
def encoding_error(model: Model, pipe: Any) -> float:
    """The relative error of the scaled latent of a picture of noise."""
    picture = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(8)) * 2 - 1
    config = pipe.vae.config
    theirs = (pipe.vae.encode(picture).latent_dist.mode() - (config.shift_factor or 0)) * config.scaling_factor
    return float((model.encode(picture) - theirs).norm() / theirs.norm())
