"""Approximate speed: how far pictures of the shipped model are from the exact ones, and what is won in time.

    python benchmarks/approximate.py mini [--captions N]     # PSNR to the exact pictures, the judge, time
    python benchmarks/approximate.py sd1 [--rounds N]        # 20 guided steps of SD 1.5 at 512 x 512, time alone

Exact and approximate take turns, picture by picture or step by step, in the processor's seconds. SD 1.5's weights are
random, and what is seen at each step is a picture mixed with its noise, as on the way of a trained model.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
import torch
from page import keep, machine
from tasks import filled

import maquette
from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import denoiser
from maquette.diffusion.guidance import Pair, cfg
from maquette.diffusion.prediction import EPSILON
from maquette.diffusion.process import Discrete
from maquette.diffusion.schedules import schedule
from maquette.engine.build import outline
from maquette.engine.cache import cached
from maquette.engine.merge import merging
from maquette.errors import MaquetteError
from maquette.models.published import SD1_UNET
from maquette.models.unet import UNet
from maquette.training.evaluate import FIGURES, SEED, examples, grade
from maquette.training.judge import load_judge
from maquette.workflows.reproduce import compare_images
from maquette.workflows.settings import Speed

DEFAULT = Speed().cache
CASES: dict[str, Mapping[str, Any]] = {  # what a request asks for beside the words
    "exact": {},
    **{f"cache {cache:g}": {"speed": {"cache": cache}} for cache in (0.15, 0.2, DEFAULT, 0.3, 0.4)},
    "merge 0.5": {"speed": {"cache": 0.0, "merge": 0.5}},
    "guidance in the first half": {"interval": (0.0, 0.5)},
    "12 steps": {"steps": 12},
    "10 steps": {"steps": 10},
}
STEPS = 20
EVERY = 5  # steps: what costs the same at each of them is timed at every fifth


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What comes of some work, and the processor's seconds that it took."""
    start = time.process_time()
    done = work()
    return done, time.process_time() - start


def mini(told: argparse.Namespace) -> dict[str, Any]:
    """Each caption painted in every way, in turn; ratios and PSNR are by picture."""
    model, wanted = maquette.open("mini"), examples(told.captions)
    model.paint(prompt="a cat", seed=1)
    times: dict[str, list[float]] = {name: [] for name in CASES}
    near: dict[str, list[float]] = {name: [] for name in CASES}
    images: dict[str, list[Any]] = {name: [] for name in CASES}
    for k, example in enumerate(wanted):
        for name, fields in CASES.items():
            paint = partial(model.paint, prompt=example.caption, seed=SEED + k, **{"steps": STEPS, **fields})
            result, seconds = timed(paint)
            times[name].append(seconds)
            images[name] += result.images
            near[name].append(compare_images(result.images[0], images["exact"][k]).psnr)
        print(f"{k + 1} of {len(wanted)}", file=sys.stderr)
    return {
        "title": f"Approximate pictures of the shipped model, {len(wanted)} captions, {STEPS} steps",
        "ratios": {name: [a / b for a, b in zip(each, times["exact"], strict=True)] for name, each in times.items()},
        "psnr": near,
        "judge": {name: judged(each, wanted) for name, each in images.items()},
    }


def judged(images: list[Any], wanted: Any) -> dict[str, float]:
    """The judge's figures in percent; none where its emoji are not on this machine."""
    try:
        report = grade(torch.from_numpy(np.stack([np.asarray(image) for image in images])), wanted, load_judge())
    except MaquetteError as error:
        print(f"no judge: {error}", file=sys.stderr)
        return {}
    return {figure: 100 * report.tally(figure).share for figure in FIGURES if report.tally(figure).of}


def sd1(told: argparse.Namespace) -> dict[str, Any]:
    """Each step of a picture's way asked in every way, in turn; ratios are of whole ways."""
    network = filled(outline(UNet, SD1_UNET), torch.bfloat16)
    pair = [Conditioning(tokens=torch.randn(1, 77, 768)) for _ in range(2)]
    plain = denoiser(network, EPSILON, torch.bfloat16)
    levels = schedule("trailing", Discrete.scaled_linear(), STEPS)[:-1]
    clean, noise = (
        torch.nn.functional.interpolate(torch.randn(1, 4, 8, 8), 64, mode="bicubic"),
        torch.randn(1, 4, 64, 64),
    )
    ratios: dict[str, list[float]] = {}
    for number in range(told.rounds):
        ways = {
            "exact": plain,
            f"cache {DEFAULT:g}": cached(plain, network, DEFAULT),
            "merge 0.5": merging(plain, network, 0.5),
        }
        guided = {name: cfg(Pair(way, *pair), 7.5) for name, way in ways.items()}
        times: dict[str, list[float]] = {name: [] for name in ways}
        if number == 0:
            guided["exact"](noise, levels[0])
        for k, level in enumerate(levels):
            x = level.mix(clean, noise)
            for name, way in guided.items():
                if k % EVERY == 0 or name.startswith("cache"):
                    times[name].append(timed(partial(way, x.clone(), level))[1])
                    print(f"{level.t:.0f}, {name}: {times[name][-1]:.2f} s", file=sys.stderr)
        for name, each in times.items():
            ratios.setdefault(name, []).append(mean(each) / mean(times["exact"]))
    whole, left = parted(times[f"cache {DEFAULT:g}"])
    note = (
        f"With cache {DEFAULT:g}, {len(whole)} of {STEPS} steps were whole here, where a trained network's changes may "
        f"ask for more; one that leaves the depths out takes {mean(left) / mean(whole):.2f} of the time."
    )
    title = f"Approximate denoising of SD 1.5 at 512 x 512, {STEPS} guided steps, bf16, random weights"
    return {"title": title, "ratios": ratios, "psnr": {}, "judge": {}, "note": note}


def parted(times: list[float]) -> tuple[list[float], list[float]]:
    """The times of whole steps, and of those that leave the depths out."""
    middle = (min(times) + max(times)) / 2
    return [each for each in times if each > middle], [each for each in times if each <= middle]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("mini", "sd1"))
    parser.add_argument("--captions", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    told = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        figures = (mini if told.task == "mini" else sd1)(told)
    command = f"python benchmarks/approximate.py {' '.join(sys.argv[1:])}"
    keep(f"approximate-{told.task}", {**figures, "command": command, "machine": machine()})


if __name__ == "__main__":
    main()
