"""Compose guided denoisers in space and in time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from maquette.diffusion.denoise import Guided
from maquette.diffusion.process import Level
from maquette.errors import MaquetteError


def keep(guided: Guided, original: Tensor, mask: Tensor) -> Guided:
    """Inpaint: paint where ``mask`` is 1, and answer with ``original`` where it is 0.

    ``mask`` broadcasts against ``original`` (B, C, H, W). A schedule that ends clean ends with ``original`` bit for bit
    where the mask is 0.
    """
    if not bool(((mask >= 0.0) & (mask <= 1.0)).all()):
        raise MaquetteError("keep: got a mask outside of [0, 1]; 1 marks what to paint, 0 what to keep")

    def kept(x: Tensor, level: Level) -> Tensor:
        return torch.lerp(original.to(x), guided(x, level), mask.to(x).expand_as(x))

    return kept


def blend(regions: Sequence[tuple[Guided, Tensor]]) -> Guided:
    """Regions: the mean of several denoisers, each weighted by its mask; the masks must cover every place."""
    total = sum(mask for _, mask in regions)
    if not isinstance(total, Tensor) or not bool((total > 0.0).all()):
        raise MaquetteError("blend: the masks leave a place without any region; add one that covers everything")
    weighted = [(guided, mask / total) for guided, mask in regions]

    def blended(x: Tensor, level: Level) -> Tensor:
        return torch.stack([guided(x, level) * weight.to(x) for guided, weight in weighted]).sum(0)

    return blended


def handover(before: Guided, after: Guided, time: float) -> Guided:
    """Ask ``before`` while the time is above ``time``, then ``after``: a refiner, or a prompt that changes."""
    return lambda x, level: (before if level.t > time else after)(x, level)
