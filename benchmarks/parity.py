"""Parity at full size: published shapes with random weights, here and in diffusers and transformers.

    python benchmarks/parity.py [--parts NAME ...] [--half] [--json FILE]

A network and its reference share one set of random weights in float32: 4 bytes for each parameter, and the activations.
With --half both then compute in bfloat16, and each is compared with the reference in float32: the two errors should be
alike. Another network is one more line in `PARTS`.
"""

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "models"))

import references

from maquette.models import published

# name: spec, options of its inputs
PARTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SD 1.5 U-Net": (published.SD1_UNET, {"size": (32, 32)}),
    "SD 1.5 autoencoder": (published.SD_VAE, {"size": (128, 128)}),
    "CLIP-L text": (published.CLIP_L_TEXT, {}),
    "CLIP-L image": (published.CLIP_L_IMAGE, {}),
    "SD 2 U-Net": (published.SD2_UNET, {"size": (32, 32)}),
    "SD3 autoencoder": (published.SD3_VAE, {"size": (128, 128)}),
    "OpenCLIP H text": (published.OPEN_CLIP_H_TEXT, {}),
    "OpenCLIP bigG text": (published.OPEN_CLIP_G_TEXT, {}),
    "SDXL U-Net": (published.SDXL_UNET, {"size": (32, 32)}),
    "SDXL refiner U-Net": (published.SDXL_REFINER_UNET, {"size": (32, 32), "numbers": 5}),
}
DEFAULT = ("SD 1.5 U-Net", "SD 1.5 autoencoder", "CLIP-L text")


@torch.no_grad()
def measure(name: str, half: bool) -> dict[str, Any]:
    """The relative errors of one part: the worst over its outputs, and each."""
    start = time.perf_counter()
    spec, options = PARTS[name]
    kind = references.KINDS[type(spec)]
    ours = references.randomise(kind.network(spec))
    theirs = kind.reference(ours)
    inputs = kind.inputs(spec, **options)
    exact = kind.theirs(theirs, **inputs)
    found = references.errors(kind.ours(ours, **inputs), exact)
    row = {
        "part": name,
        "parameters": sum(parameter.numel() for parameter in ours.parameters()),
        "float32": max(found.values()),
        "outputs": found,
    }
    if half:
        rounded = {key: in_half(key, value) for key, value in inputs.items()}
        row["bfloat16"] = max(references.errors(kind.ours(ours.to(torch.bfloat16), **rounded), exact).values())
        del ours  # the reference still holds the weights in float32
        gc.collect()
        outputs = kind.theirs(theirs.to(torch.bfloat16), **rounded)
        row["bfloat16, reference"] = max(references.errors(outputs, exact).values())
    return {**row, "seconds": round(time.perf_counter() - start, 1)}


def in_half(key: str, value: Any) -> Any:
    """An input in bfloat16, except times and sizes, which it cannot tell apart."""
    if isinstance(value, list):
        return [in_half(key, item) for item in value]
    if key in ("t", "numbers") or not torch.is_tensor(value) or not value.is_floating_point():
        return value
    return value.to(torch.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=DEFAULT, metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--half", action="store_true", help="compute in bfloat16 too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()

    rows = []
    errors = ["float32", *(["bfloat16", "bfloat16, reference"] if arguments.half else [])]
    table = Table("part", "parameters", *errors, title="relative error, the worst output's")
    for name in arguments.parts:
        row = measure(name, arguments.half)
        rows.append(row)
        table.add_row(name, f"{row['parameters']:,}", *(f"{row[error]:.1e}" for error in errors))
        print(f"{name}: {row['seconds']} s", file=sys.stderr)
        gc.collect()
    Console(width=100).print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
