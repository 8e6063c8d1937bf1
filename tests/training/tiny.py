"""A recipe that trains in seconds, and a run of it whose weights are random: no fonts, no training."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from maquette.models.clip import CLIPText
from maquette.models.unet import UNet
from maquette.models.vae import VAE
from maquette.text.tokenizer import CLIPTokenizer
from maquette.training.clip import CLIP
from maquette.training.recipe import Recipe
from maquette.training.run import TEXT, WEIGHTS, Run
from maquette.weights.safetensors_file import write_safetensors

RECIPE = """
name = "tiny"
threads = 1
precision = "{precision}"
samples_every = 1000
save_every = {save_every}

[shapes.vae]
widths = [8, 8, 8, 16]
res_blocks = 1
groups = 4

[shapes.unet]
widths = [16, 32]
down = [[0], [1]]
middle = 1
up = [[1, 1], [0, 0]]
context = 32
heads = 2
groups = 8

[shapes.text]
positions = 24
width = 32
layers = 2
heads = 2
hidden = 64
projection = 24

[shapes.image]
size = 128
patch = 32
width = 32
layers = 2
heads = 2
hidden = 64
projection = 24

[tokenizer]
size = 640
captions = 60

[clip]
steps = {clip}
batch = 4
optimiser = {{ warmup = 2, ema = 0.9 }}

[autoencoder]
steps = {autoencoder}
batch = 2
crops = 3
optimiser = {{ warmup = 2, ema = 0.9 }}
freeze_encoder_from = 3
refine_from = 4

[sketch]
steps = {sketch}
batch = 4
close_ups = 3
optimiser = {{ warmup = 2, ema = 0.9 }}

[diffusion]
steps = {diffusion}
batch = 4
pool = 70
close_ups = 3
close_pool = 68
whole_every = 2
whole_from = 4
optimiser = {{ warmup = 2, ema = 0.9 }}
text = {{ warmup = 2, ema = 0.9 }}
"""
STEPS: Mapping[str, int] = {"clip": 4, "autoencoder": 7, "sketch": 4, "diffusion": 5}


def write_recipe(
    path: Path, steps: Mapping[str, int] = STEPS, precision: str = "float32", save_every: float = 1000.0
) -> Path:
    """Write the tiny recipe, with so many steps for each stage."""
    path.write_text(RECIPE.format(**steps, precision=precision, save_every=save_every), "utf-8")
    return path


def silent() -> Console:
    """A console that keeps what it is told; `.file.getvalue()` gives it back."""
    return Console(file=io.StringIO(), width=1000)


TEXTS = ("a red apple on a blue background", "two cats to the left of a dog", "蓝色背景上的红苹果", "一只猫在狗的左边")
SCALE = 0.7


def random_run(folder: Path) -> Run:
    """A finished run of the tiny recipe with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(Recipe.read(write_recipe(folder / "recipe.toml")), folder, silent())
    shapes = run.recipe.shapes
    CLIPTokenizer.train(TEXTS, 640, length=shapes.text.positions).write(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = {
            "clip": CLIP(run.text_spec, shapes.image),
            "autoencoder": VAE(shapes.vae),
            "sketch": CLIPText(run.text_spec),
            "diffusion": UNet(shapes.unet),
        }
        for stage, network in networks.items():
            randomise(network)
            metadata = {"scale": str(SCALE)} if stage == "diffusion" else {}
            (folder / stage).mkdir()
            write_safetensors(folder / stage / WEIGHTS, network.state_dict(), metadata)
        text = CLIPText(run.text_spec)
        randomise(text)
        write_safetensors(folder / "diffusion" / TEXT, text.state_dict(), {})
    return run


@torch.no_grad()
def randomise(network: nn.Module) -> None:
    """Weights of a size that keeps activations near 1, in place of initial zeros too."""
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1 and "embedding" not in name:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        elif parameter.dim() == 1:
            parameter.add_(0.1 * torch.randn_like(parameter))
