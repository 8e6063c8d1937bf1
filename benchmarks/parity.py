"""The same weights give the same outputs here and in diffusers and transformers: measured, and written down.

    python benchmarks/parity.py [--parts NAME ...] [--figures FILE] [--page FILE]

Networks of the published shapes with random weights, in float32 and in bfloat16, then whole small models in every
layout, up to the picture. What was measured is kept in --figures and is not measured again, so that one can stop and go
on; --parts measures some anew. The page is written once all are there. Largest is SDXL: 11 GB of memory, 5 GB of disk.
Exit status 1 if a bound is broken.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from os import cpu_count
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "engine"))

from against_diffusers import (
    CASES,
    LAYOUTS,
    Case,
    compared_tensors,
    encoding_error,
    give,
    open_file,
    open_folder,
    paint_ours,
    paint_theirs,
    psnr,
)
from full_size import PARTS, measure

from maquette.weights.atomic_file import replacing

ROOT = Path(__file__).resolve().parents[1]
BOUNDS = {"float32": 1e-5, "bfloat16": 2e-2}
DECIBELS = 60.0
WHOLE = "whole models"

INTRODUCTION = """\
# Parity with diffusers and transformers

The same weights, inputs and noise give the same numbers here and in the reference implementations. This page is written
by

    python benchmarks/parity.py

and every figure on it is measured: on {machine}, with {versions}. The
published weights themselves were not to be had: all weights are random, scaled so that epsilons, activations and
attention show in the output. Errors are relative, |ours - reference| / |reference|, the worst over a part's outputs.

## Parts at their published shapes

Each network is built from its published numbers; the reference is built from the `config.json` that we write and
filled, strictly, with the tensors under the names that we write, so shapes, names and configs are compared too. Weights
and inputs are numbers of bfloat16, so that both precisions compute with the same ones. The bounds are {float32:g} in
float32 and {bfloat16:g} in bfloat16, against the reference in *float32*; beside the latter stands the error that the
reference itself makes in bfloat16 (its FLUX rounds a thousand times the guidance, 3500, to 3504). Latents
are 16 x 16, pictures for autoencoders 128 x 128.

| family | part | parameters | float32 | bfloat16 | reference in bfloat16 |
|---|---|---|---|---|---|
"""
WHOLE_MODELS = """
FLUX.1 as a whole is 48 GB in float32: there, two blocks stand for the others, which are alike.

## Whole models, by layout

Small models of each family's structure, with random weights. We open the layout named; diffusers opens the folder that
`maquette convert` made of the original file. Both paint the same prompt from the same noise with the same sampler,
schedule and guidance, in float32. Below a layout stands the PSNR between the two pictures, bound {decibels:g} dB.
"Latent" is the error of an encoded picture. A quantised denoiser has its parts beside it, and diffusers gets the
numbers that the `gguf` package reads from it. The last column does not depend on our names: diffusers' own single-file
loader reads the original file, and its tensors are compared with the folder's, bit for bit.

| family | {layouts} | latent | by diffusers' loader |
|---|{rules}---|---|
"""
NOTES = """
Diffusers' loader leaves T5 without data, which is not counted, and knows FLUX at the published width alone: there,
`tests/models/test_flux.py` asks its converter.
"""


def measure_whole(case: Case, layout: str) -> dict[str, Any]:
    """The figures of one small model in one layout."""
    with TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers and transformers warn of each other
        given = give(case, layout, Path(place))
        model, pipe = given.open(), open_folder(case, given)
        figures: dict[str, Any] = {
            "psnr": psnr(paint_ours(model, case), paint_theirs(pipe, case, model)),
            "latent": encoding_error(model, pipe),
        }
        if layout == "original" and case.loader:
            same = compared_tensors(pipe, open_file(case, given))
            figures |= {"tensors": len(same), "different": sorted(name for name in same if not same[name])}
    return figures


def broken(figures: dict[str, Any]) -> Iterator[str]:
    """What is beyond its bound."""
    for name, part in figures["parts"].items():
        for what, errors in part["errors"].items():
            for precision, bound in BOUNDS.items():
                if not errors[precision] <= bound:
                    yield f"{name} {what}: {precision} {errors[precision]:.1e}"
    for family, layouts in figures["whole"].items():
        for layout, found in layouts.items():
            near = found["psnr"] >= DECIBELS and found["latent"] <= BOUNDS["float32"]
            if not near or found.get("different"):
                yield f"{family}, {layout}: {found}"


def page(figures: dict[str, Any], machine: str) -> str:
    """The figures as a page of Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
    lines = [INTRODUCTION.format(machine=machine, versions=versions, **BOUNDS)]
    for name, part in PARTS.items():
        measured = figures["parts"].get(name, {"errors": {}})
        for what, errors in measured["errors"].items():
            title = f"{part.what}, {what}" if what else part.what
            three = (error(errors[key]) for key in (*BOUNDS, "reference"))
            lines.append(row(part.families, title, f"{measured['parameters']:,}", *three))
    lines.append(WHOLE_MODELS.format(decibels=DECIBELS, layouts=" | ".join(LAYOUTS), rules="---|" * len(LAYOUTS)))
    for family, layouts in figures["whole"].items():
        first = layouts["original"]
        equal = f"{first['tensors']} tensors equal" if first.get("different") == [] else ""
        worst = max(found["latent"] for found in layouts.values())
        decibels = (f"{layouts[layout]['psnr']:.0f} dB" for layout in LAYOUTS)
        lines.append(row(family, *decibels, error(worst), equal))
    return "".join([*lines, NOTES])


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def error(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [*PARTS, WHOLE]
    parser.add_argument("--parts", nargs="+", choices=choices, metavar="NAME", help=f"only {', '.join(choices)}; anew")
    parser.add_argument("--figures", type=Path, default=ROOT / "build" / "parity.json", metavar="FILE")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "parity.md", metavar="FILE")
    parser.add_argument("--machine", default=f"a CPU of {cpu_count()} cores", help="what the page says of it")
    parser.add_argument("--place", type=Path, default=Path(gettempdir()), help="where weights lie meanwhile")
    told = parser.parse_args()
    figures = json.loads(told.figures.read_text()) if told.figures.is_file() else {"parts": {}, "whole": {}}

    def keep() -> None:
        told.figures.parent.mkdir(parents=True, exist_ok=True)
        with replacing(told.figures) as file:
            file.write(json.dumps(figures, indent=2).encode())

    for name, part in PARTS.items():
        if name in told.parts if told.parts else name not in figures["parts"]:
            figures["parts"][name] = measure(part, told.place)
            print(name, figures["parts"][name], flush=True)
            keep()
    for family, case in CASES.items():
        if WHOLE in told.parts if told.parts else family not in figures["whole"]:
            figures["whole"][family] = {layout: measure_whole(case, layout) for layout in LAYOUTS}
            print(family, figures["whole"][family], flush=True)
            keep()
    missing = [*(PARTS.keys() - figures["parts"].keys()), *(CASES.keys() - figures["whole"].keys())]
    if missing:
        print(f"{told.page} stays as it is: {', '.join(sorted(missing))} are not measured yet", file=sys.stderr)
    else:
        told.page.write_text(page(figures, told.machine), "utf-8")
    problems = list(broken(figures))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
