"""The bar that shows what is happening; on the error stream, and only where that is a terminal."""

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.segment import Segments
from rich.text import Text

from maquette.cli.plain import one_line
from maquette.cli.terminal import FORGET, TerminalPicture, place, protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from maquette.diffusion.singlestep import Step


class _Steps(ProgressColumn):
    """Such as "12/20  3.4 it/s", once there are steps to count."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text()
        speed = f"  {task.speed:.1f} it/s" if task.speed else ""
        return Text(f"{task.completed:.0f}/{task.total:.0f}{speed}")


class _Bar(Progress):
    """A bar below a picture, where there is one."""

    picture: TerminalPicture | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.picture is not None:
            yield self.picture
        yield from super().get_renderables()


class PaintingBar:
    """What the program does now, how many of its steps are done, and, if asked, what the picture looks like so far."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _Steps(), TimeRemainingColumn())
        self._progress = _Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("starting", total=None)
        self._steps = self._done = 0
        self._preview: Callable[[Tensor], Sequence[Image]] | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._progress.picture is not None and self._progress.picture.protocol == "kitty":
            self._progress.console.print(Segments([FORGET]), end="")

    def say(self, doing: str) -> None:
        """Say what is done now."""
        self._progress.update(self._task, description=one_line(doing).replace("[", r"\["))

    def begin(self, steps: int, batches: int) -> None:
        """Start to count: so many steps for each batch of pictures; 0 where nobody can know."""
        self._steps, self._done = steps, 0
        self._progress.reset(self._task, total=steps * batches or None)
        self.say("reading the words")

    def watch(self, preview: "Callable[[Tensor], Sequence[Image]]") -> None:
        """Show each step's clean estimate as `preview` draws it, if the terminal can show pictures."""
        self._preview = preview if protocol(self._progress.console) is not None else None

    def count(self, step: "Step") -> None:
        """Count a step; after the last one of a batch, pictures are developed."""
        self._done += 1
        if self._preview is not None:
            self._progress.picture = place(self._preview(step.x0[:1])[0], self._progress.console)
        self._progress.update(self._task, completed=self._done)
        self.say("developing" if self._steps and self._done % self._steps == 0 else "painting")
