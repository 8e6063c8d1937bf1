"""Token merging (Bolya & Hoffman 2023, "Token Merging for Fast Stable Diffusion"): alike places attend as one.

One place of every 2 x 2, chosen by chance, stays; the others are compared with these by their keys, and those most
like one are merged into it. The mean place attends, and each of its places is told what it saw.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Denoiser
from maquette.diffusion.process import Level
from maquette.errors import MaquetteError
from maquette.models.unet import UNet
from maquette.nn.attention import Attend, SelfAttention, attending

CELL = 2
MOST = 1 - 1 / CELL**2  # of all places can be merged into others


class Places(NamedTuple):
    """The numbers of the places of a grid: of those that stay, and of all others in their order."""

    stay: Tensor
    others: Tensor

    def to(self, device: torch.device) -> "Places":
        """The same on a device."""
        return Places(self.stay.to(device), self.others.to(device))


def merging(denoise: Denoiser, network: nn.Module, ratio: float) -> Denoiser:
    """The answers of `denoise`, approximately: of the places that a U-Net attends to finest, this share is merged.

    Which places stay is drawn anew for every question, the same for every row and every picture, so that a seed gives
    one picture. Make one for every picture.

    Raises:
        MaquetteError: the network is no U-Net that attends, or more is to be merged than can be.
    """
    level = _finest(network)
    if not 0.0 < ratio <= MOST:
        raise MaquetteError(f"merge: got {ratio:g}; give a share of the places above 0 and up to {MOST:g}")
    layers = [module for module in network.modules() if isinstance(module, SelfAttention)]
    chance = torch.Generator().manual_seed(0)

    def answer(x: Tensor, at: Level, told: Conditioning) -> Tensor:
        size = tuple(math.ceil(side / 2**level) for side in x.shape[2:])
        grid = draw(size[0], size[1], chance).to(x.device)
        with attending({layer: _merged(layer.attend, grid, ratio) for layer in layers}):
            return denoise(x, at, told)

    return answer


def _finest(network: Any) -> int:
    """The level, 0 the highest resolution, at which a U-Net attends first."""
    spec = network.spec if isinstance(network, UNet) else None
    levels = [] if spec is None else [k for k, level in enumerate(spec.down) if any(level) or any(spec.up[-1 - k])]
    if not levels:
        raise MaquetteError(f"merge: only U-Nets that attend can merge places, not this {type(network).__name__}")
    return levels[0]


def draw(rows: int, columns: int, chance: torch.Generator) -> Places:
    """The places of a grid; one of each cell, drawn by chance, stays.

    All is found on the CPU: how many others there are is a question for which an accelerator would be waited for.
    """
    cells = [torch.arange(0, side, CELL) for side in (rows, columns)]
    offsets = torch.randint(CELL, (2, len(cells[0]), len(cells[1])), generator=chance)
    y = (cells[0][:, None] + offsets[0]).clamp(max=rows - 1)
    x = (cells[1][None, :] + offsets[1]).clamp(max=columns - 1)
    stay, moves = (y * columns + x).flatten(), torch.ones(rows * columns, dtype=torch.bool)
    moves[stay] = False
    return Places(stay, moves.nonzero()[:, 0])


def _merged(attend: Attend, grid: Places, ratio: float) -> Attend:
    places = len(grid.stay) + len(grid.others)

    def attend_merged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not q.shape[2] == k.shape[2] == places:
            return attend(q, k, v)
        merge, unmerge = match(k, grid, ratio)
        return unmerge(attend(merge(q), merge(k), merge(v)))

    return attend_merged


Change = Callable[[Tensor], Tensor]


def match(k: Tensor, grid: Places, ratio: float) -> tuple[Change, Change]:
    """What merges (B, heads, L, d) into (B, heads, n, d) by means, and what tells all L places what the n say.

    Those of the places that do not stay whose keys are most like a staying one's, by their cosine, are merged: the
    share `ratio` of all places, if there are so many.
    """
    (batch, heads, places, width), (stay, others) = k.shape, grid
    alike = F.normalize(k.mean(1), dim=-1)  # (B, L, d)
    best, to = (alike[:, others] @ alike[:, stay].mT).max(dim=-1)  # of each of the others
    count = min(int(ratio * places), len(others))
    order = best.argsort(dim=-1, descending=True, stable=True)
    merged, alone = order[:, :count], order[:, count:]

    # The number of each place's group: first those that stay, then those that are left alone.
    group = torch.empty(batch, places, dtype=torch.long, device=k.device)
    group[:, stay] = torch.arange(len(stay), device=k.device)
    of_others = torch.empty_like(to).scatter_(1, merged, to.gather(1, merged))
    rest = torch.arange(len(stay), places - count, device=k.device)
    group[:, others] = of_others.scatter_(1, alone, rest.expand(batch, -1))
    index = group[:, None, :, None].expand(-1, heads, -1, width)
    sizes = torch.zeros(batch, places - count, device=k.device).scatter_add_(1, group, torch.ones_like(group).float())

    def merge(x: Tensor) -> Tensor:
        total = x.new_zeros(batch, heads, places - count, width).scatter_add_(2, index, x)
        return total / sizes.to(x)[:, None, :, None]

    return merge, lambda x: x.gather(2, index)
