"""The bar that shows what is happening; on the error stream, and only where that is a terminal."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Steps(ProgressColumn):
    """Such as "12/20  3.4 it/s", once there are steps to count."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text()
        speed = f"  {task.speed:.1f} it/s" if task.speed else ""
        return Text(f"{task.completed:.0f}/{task.total:.0f}{speed}")


class PaintingBar:
    """What the program does now, and how many of its steps are done."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _Steps(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("starting", total=None)
        self._steps = self._done = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, doing: str) -> None:
        """Say what is done now."""
        self._progress.update(self._task, description=doing.replace("[", r"\["))

    def begin(self, steps: int, batches: int) -> None:
        """Start to count: so many steps for each batch of pictures."""
        self._steps, self._done = steps, 0
        self._progress.reset(self._task, total=steps * batches)
        self.say("reading the words")

    def count(self, step: object) -> None:
        """Count a step; after the last one of a batch, pictures are developed."""
        self._done += 1
        self._progress.update(self._task, completed=self._done)
        self.say("developing" if self._done % self._steps == 0 else "painting")
