"""Cached latents: scenes are encoded once and kept in half precision, since the first stage no longer changes."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.training.captions import caption
from maquette.training.emoji import fingerprint
from maquette.training.loop import SAVE_EVERY, generator
from maquette.training.scenes import MOST_THINGS, Scene
from maquette.training.stream import Batch, SceneStream
from maquette.weights.atomic_file import replacing

ORDER = 7  # the purpose of an epoch's random numbers

Encode = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) in [-1, 1] -> unscaled latents (B, C, h, w)."""


class Choice(NamedTuple):
    """Which latents of its pool an update learns from, and what is said of them."""

    rows: list[int]
    captions: list[str]
    boxes: NDArray[np.int16] | None = None  # (n, MOST_THINGS, 3): x, y and size in latents, near things first
    close: bool = False


@dataclass(frozen=True)
class Epochs:
    """The choices of all updates: every epoch goes through the `size` latents in a new order and in new words."""

    stream: SceneStream
    size: int
    seed: int
    factor: int | None = None
    """Pixels a latent; with it choices tell where the things are."""

    def batch(self, start: int, count: int) -> Choice:
        """The choice of update start / count, of `count` latents."""
        epoch, place = divmod(start // count, self.size // count)
        rows = _order(self.size, self.seed, epoch)[place * count :][:count].tolist()
        scenes = [self.stream.item(row)[0] for row in rows]
        captions = [self.caption(scene, row, epoch) for scene, row in zip(scenes, rows, strict=True)]
        return Choice(rows, captions, None if self.factor is None else boxes(scenes, self.factor))

    def caption(self, scene: Scene, row: int, epoch: int) -> str:
        """What is said of the scene behind a latent in an epoch."""
        rng = np.random.default_rng((self.seed, epoch, row))
        return caption(scene, rng, "zh" if rng.random() < 0.5 else "en")


def boxes(scenes: Sequence[Scene], factor: int) -> NDArray[np.int16]:
    """Where the things of scenes are in latents of so many pixels, (n, MOST_THINGS, 3) as (x, y, size), zeros where
    there is none; from the left and from the top, whatever a caption names first."""
    found = np.zeros((len(scenes), MOST_THINGS, 3), np.int16)
    for scene, places in zip(scenes, found, strict=True):
        things = sorted(scene.things, key=lambda thing: thing.x + thing.y)
        for thing, place in zip(things, places, strict=False):
            place[:] = thing.x // factor, thing.y // factor, max(1, thing.size // factor)
    return found


@dataclass(frozen=True)
class Turns:
    """The choices of all updates: `count` whole scenes each or, on all but one update in `whole_every` before
    `whole_from`, `close_ups` close-ups."""

    whole: Epochs
    count: int
    close: Epochs | None = None
    close_ups: int = 0
    whole_every: int = 1
    whole_from: int = 0

    def batch(self, start: int, count: int = 1) -> Choice:
        """The choice of update `start`; updates are taken one by one."""
        assert count == 1
        mixed = min(start, self.whole_from if self.close else 0)
        wholes = -(-mixed // self.whole_every) + start - mixed  # before this one
        if self.close is None or start >= self.whole_from or start % self.whole_every == 0:
            return self.whole.batch(wholes * self.count, self.count)
        return self.close.batch((start - wholes) * self.close_ups, self.close_ups)._replace(close=True)


@lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=generator(seed, epoch, ORDER))


@dataclass(frozen=True)
class LatentBatch:
    """What the latent model learns from."""

    latents: Tensor  # (B, C, h, w), unscaled
    captions: list[str]
    boxes: Tensor | None = None  # (B, MOST_THINGS, 3), if the choice tells them


class LatentPool:
    """The latents of items 0 .. size - 1 of a stream, as one file of float16 in `folder`."""

    def __init__(self, folder: Path, stream: SceneStream, size: int, shape: tuple[int, int, int], mark: str) -> None:
        """`mark` names the first stage that encodes: a pool of another one is refused.

        Raises:
            MaquetteError: the folder holds another pool, or the disk has no room for this one.
        """
        self.folder, self.stream, self.size = folder, stream, size
        folder.mkdir(parents=True, exist_ok=True)
        self._record, path = folder / "latents.json", folder / "latents.f16"
        self._told = {"mark": mark, "size": size, "shape": list(shape), "seed": stream.seed}
        self._told |= {"catalogue": fingerprint()}  # what is said of the latents is said anew, of the same emoji
        self.filled = self._known()
        length = size * math.prod(shape) * np.dtype(np.float16).itemsize
        if not path.exists() or path.stat().st_size != length:
            self.filled = 0
            self._record.unlink(missing_ok=True)
            _reserve(path, length)
        self._data: NDArray[np.float16] = np.memmap(str(path), dtype=np.float16, mode="r+", shape=(size, *shape))

    def _known(self) -> int:
        """How many latents the record vouches for."""
        try:
            known = json.loads(self._record.read_bytes())
        except FileNotFoundError:
            return 0
        except ValueError:
            known = None
        if not isinstance(known, dict) or known != {**self._told, "filled": known.get("filled")}:
            raise MaquetteError(
                f"{self._record.parent}: holds the latents of another first stage, stream or font; remove the folder, "
                "then start the stage again"
            )
        return int(known["filled"])

    def fill(self, batches: Iterator[Batch], encode: Encode, to_signed: Callable[[object], Tensor]) -> Iterator[int]:
        """Encode what is missing; yields how many are there after each batch. `batches` begins at `filled`.

        What is there is vouched for every `SAVE_EVERY` seconds: a killed run loses less than a minute.
        """
        saved_at = time.monotonic()
        for batch in batches:
            if self.filled >= self.size:
                break
            end = min(self.size, batch.start + len(batch.pictures))
            assert batch.start == self.filled
            with torch.no_grad():
                latents = encode(to_signed(batch.pictures))
            self._data[batch.start : end] = latents.float().cpu().numpy()[: end - batch.start]
            self.filled = end
            if end == self.size or time.monotonic() - saved_at > SAVE_EVERY:
                self._save()
                saved_at = time.monotonic()
            yield end

    def _save(self) -> None:
        assert isinstance(self._data, np.memmap)
        self._data.flush()
        with replacing(self._record) as file:
            file.write(json.dumps({**self._told, "filled": self.filled}).encode())

    def scale(self) -> float:
        """1 / standard deviation of the latents (Rombach et al. 2022, appendix G): brings them to unit variance."""
        sample = np.asarray(self._data[: min(self.size, 4096)], dtype=np.float64)
        return float(1.0 / sample.std())

    def epochs(self, seed: int, factor: int | None = None) -> Epochs:
        """In which order, and in what words, the latents are learned from; with `factor` boxes are told."""
        return Epochs(self.stream, self.size, seed, factor)

    def __getitem__(self, rows: list[int]) -> Tensor:
        """Latents (n, C, h, w) in float32."""
        return torch.from_numpy(self._data[rows].astype(np.float32))


def chosen(choices: Iterator[Choice], whole: LatentPool, close: LatentPool | None = None) -> Iterator[LatentBatch]:
    """The latents of choices from the pool of whole scenes and that of close-ups."""
    for rows, captions, places, near in choices:
        latents = (close if near and close is not None else whole)[rows]
        yield LatentBatch(latents, captions, None if places is None else torch.from_numpy(places))


def _reserve(path: Path, length: int) -> None:
    """Make a file of `length` bytes, with its room on the disk where the system can: mapped pages cannot fail later."""
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, length)
            file.truncate(length)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise MaquetteError(
            f"{path}: no room for {length >> 20} MiB of latents ({error.strerror}); "
            "free some space, or make the pool smaller"
        ) from error
