"""How time and memory grow with the side of a picture, the pictures at a time, and the steps.

    python benchmarks/scale.py [--sides 256 512 768 1024] [--decode 4096] [--batches 1 2 4 8 16] [--steps 5 10 20 40 80]

Each point is measured in a process of its own, after a call that warms it up (but not where one takes minutes): the
processor's seconds (a GPU's by the clock), and the most memory at a time, without the network. Sides: one call of
SD 1.5's U-Net, unguided, and a decode with its first stage, both in bfloat16 with random weights, the decode by tiles
from 2 megapixels on. Batches: that call of the U-Net at 256 x 256. Steps: a picture of the shipped model, from words
to pixels.
"""

import argparse
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from chart import chart, exponent
from memory import Anonymous, status
from page import ROOT, keep, machine
from tasks import TASKS, Work, network, ours

IMAGES = ROOT / "docs" / "images"
TILED_FROM = 2048  # pixels a side


def work_of(what: str, value: int, device: str) -> Work:
    """What is called at a point."""
    import torch

    import maquette
    from maquette.engine.tiling import in_tiles

    if what == "steps":
        model = maquette.open("mini", device=device)
        return lambda: model.txt2img("a cat", seed=7, steps=value)
    if what == "batch":
        task = replace(TASKS["step"], latent=(4, 32, 32), guided=False)
        return ours(task, torch.bfloat16, device, rows=value)
    latent = (4, value // 8, value // 8)
    if what == "unet":
        return ours(replace(TASKS["step"], latent=latent, guided=False), torch.bfloat16, device)
    vae, x = network(TASKS["decode"], torch.bfloat16, device), torch.randn(1, *latent, device=device)

    def work() -> Any:
        with in_tiles(vae) if value >= TILED_FROM else nullcontext():
            return vae.decode(x)

    return work


def point(what: str, value: int, device: str) -> dict[str, float]:
    """Seconds and bytes of a call."""
    import torch

    with torch.no_grad():
        work = work_of(what, value, device)
        before = status("RssAnon") if device == "cpu" else torch.cuda.memory_allocated()
        if device != "cpu" or value < TILED_FROM:
            work()
        if device != "cpu":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            start = time.monotonic()
            work()
            torch.cuda.synchronize()
            return {"seconds": time.monotonic() - start, "bytes": torch.cuda.max_memory_allocated() - before}
        start = time.process_time()
        with Anonymous() as seen:
            work()
        return {"seconds": time.process_time() - start, "bytes": max(seen.most - before, 0)}


def alone(what: str, value: int, device: str) -> dict[str, float]:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--point", what, str(value), "--device", device]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, float] = json.loads(answer.strip().splitlines()[-1])
    print(f"{what} {value}: {found['seconds']:.2f} s, {found['bytes'] / 1e9:.2f} GB", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="*", type=int, default=[256, 512, 768, 1024])
    parser.add_argument("--decode", nargs="*", type=int, default=[], help="further sides, of the decode alone")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps", nargs="*", type=int, default=[5, 10, 20, 40, 80])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.point:
        print(json.dumps(point(told.point[0], int(told.point[1]), told.device)))
        return
    values = {"unet": told.sides, "decode": [*told.sides, *told.decode], "batch": told.batches, "steps": told.steps}
    series = {
        what: {str(value): alone(what, value, told.device) for value in found}
        for what, found in values.items()
        if found
    }
    command = f"python benchmarks/scale.py {' '.join(sys.argv[1:])}".strip()
    suffix = "" if told.device == "cpu" else f"-{told.device}"
    figures = {"command": command, "machine": machine(told.device), "series": series, "suffix": suffix}
    draw(figures)
    keep(f"scale{suffix}", figures)


CHARTS = {  # what is drawn together, against what
    "side": ("A call of the U-Net, and a decode, by the picture's side", "pixels a side", ("unet", "decode")),
    "batch": ("A call of the U-Net at 256 x 256, by pictures at a time", "pictures at a time", ("batch",)),
    "steps": ("A picture of the shipped model, by steps", "steps", ("steps",)),
}
NAMES = {"unet": "U-Net", "decode": "decode", "batch": "U-Net", "steps": "picture"}


def draw(figures: dict[str, Any]) -> None:
    """Write docs/images/scale-*.svg."""
    for name, (title, across, whats) in CHARTS.items():
        for clock, label in (("seconds", "seconds"), ("bytes", "bytes beside the network")):
            lines = {
                NAMES[what]: [
                    (float(x), each[clock]) for x, each in figures["series"].get(what, {}).items() if each[clock] > 0
                ]
                for what in whats
            }
            lines = {each: points for each, points in lines.items() if len(points) > 1}
            path = Path(IMAGES / f"scale-{name}-{clock}{figures['suffix']}.svg")
            if lines:
                path.write_text(chart(title, across, label, lines))


def exponents(series: dict[str, dict[str, dict[str, float]]]) -> dict[str, tuple[float, float]]:
    """Of time and of memory, for each series."""
    return {
        what: tuple(
            exponent([(float(x), each[clock] or 1.0) for x, each in points.items()]) for clock in ("seconds", "bytes")
        )
        for what, points in series.items()
    }


if __name__ == "__main__":
    main()
