"""The endless stream of training examples: item k depends on the seed and on k alone, so a resumed run goes on exactly.

`SceneStream` draws in this process, `prefetched` in one background process that runs ahead by a few batches.
"""

import contextlib
import multiprocessing
import queue
import signal
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from maquette.errors import MaquetteError
from maquette.training.captions import Language, caption
from maquette.training.drawing import draw, semantic_map
from maquette.training.scenes import EXTENT, Scene, Split, sample_scene


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive items of a stream, from `start`."""

    start: int
    pictures: NDArray[np.uint8]  # (n, 128, 128, 3) RGB
    captions: list[str]  # even items English, odd items Chinese
    scenes: list[Scene]
    maps: NDArray[np.int16] | None  # (n, 128, 128), emoji index + 1; only where asked for


@dataclass(frozen=True, slots=True)
class SceneStream:
    """Scenes, pictures and captions by number."""

    seed: int
    split: Split = "train"
    maps: bool = False

    def item(self, k: int) -> tuple[Scene, str]:
        """Scene k and its caption, English for even k, Chinese for odd."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, k))))
        scene = sample_scene(rng, self.split)
        language: Language = "zh" if k % 2 else "en"
        return scene, caption(scene, rng, language)

    def batch(self, start: int, count: int) -> Batch:
        """Items start .. start + count - 1."""
        items = [self.item(k) for k in range(start, start + count)]
        scenes = [scene for scene, _ in items]
        pictures = np.empty((count, EXTENT, EXTENT, 3), np.uint8)
        for picture, scene in zip(pictures, scenes, strict=True):
            picture[:] = draw(scene)
        maps = np.stack([semantic_map(scene) for scene in scenes]) if self.maps else None
        return Batch(start, pictures, [text for _, text in items], scenes, maps)


@contextlib.contextmanager
def prefetched(stream: SceneStream, start: int, count: int, ahead: int = 4) -> Iterator[Iterator[Batch]]:
    """Batches of `count` items from item `start` on, drawn by a background process a few (`ahead`) batches early.

    The process ends with the block, and with this process. What goes wrong in it is raised here as a MaquetteError.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_work, args=(stream, start, count, sender), daemon=True)
    worker.start()
    sender.close()  # the worker holds the only one: the pipe ends when it does
    batches: queue.Queue[Batch | MaquetteError] = queue.Queue(maxsize=ahead)
    stopping = threading.Event()
    reader = threading.Thread(target=_read, args=(receiver, batches, stopping), daemon=True)
    reader.start()
    try:
        yield _take(batches)
    finally:
        stopping.set()
        worker.terminate()
        while reader.is_alive():  # it may wait for room
            with contextlib.suppress(queue.Empty):
                batches.get(timeout=0.05)
        worker.join()
        receiver.close()


def _work(stream: SceneStream, start: int, count: int, sender: "Connection[Batch | MaquetteError, None]") -> None:
    """The background process: draw and send until nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    with contextlib.suppress(BrokenPipeError):
        try:
            while True:
                sender.send(stream.batch(start, count))
                start += count
        except MaquetteError as error:
            sender.send(error)
        except BrokenPipeError:
            raise
        except Exception:
            sender.send(MaquetteError(f"drawing items {start} to {start + count - 1} failed: {traceback.format_exc()}"))


def _read(
    receiver: "Connection[None, Batch | MaquetteError]",
    batches: "queue.Queue[Batch | MaquetteError]",
    stopping: threading.Event,
) -> None:
    """A thread: take batches out of the pipe while others are being used."""
    while not stopping.is_set():
        try:
            item = receiver.recv()
        except (EOFError, OSError):
            item = MaquetteError("the process that draws the pictures was killed: free some memory, then resume")
        batches.put(item)
        if isinstance(item, MaquetteError):
            return


def _take(batches: "queue.Queue[Batch | MaquetteError]") -> Iterator[Batch]:
    while True:
        item = batches.get()
        if isinstance(item, MaquetteError):
            raise item
        yield item
