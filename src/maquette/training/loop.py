"""The one training loop: batches in, updates, a checkpoint each minute, samples, a bar with loss and time left.

All randomness of step k comes from (seed, k), so on the CPU a run that was killed and resumed is bit for bit the
unbroken one (on CUDA some sums are taken in another order each time).
"""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.training.checkpoint import Checkpoint, newest, save
from maquette.training.figures import Figures, NonFinite, numbers
from maquette.weights.atomic_file import replacing

SAVE_EVERY = 45.0  # seconds: a killed run loses less than a minute
LOG_EVERY = 25  # steps
LOGGED = re.compile(r'\{"step": (\d+), [^{}]*\}\n\Z')  # a whole line of the log

Batch = TypeVar("Batch", contravariant=True)


class TimeIsUp(Exception):
    """A run was stopped at its time; it goes on from the checkpoint that was written."""


class Task(Protocol[Batch]):
    """One stage of training, on batches of its own kind."""

    name: str

    def update(self, step: int, batch: Batch) -> Figures:
        """Do update `step` (from 0); what to show of it. On the CPU, NonFinite comes before any weight is harmed."""
        ...

    def state(self) -> dict[str, Tensor]: ...
    def load(self, state: dict[str, Tensor]) -> None: ...

    def show(self, step: int, folder: Path) -> None:
        """Write samples into the folder."""
        ...


def generator(seed: int, step: int, purpose: int = 0) -> torch.Generator:
    """The random numbers of one step, whatever came before it."""
    mixed = (seed * 1_000_003 + step) * 16 + purpose
    return torch.Generator().manual_seed(mixed & (2**63 - 1))


@dataclass
class Loop(Generic[Batch]):
    """Drives a task for `steps` updates in `folder`, from its newest checkpoint if there is one."""

    task: Task[Batch]
    folder: Path
    steps: int
    samples_every: int
    console: Console = field(default_factory=lambda: Console(stderr=True))
    save_every: float = SAVE_EVERY
    deadline: float = math.inf  # on the monotonic clock

    def resume(self) -> int:
        """Load the newest sound checkpoint; the step to go on from, 0 without one."""
        checkpoint, complaints = newest(self.folder / "checkpoints")
        step = 0 if checkpoint is None else checkpoint.step
        for complaint in complaints:
            self.console.print(f"{self.task.name}: {complaint}", style="yellow", markup=False)
        if complaints:
            self.console.print(f"{self.task.name}: falling back to step {step}", style="yellow")
        if checkpoint is not None:
            self.task.load(checkpoint.tensors)
        self._forget(step)
        return step

    def run(self, start: int, batches: Iterator[Batch]) -> None:
        """Do updates `start` to `steps`; `batches` begins with that of `start`.

        Raises:
            TimeIsUp: the deadline came first; all that was done is saved.
            MaquetteError: a loss, a gradient or a weight became NaN or infinite; what was saved before is sound.
        """
        step, saved_at, saved = start, time.monotonic(), start
        with self._progress() as progress:
            bar = progress.add_task(self.task.name, total=self.steps, completed=start, figures="")
            try:
                for step in range(start, self.steps):
                    figures = self.task.update(step, next(batches))
                    progress.update(bar, completed=step + 1)
                    if (step + 1) % LOG_EVERY == 0 or not any(isinstance(each, Tensor) for each in figures.values()):
                        known = numbers(figures, step)
                        progress.update(bar, figures=_words(known))
                    if (step + 1) % LOG_EVERY == 0:
                        self._log(step + 1, known)
                    now = time.monotonic()
                    if now - saved_at > self.save_every or now > self.deadline:
                        self._save(step + 1)
                        saved_at, saved = time.monotonic(), step + 1
                    if (step + 1) % self.samples_every == 0:
                        self.task.show(step + 1, self.folder / "samples")
                    if now > self.deadline and step + 1 < self.steps:
                        raise TimeIsUp(f"{self.task.name}: the time is up; --resume goes on from step {step + 1}")
                if self.steps > saved:
                    self._save(self.steps)
            except NonFinite as error:
                raise MaquetteError(
                    f"{self.task.name}: {error}; stopped. {self._last_good()}: lower the learning rate, "
                    "then go on with --resume"
                ) from error
            except KeyboardInterrupt:
                self.console.print(f"{self.task.name}: stopped; --resume goes on from step {saved}")
                raise

    def _save(self, step: int) -> None:
        state = {name: tensor.cpu() for name, tensor in self.task.state().items()}
        for name, tensor in state.items():
            if not bool(tensor.isfinite().all()):
                raise NonFinite(f"the weight {name} is not finite after step {step}")
        save(self.folder / "checkpoints", Checkpoint(step, state, {"task": self.task.name}))

    def _last_good(self) -> str:
        checkpoint, _ = newest(self.folder / "checkpoints")
        if checkpoint is None:
            return f"There is no checkpoint in {self.folder} yet"
        return f"The last good checkpoint is that of step {checkpoint.step} in {self.folder}"

    def _log(self, step: int, figures: Mapping[str, float]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 1), **figures}) + "\n")

    def _forget(self, step: int) -> None:
        """Drop what the log tells of updates after `step`, which will be done again, and a line cut short."""
        if not self._log_path.exists():
            return
        lines = self._log_path.read_text("utf-8", "replace").splitlines(keepends=True)
        kept = [line for line in lines if (found := LOGGED.match(line)) and int(found[1]) <= step]
        if len(kept) < len(lines):
            with replacing(self._log_path) as file:
                file.write("".join(kept).encode())

    @property
    def _log_path(self) -> Path:
        return self.folder / "log.jsonl"

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
        )


def _words(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())
