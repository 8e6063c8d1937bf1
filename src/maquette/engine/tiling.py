"""Large pictures through the first stage by tiles, in little memory and without seams.

Two things tie a place of the autoencoder to places far away. Attention stands where the resolution is lowest: that part
runs whole. Group norms need the mean and the variance of the whole picture: all tiles use the same ones, and measure
what they should have been; where the two differ too much, the tiles are computed again with what was measured. Each
round makes at least one more norm exact, so that this ends at the untiled picture; small crops give the first guess,
and a few rounds are enough. Tiles overlap by as far as the convolutions look, so that nothing is blended.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.norm import GroupNorm
from maquette.nn.pyramid import Decoder, Encoder, SpatialAttention
from maquette.nn.resnet import Downsample, ResBlock, Upsample

TILE = 64  # side of a tile, in places of the latent
CROPS = 4  # along each side of a picture, as long as a tile together
ROUNDS = 12  # at most
TOLERANCE = 5e-3  # of means and deviations, in deviations: pictures are then within 1/255 of the untiled one


class Moments(NamedTuple):
    """The mean and the variance (with the norm's epsilon) of each of its groups, (groups,) float64."""

    mean: Tensor
    variance: Tensor

    def times(self, correction: "Moments") -> "Moments":
        return Moments(self.mean + correction.mean, self.variance * correction.variance)

    def over(self, guess: "Moments") -> "Moments":
        """The correction that makes these of a guess."""
        return Moments(self.mean - guess.mean, self.variance / guess.variance)

    def distance(self, true: "Moments") -> float:
        """The largest distance from the true means, and deviations, in deviations."""
        means = (self.mean - true.mean).abs() / true.variance.sqrt()
        return float(torch.maximum(means, ((self.variance / true.variance).sqrt() - 1).abs()).max())


class Tile(NamedTuple):
    """What is computed, and which part of it is kept: (first, last + 1) row, then column, in places of the latent."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    kept_rows: tuple[int, int]
    kept_columns: tuple[int, int]

    def read(self, x: Tensor, scale: int) -> Tensor:
        """The part of a whole map, `scale` times as fine as the latent, that the tile is computed from."""
        return x[..., _slice(self.rows, 0, scale), _slice(self.columns, 0, scale)]

    def kept(self, part: Tensor) -> Tensor:
        """The part of what was computed, at any resolution, that belongs to this tile alone."""
        scale = part.shape[-1] / (self.columns[1] - self.columns[0])
        rows, columns = (self.kept_rows, self.rows[0]), (self.kept_columns, self.columns[0])
        return part[..., _slice(*rows, scale), _slice(*columns, scale)]

    def write(self, whole: Tensor, part: Tensor, scale: int) -> None:
        """Put what was computed into its place of a whole map, `scale` times as fine as the latent."""
        whole[..., _slice(self.kept_rows, 0, scale), _slice(self.kept_columns, 0, scale)] = self.kept(part)


def _slice(bounds: tuple[int, int], origin: int, scale: float) -> slice:
    return slice(*(int((bound - origin) * scale) for bound in bounds))


@contextmanager
def in_tiles(first_stage: Any, side: int = TILE) -> Iterator[None]:
    """Let an autoencoder compute by tiles of `side` places of the latent meanwhile, one picture after the other."""
    halves = {first_stage.encoder: _encode, first_stage.decoder: _decode}
    try:
        for half, compute in halves.items():
            half.forward = lambda x, half=half, compute=compute: torch.cat(
                [compute(half, one, side) for one in x.split(1)]
            )
        yield
    finally:
        for half in halves:
            del half.forward


def _decode(decoder: Decoder, z: Tensor, side: int) -> Tensor:
    """Whole up to the last attention and the first change of resolution, then by tiles."""
    blocks = decoder.blocks
    attention = max((k for k, block in enumerate(blocks) if isinstance(block, SpatialAttention)), default=-1)
    first = next((k for k, block in enumerate(blocks) if k > attention and isinstance(block, Upsample)), len(blocks))
    x = decoder.conv_in(z)
    for block in blocks[:first]:
        x = decoder.run(block, x)

    def finish(part: Tensor) -> Tensor:
        for block in blocks[first:]:
            part = decoder.run(block, part)
        return decoder.leave(part)

    halo = _reach([*blocks[first:], decoder.conv_out])
    scale = 1 << sum(isinstance(block, Upsample) for block in blocks[first:])
    return _by_tiles(finish, [*blocks[first:], decoder.norm_out], x, _tiles(x.shape[2:], side, halo), 1, scale)


def _encode(encoder: Encoder, x: Tensor, side: int) -> Tensor:
    """By tiles down to the lowest resolution without attention, then whole."""
    blocks = encoder.blocks
    attention = next((k for k, block in enumerate(blocks) if isinstance(block, SpatialAttention)), len(blocks))
    last = max((k for k, block in enumerate(blocks[:attention]) if isinstance(block, Downsample)), default=-1) + 1

    def begin(part: Tensor) -> Tensor:
        part = encoder.conv_in(part)
        for block in blocks[:last]:
            part = encoder.run(block, part)
        return part

    scale = 1 << sum(isinstance(block, Downsample) for block in blocks[:last])
    size = [side // scale for side in x.shape[2:]]
    if any(length % scale for length in x.shape[2:]):
        side = max(x.shape)  # the last rows would be halved unevenly: one tile
    x = _by_tiles(begin, blocks[:last], x, _tiles(size, side, _reach([encoder.conv_in, *blocks[:last]])), scale, 1)
    for block in blocks[last:]:
        x = encoder.run(block, x)
    return encoder.leave(x)


def _reach(layers: Sequence[nn.Module]) -> int:
    """How many places of the latent an edge spoils through layers that only ever refine, or only ever coarsen."""
    spoiled, scale = 0, 1
    for layer in layers:
        match layer:
            case ResBlock():
                spoiled += 2
            case Upsample():
                spoiled, scale = 2 * spoiled + 1, 2 * scale
            case Downsample():
                spoiled = spoiled // 2 + 1
            case _:
                spoiled += 1
    return math.ceil(spoiled / scale)


def _tiles(size: Sequence[int], side: int, halo: int) -> list[Tile]:
    """Tiles of about equal size, at most `side` without what they overlap by, that cover a latent (rows, columns)."""
    bounds = []
    for length in size:
        count = math.ceil(length / side)
        cuts = [round(k * length / count) for k in range(count + 1)]
        bounds.append([((max(a - halo, 0), min(b + halo, length)), (a, b)) for a, b in pairwise(cuts)])
    return [Tile(rows, columns, kept_r, kept_c) for rows, kept_r in bounds[0] for columns, kept_c in bounds[1]]


def _by_tiles(
    compute: Callable[[Tensor], Tensor],
    layers: Sequence[nn.Module],
    x: Tensor,
    tiles: Sequence[Tile],
    scale_in: int,
    scale_out: int,
) -> Tensor:
    """`compute(x)` tile by tile, where x and the answer are so many times as fine as the latent."""
    if len(tiles) == 1:
        return compute(x)
    norms = [module for layer in layers for module in layer.modules() if isinstance(module, GroupNorm)]
    crops = _crops(x, scale_in, tiles[0])
    corrections = [Moments(torch.zeros(()), torch.ones(()))] * len(norms)
    size = [length * scale_out // scale_in for length in x.shape[2:]]
    whole: Tensor | None = None
    for _ in range(ROUNDS):
        sampled = [_Tally(norm) for norm in norms]
        with _normalising(norms, [_and_correct(*each) for each in zip(sampled, corrections, strict=True)]):
            compute(crops)
        used = [tally.moments.times(each) for tally, each in zip(sampled, corrections, strict=True)]
        seen = [_Tally(norm) for norm in norms]
        for tile in tiles:
            with _normalising(norms, [_and_use(tile, *each) for each in zip(seen, used, strict=True)]):
                part = compute(tile.read(x, scale_in).contiguous(memory_format=torch.channels_last))
            if whole is None:
                whole = part.new_empty((1, part.shape[1], *size)).contiguous(memory_format=torch.channels_last)
            tile.write(whole, part, scale_out)
        if all(each.distance(tally.moments) <= TOLERANCE for each, tally in zip(used, seen, strict=True)):
            break
        corrections = [tally.moments.over(guess.moments) for tally, guess in zip(seen, sampled, strict=True)]
    assert whole is not None
    return whole


def _crops(x: Tensor, scale: int, tile: Tile) -> Tensor:
    """Small parts from all over a picture, as a batch that takes no more memory than the tile."""
    sides = [max((b - a) // CROPS, 1) * scale for a, b in (tile.kept_rows, tile.kept_columns)]
    rows, columns = (
        [k * (length - side) // (CROPS - 1) // scale * scale for k in range(CROPS)]
        for length, side in zip(x.shape[2:], sides, strict=True)
    )
    parts = [x[..., top : top + sides[0], left : left + sides[1]] for top in rows for left in columns]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


class _Tally:
    """The moments of all that a norm is shown."""

    def __init__(self, norm: GroupNorm) -> None:
        self.groups, self.eps, self.count = norm.num_groups, norm.eps, 0
        self.sum: Any = 0.0  # plain numbers until something is added: where the norm's weight is says nothing, for
        self.squares: Any = 0.0  # streamed blocks have theirs nowhere between their runs

    def add(self, x: Tensor) -> None:
        exact = torch.promote_types(x.dtype, torch.float32)
        total = x.sum(dim=(2, 3), dtype=exact).to(_exact(x))
        squares = torch.linalg.vector_norm(x, dim=(2, 3), dtype=exact).to(_exact(x)).square()
        self.count += x.numel() // self.groups
        self.sum, self.squares = (
            whole + each.view(len(x), self.groups, -1).sum(dim=(0, 2))
            for whole, each in ((self.sum, total), (self.squares, squares))
        )

    @property
    def moments(self) -> Moments:
        mean = self.sum / self.count
        return Moments(mean, (self.squares / self.count - mean**2).clamp(min=0.0) + self.eps)


def _exact(x: Tensor) -> torch.dtype:
    """What sums over a whole picture are kept in: float64, which Apple's GPUs do not have."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _and_correct(tally: _Tally, correction: Moments) -> Callable[[Tensor], Moments]:
    """What a norm is to use for a batch of crops: their own moments, corrected."""

    def choose(x: Tensor) -> Moments:
        tally.add(x)
        return tally.moments.times(correction)

    return choose


def _and_use(tile: Tile, tally: _Tally, used: Moments) -> Callable[[Tensor], Moments]:
    """What a norm is to use for a tile: what all tiles use; what it should have used is tallied."""

    def choose(x: Tensor) -> Moments:
        tally.add(tile.kept(x))
        return used

    return choose


@contextmanager
def _normalising(norms: Sequence[GroupNorm], chosen: Sequence[Callable[[Tensor], Moments]]) -> Iterator[None]:
    """Let norms use the moments that are chosen for what they are shown."""
    try:
        for norm, choose in zip(norms, chosen, strict=True):
            norm.normalise = partial(_normalise, norm, choose)
        yield
    finally:
        for norm in norms:
            norm.normalise = None


def _normalise(norm: GroupNorm, choose: Callable[[Tensor], Moments], x: Tensor) -> Tensor:
    exact = torch.promote_types(x.dtype, torch.float32)
    mean, variance = (each.to(exact).repeat_interleave(x.shape[1] // norm.num_groups) for each in choose(x))
    return F.batch_norm(x, mean, variance, norm.weight.to(exact), norm.bias.to(exact), eps=0.0)
