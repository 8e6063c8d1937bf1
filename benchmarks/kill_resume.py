"""Kills a small training run at random moments by SIGKILL, resumes it each time, and compares it with an unbroken one.

    python benchmarks/kill_resume.py [--kills 20] [--seed 0]

Prints where each kill hit, half of them while a file was being written, and whether every weight, every optimiser
state, the latents and the vocabulary came out bit for bit the same. Exit status 1 if not.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/training"))

from killing import result, train_killed
from tiny import STEPS as FEWEST
from tiny import write_recipe

STEPS = {**FEWEST, "clip": 14, "autoencoder": 20, "sketch": 10, "diffusion": 16}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    start, total = time.monotonic(), sum(STEPS.values())
    targets = sorted(random.Random(told.seed).choices(range(total - 3), k=told.kills))
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / name / "run" for name in ("unbroken", "killed")]
        for folder, save_every, kills in zip(folders, (1000.0, 0.0), ([], targets), strict=True):
            folder.mkdir(parents=True)
            recipe = write_recipe(folder.parent / "tiny.toml", STEPS, "bfloat16", save_every)
            for number, kill in enumerate(train_killed(recipe, folder, kills, told.seed), 1):
                print(f"kill {number:2}: {kill}", flush=True)
        expected, found = map(result, folders)
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    for name in expected:
        print(f"{'DIFFERENT' if name in different else 'identical'}  {name}")
    print(f"{told.kills} kills, {len(different)} of {len(expected)} files differ, {time.monotonic() - start:.0f} s")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
