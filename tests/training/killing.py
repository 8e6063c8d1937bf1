"""Training that is killed at random moments and resumed until it is done; benchmarks/kill_resume.py shares it."""

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PATIENCE = 600.0  # seconds that a process may take to its next step


def train_killed(recipe: Path, folder: Path, targets: Sequence[int], seed: int) -> Iterator[str]:
    """Train a recipe in a process that is killed once for each target, then let it finish; says where each kill hit.

    A target is a number of checkpointed steps, over all stages, that must be there before the kill. Every second kill
    waits for a file that is being written; the others come a random moment later.
    """
    chance = random.Random(seed)
    for number, target in enumerate(targets):
        process = _start(recipe, folder)
        _wait(process, folder, target, saving=number % 2 == 1, extra=chance.uniform(0, 0.03))
        finished = process.poll() is not None
        process.kill()
        _end(process)
        halves = [str(path.relative_to(folder)) for path in folder.rglob(".*.tmp")]
        yield f"step {_steps(folder)}" + (", finished" if finished else "") + (f", in {halves[0]}" if halves else "")
    process = _start(recipe, folder)
    if _end(process) != 0:
        raise RuntimeError(f"the training failed: {(folder.parent / 'errors.txt').read_text('utf-8')}")


def _start(recipe: Path, folder: Path) -> "subprocess.Popen[bytes]":
    (folder / "recipe.toml").unlink(missing_ok=True)  # it is written anew when the training begins
    command = [sys.executable, "-m", "maquette", "train", str(recipe), "--out", str(folder), "--resume"]
    with (folder.parent / "errors.txt").open("wb") as errors:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)


def _end(process: "subprocess.Popen[bytes]") -> int:
    return process.wait(PATIENCE)


def _wait(process: "subprocess.Popen[bytes]", folder: Path, target: int, *, saving: bool, extra: float) -> None:
    """Until the process has done so much, or ended."""
    limit = time.monotonic() + PATIENCE

    def passes(condition: bool) -> bool:
        if time.monotonic() > limit:
            process.kill()
            raise TimeoutError(f"no progress in {PATIENCE} seconds")
        return condition or process.poll() is not None

    while not passes((folder / "recipe.toml").exists() and _steps(folder) >= target):
        time.sleep(0.002)
    if not saving:
        time.sleep(extra)
    while saving and not passes(any(folder.rglob(".*.tmp"))):
        time.sleep(0.0005)


def _steps(folder: Path) -> int:
    """Checkpointed steps of all stages."""
    newest: dict[Path, int] = {}
    for path in folder.glob("*/checkpoints/step-*.json"):
        newest[path.parent] = max(newest.get(path.parent, 0), int(path.stem.partition("-")[2]))
    return sum(newest.values())


def result(folder: Path) -> dict[str, str]:
    """The digests of everything that a run made; checkpoints by their tensors' file, logs by nothing."""
    kept = ("tokenizer/*", "*/latents.f16", "*/*.safetensors")
    paths = [path for pattern in kept for path in folder.glob(pattern)]
    paths += [max(stage.glob("step-*.safetensors")) for stage in folder.glob("*/checkpoints")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}
