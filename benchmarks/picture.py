"""From `maquette txt2img` to the PNG with the shipped model, and where the time goes.

    python benchmarks/picture.py [--rounds N] [--steps N]

The command is timed as a whole; beside it, a process of its own is timed by its phases.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from page import keep, machine

PROMPT = "a red apple on a blue background"
PHASES = """
import json, sys, time
moments = {"interpreter": time.time()}
import torch
moments["import torch"] = time.time()
import maquette
from maquette.workflows.paint import paint
from maquette.workflows.request import Request
moments["import maquette"] = time.time()
model = maquette.open("mini")
moments["open the model"] = time.time()
told = {"model": "mini", "prompt": PROMPT, "seed": 7, "steps": STEPS}
workflow = paint(model, Request.read(told))
next(workflow)
moments["text, first step"] = time.time()
for _ in range(STEPS - 1):
    next(workflow)
moments["other steps"] = time.time()
try:
    next(workflow)
except StopIteration as end:
    result = end.value
moments["decode"] = time.time()
result.save(OUT)
moments["write"] = time.time()
print(json.dumps(moments))
"""


def phases(out: Path, steps: int) -> dict[str, float]:
    """Seconds of each phase of one picture."""
    code = f"PROMPT, STEPS, OUT = {PROMPT!r}, {steps}, {str(out)!r}\n{PHASES}"
    start = time.time()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    moments = json.loads(done.stdout.splitlines()[-1])
    times = [start, *moments.values()]
    return {name: end - begin for name, begin, end in zip(moments, times[:-1], times[1:], strict=True)}


def command(out: Path, steps: int) -> dict[str, float]:
    """Seconds of the command as one types it, of the clock and of the processor."""
    start, used = time.time(), processor()
    asked = ["txt2img", PROMPT, "--seed", "7", "--steps", str(steps), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "maquette", *asked], check=True, capture_output=True)
    return {"command to PNG": time.time() - start, "the same, processor's seconds": processor() - used}


def processor() -> float:
    """Seconds of all cores together that processes which have ended were computing."""
    told = resource.getrusage(resource.RUSAGE_CHILDREN)
    return told.ru_utime + told.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    told = parser.parse_args()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "picture.png"
        for number in range(told.rounds + 1):
            times = {**command(out, told.steps), **phases(out, told.steps)}
            print(", ".join(f"{name} {each:.2f}" for name, each in times.items()), file=sys.stderr)
            for name, each in times.items() if number else ():  # the first fills the caches
                found.setdefault(name, []).append(each)
    title = f"A picture of the shipped model, {told.steps} steps, from command to PNG"
    threads = f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} " if "OMP_NUM_THREADS" in os.environ else ""
    shown = f"{threads}python benchmarks/picture.py --rounds {told.rounds} --steps {told.steps}"
    keep("picture", {"title": title, "command": shown, "machine": machine(), "phases": found})


if __name__ == "__main__":
    main()
