"""A recipe that trains in seconds, and a run of it with weights out of the air; benchmarks/kill_resume.py shares it."""

import io
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

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

[diffusion]
steps = {diffusion}
batch = 4
pool = 70
optimiser = {{ warmup = 2, ema = 0.9 }}
"""
STEPS: Mapping[str, int] = {"clip": 4, "autoencoder": 7, "diffusion": 5}


def write_recipe(
    path: Path, steps: Mapping[str, int] = STEPS, precision: str = "float32", save_every: float = 1000.0
) -> Path:
    """Write the tiny recipe, with so many steps for each stage."""
    path.write_text(RECIPE.format(**steps, precision=precision, save_every=save_every), "utf-8")
    return path


def silent() -> Console:
    """A console that keeps what it is told; `.file.getvalue()` gives it back."""
    return Console(file=io.StringIO(), width=1000)
