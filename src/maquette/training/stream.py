"""The endless stream of training examples: item k depends on the seed and on k alone, so a resumed run goes on exactly.

`SceneStream` draws in this process, `prefetched` in background processes that run ahead by a few batches.
"""

import contextlib
import itertools
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from maquette.errors import MaquetteError
from maquette.training.captions import Language, caption
from maquette.training.drawing import draw, semantic_map
from maquette.training.scenes import CLOSE, EXTENT, Scene, Split, sample_close_up, sample_scene

MOST_WORKERS = 16

Item = TypeVar("Item", covariant=True)


class Source(Protocol[Item]):
    """What can be drawn in another process: it travels there, and its batches come back."""

    def batch(self, start: int, count: int) -> Item:
        """Items start .. start + count - 1, the same wherever they are drawn."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive items of a stream, from `start`."""

    start: int
    pictures: NDArray[np.uint8]  # (n, 128, 128, 3) RGB; close-ups (n, 64, 64, 3)
    captions: list[str]  # even items English, odd items Chinese
    scenes: list[Scene]  # empty where nobody asked for them
    maps: NDArray[np.int16] | None  # (n, 128, 128), emoji index + 1; only where asked for


@dataclass(frozen=True, slots=True)
class SceneStream:
    """Scenes, pictures and captions by number."""

    seed: int
    split: Split = "train"
    maps: bool = False
    scenes: bool = True
    """Whether batches hold the scenes, which take long to travel from another process."""
    close: bool = False
    """Whether they are close-ups of single things."""

    def item(self, k: int) -> tuple[Scene, str]:
        """Scene k and its caption, English for even k, Chinese for odd."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, k))))
        scene = (sample_close_up if self.close else sample_scene)(rng, self.split)
        language: Language = "zh" if k % 2 else "en"
        return scene, caption(scene, rng, language)

    def batch(self, start: int, count: int) -> Batch:
        """Items start .. start + count - 1."""
        items = [self.item(k) for k in range(start, start + count)]
        scenes = [scene for scene, _ in items]
        extent = CLOSE if self.close else EXTENT
        pictures = np.empty((count, extent, extent, 3), np.uint8)
        for picture, scene in zip(pictures, scenes, strict=True):
            picture[:] = draw(scene)
        maps = np.stack([semantic_map(scene) for scene in scenes]) if self.maps else None
        return Batch(start, pictures, [text for _, text in items], scenes if self.scenes else [], maps)


def processors() -> int:
    """How many processes may draw while another one learns: all cores but one, and not above `MOST_WORKERS`."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, max(1, usable - 1))


@contextlib.contextmanager
def prefetched(
    source: Source[Item], start: int, count: int, *, workers: int = 1, ahead: int = 4
) -> Iterator[Iterator[Item]]:
    """Batches of `count` items from item `start` on, drawn in the background a few (`ahead`) batches early.

    The processes take batches in turn: their number changes nothing but the speed. They end with the block, and with
    this process. What goes wrong in them is raised here as a MaquetteError.
    """
    context = multiprocessing.get_context("spawn")
    processes: list[Any] = []
    receivers: list[Connection[Any, Any]] = []
    batches: queue.Queue[Item | MaquetteError] = queue.Queue(maxsize=ahead)
    stopping = threading.Event()
    reader = threading.Thread(target=_read, args=(receivers, batches, stopping), daemon=True)
    try:
        for number in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            receivers.append(receiver)
            steps = (start + number * count, count, workers * count)
            processes.append(context.Process(target=_work, args=(source, *steps, sender), daemon=True))
            processes[-1].start()
            sender.close()  # the process holds the only one: the pipe ends when it does
        reader.start()
        yield _take(batches)
    finally:
        stopping.set()
        for process in processes:
            process.terminate()
        while reader.is_alive():  # it may wait for room
            with contextlib.suppress(queue.Empty):
                batches.get(timeout=0.05)
        for process in processes:
            process.join()
        for receiver in receivers:
            receiver.close()


def _work(source: Source[Any], start: int, count: int, stride: int, sender: "Connection[Any, None]") -> None:
    """A background process: draw and send every `stride` items until nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    with contextlib.suppress(BrokenPipeError):
        try:
            while True:
                sender.send(source.batch(start, count))
                start += stride
        except MaquetteError as error:
            sender.send(error)
        except BrokenPipeError:
            raise
        except Exception:
            sender.send(MaquetteError(f"drawing items {start} to {start + count - 1} failed: {traceback.format_exc()}"))


def _read(receivers: "Sequence[Connection[None, Any]]", batches: "queue.Queue[Any]", stopping: threading.Event) -> None:
    """A thread: take batches out of the pipes, in turn, while others are being used."""
    for receiver in itertools.cycle(receivers):
        if stopping.is_set():
            return
        try:
            item = receiver.recv()
        except (EOFError, OSError):
            item = MaquetteError("the process that draws the pictures was killed: free some memory, then resume")
        batches.put(item)
        if isinstance(item, MaquetteError):
            return


def _take(batches: "queue.Queue[Any]") -> Iterator[Any]:
    while True:
        item = batches.get()
        if isinstance(item, MaquetteError):
            raise item
        yield item
