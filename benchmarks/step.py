"""One call of a network of a published shape beside others: time, memory, share of the ceiling, and where ours goes.

    python benchmarks/step.py step
    python benchmarks/step.py decode --contestants ours:bfloat16 diffusers:bfloat16
    python benchmarks/step.py all --device cuda          # the whole table of a GPU

Others are diffusers, "diffusers compiled" and OpenVINO (which has to be installed; its models are kept in build/, or in
OPENVINO_MODELS), each in bfloat16 or float32. "ours compiled" is compiled by blocks; "ours, float8" and "diffusers,
float8" keep their weights so.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from ceiling import ceiling
from contestants import CONTESTANTS, take_turns
from page import keep, machine
from tasks import TASKS

DEFAULT = ["ours:bfloat16", "diffusers:bfloat16", "ours:float32", "diffusers:float32"]
ON_GPU = [
    "ours",
    "ours compiled",
    "ours, float8",
    "diffusers",
    "diffusers compiled",
    "diffusers, float8",
]  # in bfloat16


def contestant(text: str) -> tuple[str, str]:
    name, _, dtype = text.partition(":")
    if name not in CONTESTANTS or dtype not in ("bfloat16", "float32"):
        raise argparse.ArgumentTypeError(
            f"got {text!r}; give one of {', '.join(CONTESTANTS)}, then :bfloat16 or :float32"
        )
    return name, dtype


def compare(task: str, told: argparse.Namespace, contestants: Sequence[tuple[str, str]]) -> None:
    """Measure one task, and keep the figures."""
    rates = ceiling(device=told.device)
    rounds = take_turns(task, contestants, told.rounds, told.device)
    suffix = "" if told.device == "cpu" else f"-{told.device}"
    figures = {
        "title": TASKS[task].title,
        "tflop": TASKS[task].tflop,
        "command": f"python benchmarks/step.py {shlex.join(sys.argv[1:])}".split(" --note")[0],
        "machine": machine(told.device),
        "threads": told.threads,
        "device": told.device,
        "versions": {name: installed(name) for name in ("torch", "diffusers")},
        "ceiling": rates,
        "profile": rounds.pop("profile")[0],
        "rounds": rounds,
        "note": told.note,
    }
    keep(told.name or task + suffix, figures)


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=[*TASKS, "all"])
    parser.add_argument("--contestants", nargs="+", type=contestant)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--name", help="of the kept figures; by default the task's")
    parser.add_argument("--note", default="", help="a sentence for the page")
    told = parser.parse_args()

    os.environ["OMP_NUM_THREADS"] = str(told.threads)  # before torch is imported, here and by the contestants
    usual = [contestant(each) for each in DEFAULT] if told.device == "cpu" else [(name, "bfloat16") for name in ON_GPU]
    contestants = told.contestants or usual
    if find_spec("diffusers") is None:
        print("diffusers is not installed: ours alone", file=sys.stderr)
        contestants = [each for each in contestants if each[0].startswith("ours")]
    for task in TASKS if told.task == "all" else [told.task]:
        compare(task, told, contestants)


if __name__ == "__main__":
    main()
