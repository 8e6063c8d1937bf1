"""Networks of the published shapes against diffusers and transformers, with random weights: what `parity.py` runs.

The weights are drawn in bfloat16 once and widened for float32, so that both precisions compute with the same numbers;
so are the inputs. Each side runs in a process of its own: at most one network is held in memory, 4 bytes a parameter
(2 of one that is mapped).
"""

import gc
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "models"))

import references
import transformer_references

from maquette.engine.build import fill, outline, parameters
from maquette.models import published
from maquette.weights.precision import cast
from maquette.weights.safetensors_file import SafetensorsFile, write_safetensors

KINDS = references.KINDS | transformer_references.KINDS
CPU = torch.device("cpu")
EXACT, HALF = torch.float32, torch.bfloat16
KEPT = ("t", "numbers", "guidance")  # inputs that no caller rounds: times, sizes, scales


@dataclass(frozen=True)
class Part:
    """A network of the published shape: whose it is, what it is, its spec, and options of its inputs."""

    families: str
    what: str
    spec: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    """What an output is called where a part has several that differ in kind."""
    mapped: bool = False
    """Too large for memory in float32: both sides compute with the widened file itself."""


LATENT = {"size": (16, 16)}
STAGE = {"size": (128, 128)}, {"mean": "encode", "logvar": "encode", "picture": "decode"}
PARTS = {
    "sd1-unet": Part("SD 1.5", "U-Net", published.SD1_UNET, LATENT),
    "sd2-unet": Part("SD 2.1", "U-Net", published.SD2_UNET, LATENT),
    "sdxl-unet": Part("SDXL", "U-Net", published.SDXL_UNET, LATENT),
    "refiner-unet": Part("SDXL refiner", "U-Net", published.SDXL_REFINER_UNET, {**LATENT, "numbers": 5}),
    "sd35-medium": Part("SD3.5 medium", "MM-DiT", published.SD35_MEDIUM, LATENT),
    "flux-blocks": Part(
        "FLUX.1 dev", "1 double and 1 single block", replace(published.FLUX_DEV, double=1, single=1), LATENT
    ),
    "dit-xl": Part("DiT-XL/2", "DiT", published.DIT["DiT-XL/2"]),
    "vae-4": Part("SD 1.5, SD 2.1, SDXL", "autoencoder", published.SD_VAE, *STAGE),
    "vae-16": Part("SD3.5, FLUX.1", "autoencoder", published.SD3_VAE, *STAGE),
    "clip-l": Part("SD 1.5, SDXL, SD3.5, FLUX.1", "CLIP-L text tower", published.CLIP_L_TEXT),
    "open-clip-h": Part("SD 2.1", "OpenCLIP H text tower", published.OPEN_CLIP_H_TEXT),
    "open-clip-g": Part("SDXL, SD3.5", "OpenCLIP bigG text tower", published.OPEN_CLIP_G_TEXT),
    "t5-xxl": Part("SD3.5, FLUX.1", "T5-XXL encoder", published.T5_XXL, mapped=True),
    "clip-l-image": Part("CLIP", "CLIP-L image tower", published.CLIP_L_IMAGE),
}


def measure(part: Part, place: Path) -> dict[str, Any]:
    """The figures of one part: for each thing it does, the relative errors. `place` holds the weights meanwhile."""
    start = time.perf_counter()
    with TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        size = alone(ours, part, folder)
        alone(theirs, part, folder)
        read = {side: SafetensorsFile(folder / side) for side in ("ours", "theirs", "ours-half", "theirs-half")}
        exact = dict(read["theirs"])
        rows: dict[str, dict[str, float]] = {}
        for figure, side in (("float32", "ours"), ("bfloat16", "ours-half"), ("reference", "theirs-half")):
            for output, error in references.errors(dict(read[side]), exact).items():
                row = rows.setdefault(part.outputs.get(output, ""), {})
                row[figure] = max(error, row.get(figure, 0.0))
    return {"parameters": size, "seconds": round(time.perf_counter() - start), "errors": rows}


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a process of its own, which gives all its memory back."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


@torch.no_grad()
def draw_weights(part: Part, path: Path) -> int:
    """Write random weights, in our names; how many numbers they are."""
    kind = KINDS[type(part.spec)]
    network = kind.randomise(outline(kind.network, part.spec).to(HALF).to_empty(device=CPU))
    write_safetensors(path, network.state_dict())
    return parameters(network)


@torch.no_grad()
def ours(part: Part, folder: Path) -> int:
    """Draw the weights and write our outputs; how many numbers the weights are."""
    kind = KINDS[type(part.spec)]
    size = draw_weights(part, folder / "weights")
    if part.mapped:
        write_safetensors(folder / "widened", cast(SafetensorsFile(folder / "weights"), EXACT))
    for precision, name in ((EXACT, "ours"), (HALF, "ours-half")):
        network = fill(outline(kind.network, part.spec), weights(part, folder, precision), CPU, precision)
        save(folder / name, kind.ours(network, **inputs(part, precision)))
        del network  # before the next one
    return size


@torch.no_grad()
def theirs(part: Part, folder: Path) -> None:
    """Write the reference's outputs with the same weights."""
    kind = KINDS[type(part.spec)]
    network = kind.reference(fill(outline(kind.network, part.spec), weights(part, folder, EXACT), CPU, EXACT))
    gc.collect()
    save(folder / "theirs", kind.theirs(network, **inputs(part, EXACT)))
    save(folder / "theirs-half", kind.theirs(network.to(HALF), **inputs(part, HALF)))


def weights(part: Part, folder: Path, precision: torch.dtype) -> SafetensorsFile:
    return SafetensorsFile(folder / ("widened" if part.mapped and precision is EXACT else "weights"))


def inputs(part: Part, precision: torch.dtype) -> dict[str, Any]:
    """The same numbers in either precision."""

    def rounded(value: Any) -> Any:
        if isinstance(value, list):
            return [rounded(item) for item in value]
        return value.to(HALF).to(precision) if torch.is_tensor(value) and value.is_floating_point() else value

    drawn = KINDS[type(part.spec)].inputs(part.spec, **part.options)
    return {name: value if name in KEPT else rounded(value) for name, value in drawn.items()}


def save(path: Path, outputs: Mapping[str, Tensor]) -> None:
    write_safetensors(path, {name: tensor.contiguous() for name, tensor in outputs.items()})
