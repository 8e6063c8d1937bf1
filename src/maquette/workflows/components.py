"""The connected parts of a mask, by the runs of its rows: those of neighbouring rows that touch belong together."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maquette.workflows.region import Box

Indices = NDArray[np.int64]


class Component(NamedTuple):
    """One connected part: its box, its mask ("L", of the box's size) and how many pixels it covers."""

    box: Box
    mask: Image.Image
    area: int


class _Runs(NamedTuple):
    """Unbroken rows of covered pixels, top to bottom and left to right."""

    row: Indices
    start: Indices
    stop: Indices
    label: Indices

    def only(self, which: NDArray[np.bool_] | Indices) -> "_Runs":
        return _Runs(*(column[which] for column in self))


def components(mask: Image.Image, smallest: int = 1, most: int = 256) -> list[Component]:
    """The parts of a mask that hang together, diagonals too, top to bottom; a pixel counts from half (128) on.

    Those of fewer than `smallest` pixels are dropped; of more than `most`, the largest are kept.
    """
    runs = _labelled(np.asarray(mask.convert("L")) > 127)
    if not len(runs.row):
        return []
    areas = np.bincount(runs.label, runs.stop - runs.start).astype(np.int64)
    largest = np.argsort(-areas, kind="stable")[:most]
    kept = np.zeros(len(areas), np.bool_)
    kept[largest[areas[largest] >= max(smallest, 1)]] = True
    runs = runs.only(kept[runs.label])
    runs = runs.only(np.argsort(runs.label, kind="stable"))
    cuts = np.flatnonzero(np.diff(runs.label)) + 1
    groups = np.split(np.arange(len(runs.row)), cuts) if len(runs.row) else []
    return sorted((_component(runs.only(group)) for group in groups), key=lambda part: (part.box.top, part.box.left))


def connected(covered: NDArray[np.bool_], seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts of what is covered (H, W) that hang together with a covered seed, diagonals too."""
    runs = _labelled(covered)
    before = np.pad(np.cumsum((seeds & covered).astype(np.int64), axis=1), ((0, 0), (1, 0)))
    counts = before[runs.row, runs.stop] - before[runs.row, runs.start]
    wanted = np.bincount(runs.label, counts, len(runs.row)) > 0
    return _filled(runs.only(wanted[runs.label]), covered.shape)


def _filled(runs: _Runs, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """What runs cover."""
    change = np.zeros((shape[0], shape[1] + 1), np.int8)
    change[runs.row, runs.start] = 1
    change[runs.row, runs.stop] = -1
    return np.cumsum(change, axis=1, dtype=np.int8)[:, :-1] > 0


def _labelled(covered: NDArray[np.bool_]) -> _Runs:
    """The runs of a mask, each with the label of its part, the number of the part's first run."""
    stride = covered.shape[1] + 2  # an empty pixel on both sides ends every run within its row
    edges = np.diff(np.pad(covered, ((0, 0), (1, 1))).astype(np.int8).ravel())
    start, stop = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    # the runs of the next row that touch run k: they stop no earlier than it starts, and start no later than it stops
    first = np.searchsorted(stop, start + stride, "left")
    last = np.searchsorted(start, stop + stride, "right")
    counts = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(start)), counts)
    lower = np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    return _Runs(start // stride, start % stride, stop % stride, _united(len(start), upper, lower))


def _united(count: int, first: Indices, second: Indices) -> Indices:
    """The smallest number in each part of a graph with edges `first` to `second`.

    Trees of numbers are hooked onto smaller ones and flattened until no edge leaves its tree (Shiloach, Vishkin 1982).
    """
    root = np.arange(count)
    while len(first):
        low, high = np.minimum(root[first], root[second]), np.maximum(root[first], root[second])
        apart = low != high
        first, second = first[apart], second[apart]
        np.minimum.at(root, high[apart], low[apart])
        while not np.array_equal(root, above := root[root]):
            root = above
    return root


def _component(runs: _Runs) -> Component:
    left, top, bottom = int(runs.start.min()), int(runs.row[0]), int(runs.row[-1]) + 1
    box = Box(left, top, int(runs.stop.max()), bottom)
    covered = _filled(_Runs(runs.row - top, runs.start - left, runs.stop - left, runs.label), (box.height, box.width))
    return Component(box, Image.fromarray(covered.astype(np.uint8) * 255), int((runs.stop - runs.start).sum()))
