"""The endless stream of training examples: item k depends on the seed and on k alone, so a resumed run goes on exactly.

`SceneStream` draws in this process, `prefetched` in one background process that runs ahead by a few batches.
"""

import contextlib
import multiprocessing
import queue
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event

import numpy as np
from numpy.typing import NDArray

from maquette.errors import MaquetteError
from maquette.training.captions import Language, caption
from maquette.training.drawing import draw, semantic_map
from maquette.training.scenes import EXTENT, Scene, Split, sample_scene

POLL = 0.2  # seconds between looks at whether the other side still lives


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
    """Batches of `count` items from item `start` on, drawn by a background process at most `ahead` + 1 batches early.

    The process ends with the block. What goes wrong in it is raised here: a MaquetteError as itself, anything else
    as a MaquetteError that quotes the worker's traceback.
    """
    context = multiprocessing.get_context("spawn")
    batches: Queue[Batch | Exception] = context.Queue(maxsize=ahead)
    stop = context.Event()
    worker = context.Process(target=_work, args=(stream, start, count, batches, stop), daemon=True)
    worker.start()
    try:
        yield _receive(worker, batches)
    finally:
        stop.set()
        _drain(worker, batches)
        worker.join()
        batches.close()


def _work(stream: SceneStream, start: int, count: int, batches: "Queue[Batch | Exception]", stop: Event) -> None:
    """The background process: draw, wait for room, go on, until told to stop or orphaned."""
    parent = multiprocessing.parent_process()
    while not stop.is_set() and parent is not None and parent.is_alive():
        item: Batch | Exception
        try:
            item = stream.batch(start, count)
        except MaquetteError as error:
            item = error
        except Exception:
            item = MaquetteError(f"drawing batch {start} failed in the background: {traceback.format_exc()}")
        start += count
        while not stop.is_set() and parent.is_alive():
            try:
                batches.put(item, timeout=POLL)
                break
            except queue.Full:
                continue
        if isinstance(item, Exception):
            return
    batches.cancel_join_thread()  # nobody reads what is left


def _receive(worker: SpawnProcess, batches: "Queue[Batch | Exception]") -> Iterator[Batch]:
    while True:
        try:
            item = batches.get(timeout=POLL)
        except queue.Empty:
            if not worker.is_alive():
                raise MaquetteError(
                    f"the process that draws the pictures ended with status {worker.exitcode}: "
                    "look for a lack of memory, then resume"
                ) from None
            continue
        if isinstance(item, Exception):
            raise item
        yield item


def _drain(worker: SpawnProcess, batches: "Queue[Batch | Exception]") -> None:
    """Empty the queue until the worker has noticed and gone."""
    while worker.is_alive():
        with contextlib.suppress(queue.Empty):
            batches.get(timeout=POLL)
