"""Pictures that were painted already, kept batch by batch: what takes hours can be broken off and gone on with."""

import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maquette.weights.atomic_file import make_folder, replacing


class Kept:
    """Batches of pictures (n, H, W, 3) in bytes, by the number of their first one, in a folder of their own.

    The folder is named by `what` was painted, so that pictures of something else are never taken for them.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self._folder = folder / f"painted-{sha256(what.encode()).hexdigest()[:16]}"

    def get(self, start: int, count: int) -> Tensor | None:
        """The pictures from `start` on, if so many are there and whole."""
        try:
            pictures = np.load(self._folder / f"{start}.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        fits = pictures.dtype == np.uint8 and pictures.ndim == 4 and len(pictures) == count
        return torch.from_numpy(pictures) if fits else None

    def put(self, start: int, pictures: Tensor) -> None:
        """Keep a batch."""
        make_folder(self._folder)
        with replacing(self._folder / f"{start}.npy") as file:
            np.save(file, pictures.cpu().numpy())

    def clear(self) -> None:
        """Forget them all: what they were painted for is done."""
        shutil.rmtree(self._folder, ignore_errors=True)
