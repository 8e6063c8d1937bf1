"""Networks that enlarge pictures (ESRGAN, Real-ESRGAN), opened from their published files and run by tiles."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.engine.build import fill
from maquette.engine.hub import fetch, is_name
from maquette.engine.model import Model
from maquette.engine.parts import split
from maquette.errors import MaquetteError
from maquette.models.rrdb import RRDB
from maquette.weights.open_file import open_weights
from maquette.weights.place import existing

TILE = 256  # pixels of the given picture that are enlarged at once, along each side
OVERLAP = 32  # pixels more around a tile, which are cut off: farther away hardly anything is seen


@dataclass(frozen=True)
class Upscaler:
    """A network that makes pictures `scale` times as large; with a scale of 1 it mends them."""

    path: Path
    network: RRDB

    @property
    def scale(self) -> int:
        return self.network.spec.scale

    @torch.no_grad()
    def enlarge(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> (B, 3, scale H, scale W), float32, within [0, 1]."""
        spec = self.network.spec
        batch, channels, height, width = pictures.shape
        if channels != spec.channels:
            raise MaquetteError(f"{self.path}: enlarges pictures of {spec.channels} channels, and got {channels}")
        sides = [-side % spec.unshuffle for side in (width, height)]
        padded = F.pad(pictures, (0, sides[0], 0, sides[1]), mode="replicate")
        large = torch.empty(batch, channels, self.scale * height, self.scale * width)
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                self._enlarge_tile(padded, large, top, left)
        return large.clamp_(0, 1)

    def _enlarge_tile(self, pictures: Tensor, large: Tensor, top: int, left: int) -> None:
        """Put the enlarged tile that begins at (`top`, `left`) into its place."""
        first = max(top - OVERLAP, 0), max(left - OVERLAP, 0)
        part = pictures[..., first[0] : top + TILE + OVERLAP, first[1] : left + TILE + OVERLAP]
        answer = self.network(part)[..., self.scale * (top - first[0]) :, self.scale * (left - first[1]) :]
        place = large[..., self.scale * top :, self.scale * left :][..., : self.scale * TILE, : self.scale * TILE]
        place.copy_(answer[..., : place.shape[2], : place.shape[3]])


def upscaler_beside(model: Model, name: str) -> Upscaler:
    """The network of this name, where a model is and in its precision; it stays open with the model's controls."""
    upscaler: Upscaler = model.controls.get(
        f"upscaler {name}", lambda: open_upscaler(name, device=model.device, dtype=model.dtype)
    )
    return upscaler


def _find(name: str | Path) -> Path:
    if (path := existing(name)) is not None:
        return path
    return fetch(str(name)) if is_name(str(name)) else Path(name)


def open_upscaler(name: str | Path, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Upscaler:
    """Open a network that enlarges pictures, told by its tensors; `name` is a file or a name of the hub.

    Raises:
        MaquetteError: there is no such file, it is damaged, or holds something else.
    """
    path = _find(name)
    part = next((part for part in split(open_weights(path), path).parts if part.kind.role == "upscaler"), None)
    if part is None:
        raise MaquetteError(f"{path}: holds no network that enlarges pictures (ESRGAN, Real-ESRGAN); give another file")
    network: RRDB = part.network()
    return Upscaler(path, fill(network, part.read(network), device or torch.device("cpu"), dtype))
