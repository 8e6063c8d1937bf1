"""LoRAs that let a network read more: FLUX.1's canny and depth LoRAs read a picture's latent beside the first.

The layer that reads the latent gets further inputs, which are zero until the LoRA is merged: so it was trained, and so
the network is one of the family that reads a picture.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from maquette.engine.parts import Part
from maquette.models.flux import FluxSpec
from maquette.weights.lora import split_key
from maquette.weights.open_file import open_weights
from maquette.weights.view import View, Weights

INPUTS = frozenset({"img_in", "x_embedder"})  # what the layouts call the layer that reads the latent


class Widened(View):
    """A view in which one matrix has further columns, of zeros."""

    def __init__(self, base: Weights, name: str, columns: int) -> None:
        super().__init__(base)
        self._name, self._columns = name, columns

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.base[name]
        return F.pad(tensor, (0, self._columns - tensor.shape[1])) if name == self._name else tensor

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.base.shape(name)
        return (shape[0], self._columns) if name == self._name else shape


def widened(denoiser: Part, loras: Iterable[Path]) -> Part:
    """The denoiser as wide as the LoRAs need it that it is opened with; itself where none needs more.

    Raises:
        MaquetteError: a LoRA cannot be read.
    """
    name = next((each for each in denoiser.weights if each.removesuffix(".weight") in INPUTS), None)
    if name is None or not isinstance(denoiser.spec, FluxSpec):
        return denoiser
    own = denoiser.weights.shape(name)[1]
    columns = max((each for path in loras for each in _inputs(open_weights(path))), default=own)
    if columns <= own or columns % own:  # with what remains, merging says that it does not fit
        return denoiser
    spec = replace(denoiser.spec, in_channels=denoiser.spec.in_channels * columns // own)
    return replace(denoiser, weights=Widened(denoiser.weights, name, columns), spec=spec)


def _inputs(lora: Weights) -> Iterator[int]:
    """How many numbers a LoRA's layers read that stand beside that which reads the latent."""
    for key in lora:
        module, part = split_key(key) or ("", "")
        if part == "down" and module.rpartition(".")[2] in INPUTS and len(lora.shape(key)) == 2:
            yield lora.shape(key)[1]
