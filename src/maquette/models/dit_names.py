"""The published layouts of DiT: the original one (Peebles & Xie) and diffusers'."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.models.dit import DiT, DiTSpec
from maquette.nn.patch import grid_positions
from maquette.weights.dialect import Dialect, Names, Table, counted, layers, recognise, size
from maquette.weights.view import View, Weights, describe

WIDTH_XL, HEAD_WIDTH_XL, HEAD_WIDTH = 1152, 72, 64  # shapes do not tell the heads; XL's are of another width

OUTER_ORIGINAL: Names = {
    "patch_embed": "x_embedder.proj",
    "time_embed.up": "t_embedder.mlp.0",
    "time_embed.down": "t_embedder.mlp.2",
    "class_embed": "y_embedder.embedding_table",
    "final.modulation.linear": "final_layer.adaLN_modulation.1",
    "final.linear": "final_layer.linear",
}
BLOCK_ORIGINAL: Names = {
    "modulation.linear": "adaLN_modulation.1",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
EMBEDS_DIFFUSERS: Names = {
    "time_embed.up": "timestep_embedder.linear_1",
    "time_embed.down": "timestep_embedder.linear_2",
    "class_embed": "class_embedder.embedding_table",
}
OUTER_DIFFUSERS: Names = {
    "patch_embed": "pos_embed.proj",
    "final.modulation.linear": "proj_out_1",
    "final.linear": "proj_out_2",
}
BLOCK_DIFFUSERS: Names = {
    "modulation.linear": "norm1.linear",
    "attention.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attention.out": "attn1.to_out.0",
    "mlp.up": "ff.net.0.proj",
    "mlp.down": "ff.net.2",
}
EMB_DIFFUSERS = "transformer_blocks.{}.norm1.emb"  # diffusers stores the embeddings anew in every block


def original(network: DiT) -> Table:
    """The sources of the network's tensors in the original layout."""
    table = layers(network, "", "", OUTER_ORIGINAL)
    for index, block in enumerate(network.blocks):
        table |= layers(block, f"blocks.{index}", f"blocks.{index}", BLOCK_ORIGINAL)
    return table


def diffusers(network: DiT) -> Table:
    """The sources of the network's tensors in diffusers' layout; embeddings are the first block's."""
    table = layers(network, "", "", OUTER_DIFFUSERS) | layers(network, "", EMB_DIFFUSERS.format(0), EMBEDS_DIFFUSERS)
    for index, block in enumerate(network.blocks):
        table |= layers(block, f"blocks.{index}", f"transformer_blocks.{index}", BLOCK_DIFFUSERS)
    return table


class Extended(View):
    """A view with further tensors."""

    def __init__(self, base: Weights, further: Mapping[str, Tensor]) -> None:
        super().__init__(base)
        self.further = further

    def __getitem__(self, name: str) -> Tensor:
        return self.further[name] if name in self.further else self.base[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.base
        yield from self.further

    def __len__(self) -> int:
        return len(self.base) + len(self.further)

    def __contains__(self, name: object) -> bool:
        return name in self.further or name in self.base

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.further[name].shape) if name in self.further else self.base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self.further[name].dtype if name in self.further else self.base.dtype(name)

    def encoding(self, name: str) -> str:
        return str(self.dtype(name)).removeprefix("torch.") if name in self.further else self.base.encoding(name)

    def source(self, name: str) -> Path | None:
        return None if name in self.further else self.base.source(name)


@dataclass(frozen=True, slots=True)
class Original(Dialect[DiT, DiTSpec]):
    """Stores the positions, which we compute."""

    def write(self, ours: Mapping[str, Tensor], network: DiT) -> Weights:
        theirs = Dialect.write(self, ours, network)
        side = network.spec.size // network.spec.patch
        return Extended(theirs, {"pos_embed": grid_positions(side, side, network.spec.width)[None]})


@dataclass(frozen=True, slots=True)
class Diffusers(Dialect[DiT, DiTSpec]):
    """Stores the embeddings of time and class anew in every block."""

    def write(self, ours: Mapping[str, Tensor], network: DiT) -> Weights:
        theirs = Dialect.write(self, ours, network)
        first = EMB_DIFFUSERS.format(0)
        embeddings = {name.removeprefix(first): theirs[name] for name in theirs if name.startswith(first)}
        others = (EMB_DIFFUSERS.format(index) for index in range(1, len(network.blocks)))
        return Extended(theirs, {other + name: tensor for other in others for name, tensor in embeddings.items()})


class Places(NamedTuple):
    """Where a layout keeps the tensors whose shapes tell the spec; {} stands for the number of a block."""

    patch: str
    classes: str
    out: str
    block: str


PLACES_ORIGINAL = Places(
    patch="x_embedder.proj.weight",
    classes="y_embedder.embedding_table.weight",
    out="final_layer.linear.weight",
    block="blocks.{}.attn.qkv.weight",
)
PLACES_DIFFUSERS = Places(
    patch="pos_embed.proj.weight",
    classes="transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight",
    out="proj_out_2.weight",
    block="transformer_blocks.{}.attn1.to_q.weight",
)


def _spec(view: Weights, at: Places, grid: int | None) -> DiTSpec:
    width, channels, patch = (size(view, at.patch, axis) for axis in range(3))
    head_width = HEAD_WIDTH_XL if width == WIDTH_XL else HEAD_WIDTH
    if width % head_width:
        raise MaquetteError(
            f"{describe(view)}: width {width} does not divide into heads of {head_width} as in published networks; "
            "give the spec it was made with"
        )
    return DiTSpec(
        channels=channels,
        size=DiTSpec.size if grid is None else grid * patch,
        patch=patch,
        width=width,
        layers=len(counted(view, at.block)),
        heads=width // head_width,
        classes=size(view, at.classes, 0) - 1,
        learned_sigma=size(view, at.out, 0) == 2 * channels * patch**2,
    )


def spec_from_original(view: Weights) -> DiTSpec:
    """Read the spec off a network in the original layout; see `spec_from_weights`."""
    return _spec(view, PLACES_ORIGINAL, math.isqrt(size(view, "pos_embed", 1)) if "pos_embed" in view else None)


def spec_from_diffusers(view: Weights) -> DiTSpec:
    """Read the spec off a network in diffusers' layout; see `spec_from_weights`."""
    return _spec(view, PLACES_DIFFUSERS, None)


def spec_from_weights(view: Weights) -> DiTSpec:
    """Read every number of the spec off names and shapes, in either layout.

    Shapes cannot tell heads: they are 72 wide in XL and 64 in all other published networks. Nor can they tell the
    size of latents it was trained on, unless the positions are stored: it is that of pictures of 256.

    Raises:
        MaquetteError: the layout is unknown, or heads cannot be the published ones.
    """
    return recognise(view, DIALECTS).spec(view)


ORIGINAL = Original(
    "original",
    ("x_embedder.proj.weight", "y_embedder.embedding_table.weight"),
    original,
    spec_from_original,
    (r"pos_embed",),
)
DIFFUSERS = Diffusers(
    "diffusers",
    ("pos_embed.proj.weight", "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"),
    diffusers,
    spec_from_diffusers,
    (r"transformer_blocks\.[1-9]\d*\.norm1\.emb\..*", r"pos_embed\.pos_embed"),
)
DIALECTS = (ORIGINAL, DIFFUSERS)
