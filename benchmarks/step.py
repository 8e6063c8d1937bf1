"""One guided step of SD 1.5 at 512 x 512, or one decoded picture, beside others: time, memory, and where ours goes.

    python benchmarks/step.py step
    python benchmarks/step.py decode --contestants ours:bfloat16 diffusers:bfloat16

Others are diffusers, "diffusers compiled" and OpenVINO (which has to be installed; its model is kept in build/, or in
OPENVINO_MODELS), each in bfloat16 or float32.
"""

import argparse
import os
import sys
from importlib.metadata import version

from ceiling import ceiling
from contestants import CONTESTANTS, take_turns
from page import keep, machine

TITLES = {
    "step": "One guided step of SD 1.5 at 512 x 512 (1.354 TFLOP)",
    "decode": "One picture of 512 x 512 decoded by SD's first stage (2.48 TFLOP)",
}
DEFAULT = ["ours:bfloat16", "diffusers:bfloat16", "ours:float32", "diffusers:float32"]


def contestant(text: str) -> tuple[str, str]:
    name, _, dtype = text.partition(":")
    if name not in CONTESTANTS or dtype not in ("bfloat16", "float32"):
        raise argparse.ArgumentTypeError(
            f"got {text!r}; give one of {', '.join(CONTESTANTS)}, then :bfloat16 or :float32"
        )
    return name, dtype


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TITLES)
    parser.add_argument("--contestants", nargs="+", type=contestant, default=[contestant(each) for each in DEFAULT])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--name", help="of the kept figures; by default the task's")
    parser.add_argument("--note", default="", help="a sentence for the page")
    told = parser.parse_args()

    os.environ["OMP_NUM_THREADS"] = str(told.threads)  # before torch is imported, here and by the contestants
    rates = ceiling()
    rounds = take_turns(told.task, told.contestants, told.rounds)
    figures = {
        "title": TITLES[told.task],
        "command": f"python benchmarks/step.py {' '.join(sys.argv[1:])}".split(" --note")[0],
        "machine": machine(),
        "threads": told.threads,
        "versions": {name: version(name) for name in ("torch", "diffusers")},
        "ceiling": rates,
        "profile": rounds.pop("profile")[0],
        "rounds": rounds,
        "note": told.note,
    }
    keep(told.name or told.task, figures)


if __name__ == "__main__":
    main()
