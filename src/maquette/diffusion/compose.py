"""Compose guided denoisers in space and in time."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning, Window
from maquette.diffusion.denoise import Denoiser, Guided
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


def release(guided: Guided, original: Tensor, mask: Tensor, levels: Sequence[Level]) -> Guided:
    """Inpaint by degrees (Levin & Fried 2023, Differential Diffusion, 2306.00950): ``mask`` says how much is new.

    Where it is m, ``original`` stays until the last m of the steps, of which ``levels`` are the noisiest ones in order.
    With m 0 and 1 alone it is ``keep``.
    """
    n = len(levels)
    return by_step([keep(guided, original, (mask * n >= n - k).to(mask)) for k in range(n)], levels)


def blend(regions: Sequence[tuple[Guided, Tensor]]) -> Guided:
    """Regions: the mean of several denoisers, each weighted by its mask; the masks must cover every place."""
    total = sum(mask for _, mask in regions)
    if not isinstance(total, Tensor) or not bool((total > 0.0).all()):
        raise MaquetteError("blend: the masks leave a place without any region; add one that covers everything")
    weighted = [(guided, mask / total) for guided, mask in regions]

    def blended(x: Tensor, level: Level) -> Tensor:
        return torch.stack([guided(x, level) * weight.to(x) for guided, weight in weighted]).sum(0)

    return blended


def by_step(guided: Sequence[Guided], levels: Sequence[Level]) -> Guided:
    """Ask the k-th from the k-th level on: prompts that change while a picture is painted.

    ``levels`` are the noisiest of each of the steps, in order; a level between two belongs to the step before it.
    """
    times = [-float(level.t) for level in levels]
    if len(guided) != len(times) or not guided:
        raise MaquetteError(f"by_step: got {len(guided)} denoisers for {len(times)} steps; give one for each")
    if all(each is guided[0] for each in guided):
        return guided[0]
    return lambda x, level: guided[max(bisect_right(times, -float(level.t)) - 1, 0)](x, level)


def tiled(denoise: Denoiser, tile: tuple[int, int], overlap: int) -> Denoiser:
    """Answer for a large picture by windows of ``tile`` (rows, columns) that overlap (MultiDiffusion, 2302.08113).

    Where windows overlap, their answers are averaged with weights that fall off towards their edges; each is told
    the part of ``concat`` that lies under it, and where it lies. Sizes are those of ``x``.
    """
    if min(tile) <= overlap or overlap < 0:
        raise MaquetteError(f"tiled: got tiles of {tile} that overlap by {overlap}; the overlap must be smaller")

    def denoise_tiles(x: Tensor, level: Level, conditioning: Conditioning) -> Tensor:
        if conditioning.control or conditioning.features:
            raise MaquetteError("tiled: got what a control says of the whole picture; let controls wrap what is tiled")
        windows = [
            (slice(top, top + tile[0]), slice(left, left + tile[1]))
            for top in _starts(x.shape[-2], tile[0], overlap)
            for left in _starts(x.shape[-1], tile[1], overlap)
        ]
        total, weights = torch.zeros_like(x), x.new_zeros(x.shape[-2:])
        for rows, columns in windows:
            part = replace(conditioning, window=Window(rows, columns, (x.shape[-2], x.shape[-1])))
            if conditioning.concat is not None:
                part = replace(part, concat=conditioning.concat[..., rows, columns])
            answer = denoise(x[..., rows, columns].contiguous(), level, part)
            weight = torch.outer(*(_hill(size, overlap, answer) for size in answer.shape[-2:]))
            total[..., rows, columns] += answer * weight
            weights[rows, columns] += weight
        return total / weights

    return denoise_tiles


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where windows begin that cover ``size``, at equal distances, none beyond the end."""
    count = max(-(-(size - overlap) // (tile - overlap)), 1)
    last = max(size - tile, 0)
    return sorted({round(k * last / max(count - 1, 1)) for k in range(count)})


def _hill(size: int, overlap: int, like: Tensor) -> Tensor:
    """Weights along a window's side: 1 inside, falling linearly over the overlap, never 0."""
    place = torch.arange(size, device=like.device, dtype=like.dtype)
    edge = torch.minimum(place, size - 1 - place) + 1
    return (edge / (overlap + 1)).clamp(max=1.0)


def handover(before: Guided, after: Guided, time: float) -> Guided:
    """Ask ``before`` while the time is above ``time``, then ``after``: a refiner, or a prompt that changes."""
    return lambda x, level: (before if level.t > time else after)(x, level)
