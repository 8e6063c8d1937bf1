"""Large pictures through the first stage by tiles, in little memory and without seams.

Two things tie a place of the autoencoder to places far away. Attention stands where the resolution is lowest: that part
runs whole. Group norms need the mean and the variance of the whole picture: all tiles use the same ones, and measure
what they should have been; where the two differ too much, the tiles are computed again with what was measured. Each
round makes at least one more norm exact, so that this ends at the untiled picture; small crops give the first guess,
and a few rounds are enough. Tiles overlap by as far as the convolutions look, so that nothing is blended. A map between
two resolutions is kept where memory allows: what lies between two of them agrees sooner, and overlaps by less.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.norm import GroupNorm, moments
from maquette.nn.pyramid import Decoder, Encoder, SpatialAttention
from maquette.nn.resnet import Downsample, ResBlock, Upsample

TILE = 64  # side of a tile, in places of the latent
CROPS = 4  # along each side of a picture, hardly longer than a tile together
ROUNDS = 12  # at most
KEPT = 1 << 29  # bytes, at most, of a map between two resolutions
TOLERANCE = 3e-3  # of means and deviations, in deviations: pictures are then within 1/255 of the untiled one


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


class Layer(NamedTuple):
    """A part of the network, and how it is run."""

    module: nn.Module
    call: Callable[[Tensor], Tensor]


class Tile(NamedTuple):
    """What is computed, and which part of it is kept: (first, last + 1) row, then column, in places of the map where it
    is coarsest: the latent's, if nothing between was kept."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    kept_rows: tuple[int, int]
    kept_columns: tuple[int, int]

    def read(self, x: Tensor, scale: int) -> Tensor:
        """The part of a whole map, `scale` times as fine, that the tile is computed from."""
        return x[..., _slice(self.rows, 0, scale), _slice(self.columns, 0, scale)]

    def kept(self, part: Tensor) -> Tensor:
        """The part of what was computed, at any resolution, that belongs to this tile alone."""
        scale = part.shape[-1] / (self.columns[1] - self.columns[0])
        rows, columns = (self.kept_rows, self.rows[0]), (self.kept_columns, self.columns[0])
        return part[..., _slice(*rows, scale), _slice(*columns, scale)]

    def write(self, whole: Tensor, part: Tensor, scale: int) -> None:
        """Put what was computed into its place of a whole map, `scale` times as fine."""
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
    end = Layer(nn.ModuleList([decoder.norm_out, decoder.conv_out]), decoder.leave)
    for part in _parts([*_layers(decoder, blocks[first:]), end], x):
        scale = 1 << sum(isinstance(layer.module, Upsample) for layer in part)
        x = _by_tiles(part, x, _tiles(x.shape[2:], side, _reach(part)), 1, scale)
        side *= scale
    return x


def _encode(encoder: Encoder, x: Tensor, side: int) -> Tensor:
    """By tiles down to the lowest resolution without attention, then whole."""
    blocks = encoder.blocks
    attention = next((k for k, block in enumerate(blocks) if isinstance(block, SpatialAttention)), len(blocks))
    last = max((k for k, block in enumerate(blocks[:attention]) if isinstance(block, Downsample)), default=-1) + 1
    whole = 1 << sum(isinstance(block, Downsample) for block in blocks[:last])
    side *= whole
    if any(length % whole for length in x.shape[2:]):
        side = whole * max(x.shape)  # the last rows would be halved unevenly: one tile
    for part in _parts([Layer(encoder.conv_in, encoder.conv_in), *_layers(encoder, blocks[:last])], x):
        scale = 1 << sum(isinstance(layer.module, Downsample) for layer in part)
        side //= scale
        x = _by_tiles(part, x, _tiles([length // scale for length in x.shape[2:]], side, _reach(part)), scale, 1)
    for block in blocks[last:]:
        x = encoder.run(block, x)
    return encoder.leave(x)


def _layers(half: Encoder | Decoder, blocks: Sequence[nn.Module]) -> list[Layer]:
    return [Layer(block, partial(_run, half, block)) for block in blocks]


def _run(half: Encoder | Decoder, block: nn.Module, x: Tensor) -> Tensor:
    return cast(Tensor, half.run(block, x))


def _parts(layers: Sequence[Layer], x: Tensor) -> Iterator[list[Layer]]:
    """The layers cut where the resolution changes and the map between, computed from `x`, is small enough to keep."""
    part: list[Layer] = []
    places = x.shape[2] * x.shape[3]
    for layer in layers:
        module = layer.module
        if isinstance(module, Upsample):
            if part and places * module.conv.in_channels * x.itemsize <= KEPT:
                yield part
                part = []
            places *= 4
        part.append(layer)
        if isinstance(module, Downsample):
            places //= 4
            if places * module.conv.out_channels * x.itemsize <= KEPT:
                yield part
                part = []
    if part:
        yield part


def _reach(layers: Sequence[Layer]) -> int:
    """How many places, as coarse as any, an edge spoils through layers that only ever refine, or only ever coarsen."""
    spoiled, scale = 0, 1
    for layer in layers:
        match layer.module:
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
    """Tiles of about equal size, at most `side` without what they overlap by, that cover a map (rows, columns)."""
    bounds = []
    for length in size:
        count = math.ceil(length / side)
        cuts = [round(k * length / count) for k in range(count + 1)]
        bounds.append([((max(a - halo, 0), min(b + halo, length)), (a, b)) for a, b in pairwise(cuts)])
    return [Tile(rows, columns, kept_r, kept_c) for rows, kept_r in bounds[0] for columns, kept_c in bounds[1]]


def _by_tiles(layers: Sequence[Layer], x: Tensor, tiles: Sequence[Tile], scale_in: int, scale_out: int) -> Tensor:
    """What layers make of x tile by tile, where x and that are so many times as fine as the tiles say."""

    def compute(part: Tensor) -> Tensor:
        for layer in layers:
            part = layer.call(part)
        return part

    if len(tiles) == 1:
        return compute(x)
    norms = [module for layer in layers for module in layer.module.modules() if isinstance(module, GroupNorm)]
    crops, inner = _crops(x, scale_in, tiles[0], _reach(layers))
    corrections = [Moments(torch.zeros(()), torch.ones(()))] * len(norms)
    size = [length * scale_out // scale_in for length in x.shape[2:]]
    whole: Tensor | None = None
    for _ in range(ROUNDS):
        sampled = [_Tally(norm) for norm in norms]
        with _normalising(norms, [_and_correct(inner, *each) for each in zip(sampled, corrections, strict=True)]):
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


def _crops(x: Tensor, scale: int, tile: Tile, halo: int) -> tuple[Tensor, Tile]:
    """Parts from all over a picture, as a batch of about a tile's size, and what of each its edges do not spoil."""
    sides = [
        min((kept[1] - kept[0]) // CROPS + 2 * halo, (read[1] - read[0]) // CROPS + 2, length // scale)
        for kept, read, length in zip(tile[2:], tile[:2], x.shape[2:], strict=True)
    ]
    rows, columns = (
        [k * (length // scale - side) // (CROPS - 1) * scale for k in range(CROPS)]
        for length, side in zip(x.shape[2:], sides, strict=True)
    )
    height, width = (side * scale for side in sides)
    parts = [x[..., top : top + height, left : left + width] for top in rows for left in columns]
    inner = [(edge, side - edge) for side in sides for edge in [min(halo, (side - 1) // 2)]]
    batch = torch.cat(parts).contiguous(memory_format=torch.channels_last)
    return batch, Tile((0, sides[0]), (0, sides[1]), inner[0], inner[1])


class _Tally:
    """The moments of all that a norm is shown."""

    def __init__(self, norm: GroupNorm) -> None:
        self.groups, self.eps, self.count = norm.num_groups, norm.eps, 0
        self.sum: Any = 0.0  # plain numbers until something is added: where the norm's weight is says nothing, for
        self.squares: Any = 0.0  # streamed blocks have theirs nowhere between their runs

    def add(self, x: Tensor) -> None:
        mean, variance = moments(x, self.groups)
        count = x.numel() // self.groups
        self.count += count
        self.sum = self.sum + count * mean.mean(0)
        self.squares = self.squares + count * (variance + mean**2).mean(0)

    @property
    def moments(self) -> Moments:
        mean = self.sum / self.count
        return Moments(mean, (self.squares / self.count - mean**2).clamp(min=0.0) + self.eps)


def _and_correct(inner: Tile, tally: _Tally, correction: Moments) -> Callable[[Tensor], Moments]:
    """What a norm is to use for a batch of crops: the moments of what no edge spoils, corrected."""

    def choose(x: Tensor) -> Moments:
        tally.add(inner.kept(x))
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
