"""Pictures as sequences of patches (Dosovitskiy et al. 2021), and where each patch stands."""

import torch
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.nn.embed import sinusoids


def grid_of(x: Tensor, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in (B, C, H, W); an error if they do not come out even."""
    height, width = x.shape[2:]
    if height % patch or width % patch:
        raise MaquetteError(
            f"the network cuts its input into patches of {patch} x {patch}, and {height} x {width} (height x width) "
            f"is no multiple of that; choose a size that is"
        )
    return height // patch, width // patch


def unpatchify(tokens: Tensor, rows: int, columns: int, patch: int) -> Tensor:
    """(B, rows * columns, patch * patch * C), channels innermost -> (B, C, rows * patch, columns * patch)."""
    pixels = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, (rows, columns))  # B, rows, columns, p, p, C
    return pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def grid_positions(rows: int, columns: int, width: int, device: torch.device | None = None) -> Tensor:
    """Where each patch stands, (rows * columns, width): sines then cosines of its column, then of its row.

    The fixed embedding of He et al. 2022 (MAE), which DiT and SD3 took over.
    """
    column = torch.arange(columns, device=device).repeat(rows)
    row = torch.arange(rows, device=device).repeat_interleave(columns)
    parts = []
    for position in (column, row):
        cosines, sines = sinusoids(position, width // 2).chunk(2, dim=-1)
        parts += [sines, cosines]
    return torch.cat(parts, dim=-1)
