"""Latent diffusion's first models and models of pixels: opened, painted, compared with diffusers' pipelines."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LDMPipeline, LDMTextToImagePipeline, UNet2DModel
from small_models import LDM, SMALL, named, original, write_original
from torch import Tensor

import maquette
from maquette.diffusion.guidance import Pair, cfg
from maquette.diffusion.noise import SeededNoise
from maquette.diffusion.samplers import sampler
from maquette.diffusion.schedules import schedule
from maquette.engine import kinds
from maquette.engine.convert import convert
from maquette.engine.model import Model
from maquette.engine.recognise import Wishes, recognise
from maquette.errors import MaquetteError
from maquette.models.unet2d_config import to_config
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import InMemory, prefixed, union

quiet = pytest.mark.filterwarnings("ignore")  # diffusers and transformers warn of each other
SIDE = 16


def psnr(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    assert ours.std() > 0.02
    return float(-10 * (ours.double() - theirs.double()).square().mean().log10())


@torch.no_grad()
def paint(model: Model, latents: Tensor, steps: int, guidance: float = 1.0, prompt: str = "") -> Tensor:
    """The picture in [0, 1], by DDIM with leading steps."""
    positive, negative = model.contrast(prompt, "")
    guided = cfg(Pair(model.denoiser, positive, negative), guidance)
    levels = schedule("leading", model.process, steps, offset=1)
    *_, last = sampler("ddim")(guided, latents, levels, SeededNoise([0]))
    return (model.decode(last.x) + 1) / 2


def noise(model: Model, side: int = SIDE) -> Tensor:
    return torch.randn(1, *model.latent_shape(side, side), generator=torch.Generator().manual_seed(7))


def folder_of(model: Model, path: Path) -> Path:
    convert(model.recognition, path, "diffusers", None, [])
    return path


@quiet
def test_without_words(tmp_path: Path) -> None:
    model = maquette.open(write_original("ldm", tmp_path), device="cpu")
    folder = folder_of(model, tmp_path / "folder")
    assert json.loads((folder / "model_index.json").read_text())["vqvae"] == ["diffusers", "VQModel"]
    pipe = LDMPipeline.from_pretrained(folder)
    latents = noise(model)
    x = latents
    pipe.scheduler.set_timesteps(4)
    with torch.no_grad():  # the pipeline draws its noise itself
        for t in pipe.scheduler.timesteps:
            x = pipe.scheduler.step(pipe.unet(x, t).sample, t, x).prev_sample
        theirs = pipe.vqvae.decode(x / pipe.vqvae.config.scaling_factor).sample.clamp(-1, 1) / 2 + 0.5
    assert psnr(paint(model, latents, 4), theirs) > 60
    again = maquette.open(folder, device="cpu")
    assert torch.allclose(paint(again, latents, 4), paint(model, latents, 4), atol=1e-5)
    assert (again.family.name, again.process, again.family.latent) == ("ldm", model.process, model.family.latent)
    with pytest.raises(MaquetteError, match="paints without words: got 'a cat'"):
        model.condition(["a cat"])


@quiet
def test_words_through_bert(tmp_path: Path) -> None:
    model = maquette.open(write_original("ldm-text", tmp_path), device="cpu")
    folder = folder_of(model, tmp_path / "folder")
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel
    from transformers import BertTokenizer

    index = json.loads((folder / "model_index.json").read_text())
    assert index["bert"] == ["latent_diffusion", "LDMBertModel"]
    tower = LDMBertModel.from_pretrained(folder / "bert", attn_implementation="eager")
    words = BertTokenizer.from_pretrained(folder / "tokenizer")
    ids = words(["a red apple, zebra"], padding="max_length", max_length=20, return_tensors="pt").input_ids
    options = {"return_dict": False, "output_attentions": False, "output_hidden_states": False}
    with torch.no_grad():
        expected = tower(ids, **options)[0]
    assert torch.allclose(model.condition(["a red apple, zebra"]).tokens, expected, atol=1e-5)
    assert LDMTextToImagePipeline  # the pipeline's class is that of the index
    assert index["_class_name"] == LDMTextToImagePipeline.__name__
    UNet2DConditionModel.from_pretrained(folder / "unet")
    AutoencoderKL.from_pretrained(folder / "vqvae")
    latents = noise(model, 64)
    again = maquette.open(folder, device="cpu")
    assert again.family.name == "ldm-text"
    pictures = [paint(each, latents, 2, 3.0, "a red apple") for each in (model, again)]
    assert torch.allclose(*pictures, atol=1e-5)
    assert not torch.allclose(pictures[0], paint(model, latents, 2, 3.0, "rain over the town"), atol=1e-3)


def test_classes(tmp_path: Path) -> None:
    model = maquette.open(write_original("ldm-class", tmp_path), device="cpu")
    table = original(SMALL["ldm-class"])["cond_stage_model.embedding.weight"]
    assert torch.equal(model.condition(["7"]).tokens[0], table[7:8])
    assert torch.equal(model.condition([""]).tokens[0], table[10:11])
    with pytest.raises(MaquetteError, match="classes, not words: got 'a cat'; give the number of one"):
        model.condition(["a cat"])
    with pytest.raises(MaquetteError, match="class 10; the model knows 0 to 9"):
        model.condition(["10"])
    with pytest.raises(MaquetteError, match="diffusers has no class embedder"):
        folder_of(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    convert(model.recognition, tmp_path / "again.safetensors", "original", None, [])
    again = maquette.open(tmp_path / "again.safetensors", device="cpu")
    assert torch.equal(again.condition(["3"]).tokens, model.condition(["3"]).tokens)


def test_a_measured_scale_is_read_from_the_file(tmp_path: Path) -> None:
    view = union([original(SMALL["ldm-churches"]), InMemory({"scale_factor": torch.tensor(0.5)})])
    write_safetensors(tmp_path / "a.safetensors", view)
    model = maquette.open(tmp_path / "a.safetensors", device="cpu")
    assert (model.family.name, model.family.latent.scale) == ("ldm-churches", 0.5)
    evidence = next(each for each in model.recognition.evidence if each.what == "latents")
    assert evidence[1:3] == ("(z - 0) * 0.5", "the tensor scale_factor")
    for wrong in (torch.tensor(float("nan")), torch.tensor(-1.0), torch.zeros(2000)):
        view = union([original(SMALL["ldm-churches"]), InMemory({"scale_factor": wrong})])
        write_safetensors(tmp_path / "b.safetensors", view)
        with pytest.raises(MaquetteError, match="the tensor 'scale_factor'"):
            maquette.open(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("family", "prompt"), [("ldm", ""), ("ldm-class", "7"), ("ldm-class", ""), ("ldm-churches", "")]
)
def test_pictures_by_the_workflow(family: str, prompt: str, tmp_path: Path) -> None:
    model = maquette.open(write_original(family, tmp_path), device="cpu")
    assert model.txt2img(prompt, steps=2, width=64, height=64, seed=1).images[0].size == (64, 64)


DDPM = to_config(LDM) | {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "norm_eps": 1e-6}
DDPM |= {"attention_head_dim": None, "sample_size": SIDE}


def write_ddpm(folder: Path, *, flat: bool) -> Path:
    """A folder of pixel diffusion as diffusers wrote it: in parts, or all at the top with the old names."""
    unet = folder if flat else folder / "unet"
    unet.mkdir(parents=True, exist_ok=True)
    (unet / "config.json").write_text(json.dumps(DDPM))
    theirs = dict(named(kinds.UNET, kinds.UNET.from_config(DDPM, "config").spec, "diffusers"))
    new = ("to_q", "to_k", "to_v", "to_out.0")
    for old, name in zip(("query", "key", "value", "proj_attn"), new, strict=True) if flat else ():
        theirs = {each.replace(f".{name}.", f".{old}."): tensor for each, tensor in theirs.items()}
    write_safetensors(unet / "diffusion_pytorch_model.safetensors", theirs)
    scheduler = folder if flat else folder / "scheduler"
    scheduler.mkdir(exist_ok=True)
    options = {"_class_name": "DDPMScheduler", "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    options |= {"clip_sample": True, "num_train_timesteps": 1000, "variance_type": "fixed_large"}
    (scheduler / "scheduler_config.json").write_text(json.dumps(options))
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "DDPMScheduler"]}))
    return folder


@pytest.mark.parametrize("flat", [False, True], ids=["parts", "flat"])
def test_pixels(flat: bool, tmp_path: Path) -> None:
    model = maquette.open(write_ddpm(tmp_path / "ddpm", flat=flat), device="cpu")
    assert (model.family.name, model.multiple) == ("ddpm", 1)
    assert model.latent_shape(SIDE, SIDE) == (3, SIDE, SIDE)
    assert (model.family.defaults.width, model.family.defaults.height) == (SIDE, SIDE)
    picture = torch.rand(1, 3, 8, 8) * 2 - 1
    assert torch.equal(model.decode(model.encode(picture)), picture)
    assert model.txt2img("", steps=2, width=SIDE, height=SIDE, seed=1).images[0].size == (SIDE, SIDE)
    with pytest.raises(MaquetteError, match="paints without words"):
        model.txt2img("a cat", steps=1)


@quiet
@torch.no_grad()
def test_pixels_are_those_of_diffusers(tmp_path: Path) -> None:
    folder = write_ddpm(tmp_path / "ddpm", flat=False)
    model, theirs = maquette.open(folder, device="cpu"), UNet2DModel.from_pretrained(folder / "unet").eval()
    options = {"beta_schedule": "linear", "clip_sample": True}
    scheduler = DDIMScheduler(**options, timestep_spacing="leading", steps_offset=1)
    scheduler.set_timesteps(6)
    x = latents = noise(model)
    for t in scheduler.timesteps:
        x = scheduler.step(theirs(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
    assert psnr(paint(model, latents, 6), (x.clamp(-1, 1) + 1) / 2) > 60
    # Ho et al.'s own step, from a level to the one before it: the mean of the posterior, whatever the noise is.
    ddpm, t, x = DDPMScheduler(**options), 500, noise(model)
    level, to = model.process.at(float(t)), model.process.at(float(t - 1))
    x0 = model.denoiser(x, level, model.condition([""]))
    output = theirs(x, t).sample
    step = ddpm.step(output, t, x, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(x0, step.pred_original_sample, atol=1e-4)
    assert to.sigma < level.sigma


def test_what_a_u_net_alone_is_depends_on_its_first_stage(tmp_path: Path) -> None:
    parts = original(SMALL["ldm"], only=("denoiser",))
    write_safetensors(tmp_path / "unet.safetensors", parts)
    write_safetensors(tmp_path / "vq.safetensors", original(SMALL["ldm"], only=("vae",)))
    assert recognise(tmp_path / "unet.safetensors").family.name == "ddpm"
    assert recognise(tmp_path / "unet.safetensors", Wishes(family="ldm")).family.name == "ldm"
    model = maquette.open(tmp_path / "unet.safetensors", vae=tmp_path / "vq.safetensors", device="cpu")
    assert model.family.name == "ldm"


def test_encoders_tell_the_family_of_a_u_net_that_could_be_another_s(tmp_path: Path) -> None:
    denoiser = prefixed(named(kinds.UNET, SMALL["sd1"].parts["denoiser"][1], "original"), "model.diffusion_model.")
    classes = prefixed(named(*SMALL["ldm-class"].parts["class_embedder"][:2], "original"), "cond_stage_model.")
    write_safetensors(tmp_path / "a.safetensors", union([denoiser, classes]))
    assert recognise(tmp_path / "a.safetensors").family.name == "ldm-class"
    write_safetensors(tmp_path / "b.safetensors", denoiser)
    assert recognise(tmp_path / "b.safetensors").family.name == "sd1"
