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

from maquette.engine.build import outline
from maquette.engine.kinds import Kind
from maquette.engine.storage import Storage
from maquette.engine.streaming import Streamed
from maquette.errors import MaquetteError
from maquette.weights.embeddings import read_embedding
from maquette.weights.lora import LoRA, Merged, Report, Target, read_lora, with_lora
from maquette.weights.open_file import open_weights
from maquette.weights.place import Look, expanded, look
from maquette.weights.precision import descaled
from maquette.weights.view import Weights, prefixed, select, union

ROWS_THAT_GROW = "token_embedding.weight"  # learned words are rows behind the file's
TEXT = "text_encoder"  # how the names of parts that read words begin


class LoRAFile(NamedTuple):
    """A LoRA to merge, and how strongly; `text_scale` is that of the text encoders, where it is another."""

    path: Path | str
    scale: float = 1.0
    text_scale: float | None = None


class Added(NamedTuple):
    """What a model was given beside its own weights: LoRAs, and files of learned words by word."""

    loras: tuple[LoRAFile, ...] = ()
    words: tuple[tuple[str, Path | str], ...] = ()
    seen: tuple[tuple[str, Look | None], ...] = ()
    """Which files are meant, by path; of paths that are not here, those that were read last."""

    def looked_at(self) -> "Added":
        """The same, of the files that are there now."""
        paths = [*(each.path for each in self.loras), *(file for _, file in self.words)]
        return self._replace(seen=tuple({str(path): look(expanded(path)) for path in paths}.items()))

    def reads_others(self, wanted: "Added") -> bool:
        """Whether a file that is meant there was another one when it was read for this."""
        seen = dict(self.seen)
        return any(path in seen and seen[path] != file for path, file in wanted.seen)

    def read_for(self, wanted: "Added") -> "Added":
        """What is read now for what is wanted. Raises MaquetteError if it is not the files that are meant any more."""
        now = self.looked_at()
        for path, file in wanted.seen:
            if dict(now.seen).get(path, file) != file:
                raise MaquetteError(f"{path}: was changed while pictures were painted with it; paint them again")
        return now


@dataclass
class Origin:
    """A network of an opened model and the view that its tensors were read from, in our names."""

    kind: Kind
    network: Any
    weights: Weights
    storage: Storage | None = None
    """How its weights are kept, if not as they are computed with."""
    streamed: Streamed | None = None
    """If its blocks are read whenever they run."""

    def targets(self, position: int) -> list[Target]:
        """Where LoRA files speak of it, as the model's first, second, ... text encoder."""
        plain = self.network if self.storage is None else outline(self.kind.network, self.network.spec)
        return self.kind.targets(plain, position)

    def kept(self, weights: Weights) -> Weights:
        """Weights in our names as the network keeps them."""
        return weights if self.storage is None else self.storage.of(weights)

    def names(self, changed: Iterable[str]) -> list[str]:
        """The names of the network's tensors that are made of some weights."""
        whole = sorted(changed)
        return whole if self.storage is None else [name for each in whole for name in self.storage.renamed(each)]


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


def open_loras(loras: Iterable[LoRAFile]) -> list[LoRA]:
    """The adapters of LoRA files, each with its scales."""
    return [_open_lora(*each) for each in loras]


def _open_lora(path: Path | str, scale: float, text_scale: float | None) -> LoRA:
    lora = read_lora(descaled(open_weights(expanded(path))), scale)
    return lora if text_scale is None else replace(lora, scales={TEXT: text_scale})


def merge(origins: Mapping[str, Origin], loras: Sequence[LoRA]) -> Change:
    """What LoRAs make of a model's weights; nothing is computed yet.

    Raises:
        MaquetteError: a LoRA matches nothing in the model, or was made for another one.
    """
    if not loras:
        return Change(None, ())
    targets: list[Target] = []
    for name, origin in origins.items():
        for position in _positions(name, origins):
            targets += [replace(target, name=f"{name}:{target.name}") for target in origin.targets(position)]
    merged = with_lora(union(prefixed(origin.weights, f"{name}:") for name, origin in origins.items()), loras, targets)
    return Change(merged, merged.reports)


def _positions(name: str, parts: Iterable[str]) -> list[int]:
    """What number LoRA files give a part among the text encoders; a model's only one is its first, too."""
    if not name.startswith(TEXT):
        return [1]
    own = int(name.rpartition("_")[2]) if name[-1].isdigit() else 1
    only = sum(each.startswith(TEXT) for each in parts) == 1
    return sorted({own, 1}) if only else [own]


def apply(origins: Mapping[str, Origin], before: Change, after: Change) -> None:
    """Turn the networks from one change to another, tensor by tensor; those that neither touches stay where they are.

    Where that fails, what was turned is turned back.
    """
    changed, turned = before.changed | after.changed, []
    try:
        for name, origin in origins.items():
            turned.append(name)
            _turn(name, origin, changed, after)
    except BaseException:
        for name in turned:
            _turn(name, origins[name], changed, before)
        raise


def _turn(name: str, origin: Origin, changed: Iterable[str], change: Change) -> None:
    """Let a network have its weights as a change makes them, where they are among the `changed`.

    Each is let go for the new one before the next is computed, so that memory holds one of them twice, not all.
    """
    prefix = f"{name}:"
    touched = {each.removeprefix(prefix) for each in changed if each.startswith(prefix)}
    weights, names = origin.kept(change.of(name, origin.weights)), origin.names(touched)
    if origin.streamed is not None:
        for each in origin.streamed.names.intersection(names):
            weights[each]  # what is wrong with it is found now, not in the middle of a picture
        origin.streamed.weights = weights
        names = [each for each in names if each not in origin.streamed.names]
    for each in names:
        place, _, leaf = each.rpartition(".")
        layer = origin.network.get_submodule(place)
        new = _like(weights[each], getattr(layer, leaf), grows=each == ROWS_THAT_GROW)
        layer.load_state_dict({leaf: new}, strict=False, assign=True)
        del new


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
        for encoder, vectors in read_embedding(open_weights(expanded(path)), widths).items():
            words[encoder][word] = vectors
    return words
