"""Networks whose large matrices are kept in 8 bits: those of their blocks, which are nearly all of their numbers.

Norms, biases, embeddings, and the first and last layers stay in the precision that the network computes in. Weights
become 8-bit as they are read, so that the model is never there twice; what is float8 in its file stays mapped.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maquette.engine.streaming import blocks_of
from maquette.nn.quantised import FLOAT8, INT8, Int8Linear, Quantised, QuantisedConv2d, QuantisedLinear, quantise
from maquette.weights.view import View, Weights

STORAGES = {"float8": FLOAT8, "int8": INT8}
ROLES = ("denoiser", "t5")  # of the networks that are kept so; the others are small
WEIGHT, CODES, SCALE = ".weight", ".codes", ".scale"


class Storage(NamedTuple):
    """How the weights of a network are kept: the names of its layers that are kept in 8 bits, and in which."""

    layers: frozenset[str]
    dtype: torch.dtype

    def of(self, weights: Weights) -> Weights:
        """What the network is filled with, of weights in our names."""
        return Stored(weights, self)

    def renamed(self, name: str) -> tuple[str, ...]:
        """What became of a tensor of ours."""
        layer = name.removesuffix(WEIGHT)
        return (layer + CODES, layer + SCALE) if layer in self.layers and name != layer else (name,)


def store(network: nn.Module, dtype: torch.dtype) -> Storage:
    """Let the large layers of a network without memory be kept in 8 bits."""
    layers: set[str] = set()
    for block, prefix in blocks_of(network).items():
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear | nn.Conv2d):
                parent, _, own = name.rpartition(".")
                setattr(block.get_submodule(parent), own, _quantised(layer, dtype))
                layers.add(prefix + name)
    return Storage(frozenset(layers), dtype)


def _quantised(layer: Any, dtype: torch.dtype) -> Quantised:
    if isinstance(layer, nn.Conv2d):
        return QuantisedConv2d(layer, dtype)
    return Int8Linear(layer, dtype) if dtype == INT8 else QuantisedLinear(layer, dtype)


class Stored(View):
    """Weights with codes and scales in place of those that are kept in 8 bits; made by `Storage.of`."""

    def __init__(self, base: Weights, storage: Storage) -> None:
        super().__init__(base)
        self._storage = storage
        self._scale: tuple[str, Tensor] | None = None  # of the codes that were read last: it is asked for next

    def __getitem__(self, name: str) -> Tensor:
        source = self._source(name)
        if source == name:
            return self.base[name]
        if name.endswith(CODES):
            codes, scale = quantise(self.base[source], self._storage.dtype)
            self._scale = source, scale
            return codes
        if self._scale is None or self._scale[0] != source:
            return quantise(self.base[source], self._storage.dtype)[1]
        return self._scale[1]

    def __iter__(self) -> Iterator[str]:
        return (other for name in self.base for other in self._storage.renamed(name))

    def __len__(self) -> int:
        return len(self.base) + len(self._storage.layers)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._source(name) in self.base and name in self._storage.renamed(name)

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.base.shape(self._source(name))
        return shape[:1] if self._source(name) != name and name.endswith(SCALE) else shape

    def dtype(self, name: str) -> torch.dtype:
        if self._source(name) == name:
            return self.base.dtype(name)
        return self._storage.dtype if name.endswith(CODES) else torch.float32

    def encoding(self, name: str) -> str:
        return self.base.encoding(self._source(name))

    def source(self, name: str) -> Path | None:
        return self.base.source(self._source(name))

    def _source(self, name: str) -> str:
        """The name of the weight that codes or scales are made of; of another tensor its own."""
        for leaf in (CODES, SCALE):
            if name.endswith(leaf) and name.removesuffix(leaf) in self._storage.layers:
                return name.removesuffix(leaf) + WEIGHT
        return name
