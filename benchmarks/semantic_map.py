"""How well an adapter's pictures obey semantic maps: the judge's reading of each cell against the map.

python benchmarks/semantic_map.py --out docs/images/semantic-map.png

The maps and captions are of scenes that training never showed; picture k has the seed `seed + k`, with and without its
map. "drawn" is what the judge says of the scenes themselves: no painter can be expected to score above that.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

import maquette
from maquette.engine.control import ControlNetwork, open_control
from maquette.training.adapter import map_examples, maps_of, paint_maps
from maquette.training.autoencoder import to_signed
from maquette.training.evaluate import BATCH, SEED, Example, Setting, counting, drawn, paint
from maquette.training.judge import load_judge
from maquette.training.regions import Agreement, agreement
from maquette.training.sheet import write_sheet

GOAL = 0.80  # of the cells
COLUMNS = 8  # of the sheet


def painted(control: ControlNetwork, wanted: Sequence[Example], setting: Setting, seed: int) -> dict[str, Tensor]:
    """Pictures of examples by their words, by their maps, and by both, each (n, 128, 128, 3) in bytes."""
    parts: dict[str, list[Tensor]] = {"words": [], "map": [], "words and map": []}
    with counting(str(setting), 3 * len(wanted) * setting.steps, Console(stderr=True)) as advance:
        for start in range(0, len(wanted), BATCH):
            some = wanted[start : start + BATCH]
            maps, words = maps_of(some), [example.caption for example in some]
            seeds = range(seed + start, seed + start + len(some))
            parts["words"].append(paint(control.model, words, seeds, setting, advance))
            parts["map"].append(paint_maps(control, maps, [""] * len(some), seeds, setting, advance))
            parts["words and map"].append(paint_maps(control, maps, words, seeds, setting, advance))
    return {name: torch.cat(pictures) for name, pictures in parts.items()}


def row(name: str, found: Agreement) -> str:
    """A line of the table, in percent."""
    shares = (found.cells, found.things, found.background, found.outline)
    return f"| {name} | " + " | ".join(f"{100 * tally.share:.1f}" for tally in shares) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", nargs="?", default="semantic-map", help="the shipped one, or an adapter's folder")
    parser.add_argument("--model", default="mini", help="the model that it is for")
    parser.add_argument("--count", type=int, default=100, help="how many maps")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, help="write the first maps and what was painted by them here")
    options = parser.parse_args()
    judge, wanted = load_judge(), map_examples(options.count, options.seed)
    scenes = [example.scene for example in wanted]
    model = maquette.open(options.model)
    control = open_control(options.adapter, model)
    pictures = {"drawn": drawn(scenes)} | painted(control, wanted, Setting.of(model.family.defaults), options.seed)
    found = {name: agreement(judge, each, scenes) for name, each in pictures.items()}
    print("| % of cells | all | of things | of the background | outline (IoU) |\n|---|---|---|---|---|")
    print("\n".join(row(name, each) for name, each in found.items()))
    if options.out is not None:
        shown = (maps_of(wanted), pictures["words and map"], pictures["map"], pictures["words"])
        write_sheet(to_signed(torch.cat([each[:COLUMNS] for each in shown])), options.out, COLUMNS)
    return int(found["words and map"].cells.share < GOAL)


if __name__ == "__main__":
    raise SystemExit(main())
