"""Cached latents: scenes are encoded once and kept in half precision, since the first stage no longer changes."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.training.captions import caption
from maquette.training.loop import generator
from maquette.training.stream import Batch, SceneStream
from maquette.weights.atomic_file import replacing

Encode = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) in [-1, 1] -> unscaled latents (B, C, h, w)."""


@dataclass(frozen=True)
class LatentBatch:
    """What the latent model learns from."""

    latents: Tensor  # (B, C, h, w), unscaled
    captions: list[str]


class LatentPool:
    """The latents of items 0 .. size - 1 of a stream, as one file of float16 in `folder`."""

    def __init__(self, folder: Path, stream: SceneStream, size: int, shape: tuple[int, int, int], mark: str) -> None:
        """`mark` names the first stage that encodes: a pool of another one is refused."""
        self.stream, self.size = stream, size
        folder.mkdir(parents=True, exist_ok=True)
        self._record = folder / "latents.json"
        told = {"mark": mark, "size": size, "shape": list(shape), "seed": stream.seed}
        known = json.loads(self._record.read_text()) if self._record.exists() else {**told, "filled": 0}
        if {key: known[key] for key in told} != told:
            raise MaquetteError(
                f"{folder}: holds the latents of another first stage or stream; remove it and start the stage again"
            )
        self._told, self.filled = told, int(known["filled"])
        mode = "r+" if (folder / "latents.f16").exists() and self.filled else "w+"
        self._data: NDArray[np.float16] = np.memmap(
            folder / "latents.f16", dtype=np.float16, mode=mode, shape=(size, *shape)
        )

    def fill(self, batches: Iterator[Batch], encode: Encode, to_signed: Callable[[object], Tensor]) -> Iterator[int]:
        """Encode what is missing; yields how many are there after each batch. `batches` begins at `filled`."""
        for batch in batches:
            if self.filled >= self.size:
                break
            end = min(self.size, batch.start + len(batch.pictures))
            with torch.no_grad():
                latents = encode(to_signed(batch.pictures))
            self._data[batch.start : end] = latents.float().numpy()[: end - batch.start]
            self.filled = end
            if end == self.size or end // 8192 != batch.start // 8192:
                self._save()
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

    def batches(self, start: int, count: int, seed: int) -> Iterator[LatentBatch]:
        """Endless batches from update `start` on: every epoch in a new order and in new words."""
        per_epoch = self.size // count
        step, order = start, torch.empty(0)
        epoch = -1
        while True:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = torch.randperm(self.size, generator=generator(seed, epoch, purpose=7))
            place = step % per_epoch * count
            rows = order[place : place + count].tolist()
            captions = [self._caption(row, epoch, seed) for row in rows]
            yield LatentBatch(torch.from_numpy(self._data[rows].astype(np.float32)), captions)
            step += 1

    def _caption(self, row: int, epoch: int, seed: int) -> str:
        scene, _ = self.stream.item(row)
        rng = np.random.default_rng((seed, epoch, row))
        return caption(scene, rng, "zh" if rng.random() < 0.5 else "en")
