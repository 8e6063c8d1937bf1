"""Changing an opened model: LoRAs merged into its weights and taken out again, learned words.

Every network remembers the view that it was read from, so a change is computed from the file's own weights: nothing
drifts, and nothing is kept twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maquette.engine.kinds import Kind
from maquette.engine.streaming import Streamed
from maquette.errors import MaquetteError
from maquette.weights.embeddings import read_embedding
from maquette.weights.lora import LoRA, Merged, Report, Target, read_lora, with_lora
from maquette.weights.open_file import open_weights
from maquette.weights.precision import descaled
from maquette.weights.view import Weights, prefixed, select, union

ROWS_THAT_GROW = "token_embedding.weight"  # learned words are rows behind the file's


@dataclass
class Origin:
    """A network of an opened model and the view that its tensors were read from, in our names."""

    kind: Kind
    network: Any
    weights: Weights
    streamed: Streamed | None = None
    """If its blocks are read whenever they run."""

    def targets(self, position: int) -> list[Target]:
        """Where LoRA files speak of it, as the model's first, second, ... text encoder."""
        return self.kind.targets(self.network, position)


class Change(NamedTuple):
    """What LoRAs made of a model's weights, under "part:name", and which of their keys they could use."""

    merged: Merged | None
    reports: tuple[Report, ...]

    @property
    def changed(self) -> frozenset[str]:
        return frozenset() if self.merged is None else self.merged.changed

    def of(self, name: str, weights: Weights) -> Weights:
        """What became of the weights of a part."""
        return weights if self.merged is None else select(self.merged, f"{name}:")


def open_loras(loras: Iterable[tuple[Path | str, float]]) -> list[LoRA]:
    """The adapters of LoRA files, each with its scale."""
    return [read_lora(descaled(open_weights(Path(path).expanduser())), scale) for path, scale in loras]


def merge(origins: Mapping[str, Origin], loras: Sequence[LoRA]) -> Change:
    """What LoRAs make of a model's weights; nothing is computed yet.

    Raises:
        MaquetteError: a LoRA matches nothing in the model, or was made for another one.
    """
    if not loras:
        return Change(None, ())
    targets: list[Target] = []
    for name, origin in origins.items():
        position = int(name.rpartition("_")[2]) if name[-1].isdigit() else 1
        targets += [replace(target, name=f"{name}:{target.name}") for target in origin.targets(position)]
    merged = with_lora(union(prefixed(origin.weights, f"{name}:") for name, origin in origins.items()), loras, targets)
    return Change(merged, merged.reports)


def apply(origins: Mapping[str, Origin], before: Change, after: Change) -> None:
    """Turn the networks from one change to another; tensors that neither touches stay where they are."""
    for name, origin in origins.items():
        prefix = f"{name}:"
        touched = {each.removeprefix(prefix) for each in before.changed | after.changed if each.startswith(prefix)}
        if origin.streamed is not None:
            origin.streamed.weights = after.of(name, origin.weights)
            touched -= origin.streamed.names
        if not touched:
            continue
        state = origin.network.state_dict()
        new = {}
        for each in touched:
            source = after.merged if after.merged is not None and prefix + each in after.changed else None
            tensor = origin.weights[each] if source is None else source[prefix + each]
            new[each] = _like(tensor, state[each], grows=each == ROWS_THAT_GROW)
        origin.network.load_state_dict(new, strict=False, assign=True)
        origin.network.requires_grad_(False)


def _like(tensor: Tensor, old: Tensor, *, grows: bool) -> Tensor:
    """A tensor on the device, in the precision and in the memory format of the one whose place it takes."""
    tensor = tensor.to(old.device, old.dtype)
    if grows and len(old) > len(tensor):
        tensor = torch.cat([tensor, old[len(tensor) :]])
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def read_words(files: Mapping[str, Path | str], widths: Mapping[str, int]) -> dict[str, dict[str, Tensor]]:
    """The vectors of learned words by text encoder and word; `widths` are the encoders' by the names files give them.

    Raises:
        MaquetteError: a file is no embedding, or was made for another family.
    """
    words: dict[str, dict[str, Tensor]] = {encoder: {} for encoder in widths}
    if files and not widths:
        raise MaquetteError("this model has no text encoder that could learn words; open one with CLIP")
    for word, path in files.items():
        for encoder, vectors in read_embedding(open_weights(Path(path).expanduser()), widths).items():
            words[encoder][word] = vectors
    return words
