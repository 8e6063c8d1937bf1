"""The published layouts of the MM-DiT: the original one (Stability's sd3.5) and diffusers'."""

import math
from typing import NamedTuple

from maquette.errors import MaquetteError
from maquette.models.joint_names import (
    EMBEDS_DIFFUSERS,
    FINAL_MODULATION_DIFFUSERS,
    joint_block,
    swapped,
)
from maquette.models.mmdit import MMDiTBody, MMDiTSpec
from maquette.weights.dialect import BATCHED, Dialect, Names, Source, Table, counted, layers, recognise, size
from maquette.weights.view import Weights, describe

HEAD_WIDTH = 64  # in every published network; told by the shapes only where queries and keys are normed

OUTER_ORIGINAL: Names = {
    "patch_embed": "x_embedder.proj",
    "time_embed.up": "t_embedder.mlp.0",
    "time_embed.down": "t_embedder.mlp.2",
    "vector_embed.up": "y_embedder.mlp.0",
    "vector_embed.down": "y_embedder.mlp.2",
    "context_embed": "context_embedder",
    "final.modulation.linear": "final_layer.adaLN_modulation.1",
    "final.linear": "final_layer.linear",
}
STREAM_ORIGINAL: Names = {
    "modulation.linear": "adaLN_modulation.1",
    "qkv.linear": "attn.qkv",
    "qkv.norm.q": "attn.ln_q",
    "qkv.norm.k": "attn.ln_k",
    "out": "attn.proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
    "dual.qkv.linear": "attn2.qkv",
    "dual.qkv.norm.q": "attn2.ln_q",
    "dual.qkv.norm.k": "attn2.ln_k",
    "dual.out": "attn2.proj",
}


def original(network: MMDiTBody) -> Table:
    """The sources of the network's tensors in the original layout."""
    table = {"positions": Source(("pos_embed",), BATCHED), **layers(network, "", "", OUTER_ORIGINAL)}
    for index, block in enumerate(network.blocks):
        for ours, theirs in (("text", "context_block"), ("image", "x_block")):
            stream = block.get_submodule(ours)
            table |= layers(stream, f"blocks.{index}.{ours}", f"joint_blocks.{index}.{theirs}", STREAM_ORIGINAL)
    return table


def diffusers(network: MMDiTBody) -> Table:
    """The sources of the network's tensors in diffusers' layout."""
    table = {
        "positions": Source(("pos_embed.pos_embed",)),
        **layers(network, "", "", {"patch_embed": "pos_embed.proj", **EMBEDS_DIFFUSERS}),
        **swapped(layers(network, "", "", FINAL_MODULATION_DIFFUSERS)),
    }
    for index, block in enumerate(network.blocks):
        table |= joint_block(block, f"blocks.{index}", f"transformer_blocks.{index}")
    return table


class Places(NamedTuple):
    """Where a layout keeps the tensors whose shapes tell the spec; {} stands for the number of a block."""

    patch: str
    positions: str
    context: str
    vector: str
    out: str
    block: str
    query_norm: str
    dual: str


PLACES_ORIGINAL = Places(
    patch="x_embedder.proj.weight",
    positions="pos_embed",
    context="context_embedder.weight",
    vector="y_embedder.mlp.0.weight",
    out="final_layer.linear.weight",
    block="joint_blocks.{}.x_block.attn.qkv.weight",
    query_norm="joint_blocks.0.x_block.attn.ln_q.weight",
    dual="joint_blocks.{}.x_block.attn2.qkv.weight",
)
PLACES_DIFFUSERS = Places(
    patch="pos_embed.proj.weight",
    positions="pos_embed.pos_embed",
    context="context_embedder.weight",
    vector="time_text_embed.text_embedder.linear_1.weight",
    out="proj_out.weight",
    block="transformer_blocks.{}.attn.to_q.weight",
    query_norm="transformer_blocks.0.attn.norm_q.weight",
    dual="transformer_blocks.{}.attn2.to_q.weight",
)


def _spec(view: Weights, at: Places) -> MMDiTSpec:
    width, patch, rows = size(view, at.patch, 0), size(view, at.patch, 2), size(view, at.positions, -2)
    qk_norm, grid = at.query_norm in view, math.isqrt(rows)
    head_width = size(view, at.query_norm, 0) if qk_norm else HEAD_WIDTH
    if width % head_width or grid**2 != rows:
        raise MaquetteError(
            f"{describe(view)}: width {width} with heads of {head_width}, and {rows} positions, which should be a "
            f"square; the file is damaged or of another kind"
        )
    blocks = counted(view, at.block)
    return MMDiTSpec(
        in_channels=size(view, at.patch, 1),
        out_channels=size(view, at.out, 0) // patch**2 if at.out in view else size(view, at.patch, 1),  # a ControlNet
        patch=patch,
        width=width,
        layers=len(blocks),
        heads=width // head_width,
        context=size(view, at.context, 1),
        vector=size(view, at.vector, 1),
        grid=grid,
        qk_norm=qk_norm,
        dual=tuple(index for index in blocks if at.dual.format(index) in view),
    )


def spec_from_original(view: Weights) -> MMDiTSpec:
    """Read the spec off a network in the original layout; see `spec_from_weights`."""
    return _spec(view, PLACES_ORIGINAL)


def spec_from_diffusers(view: Weights) -> MMDiTSpec:
    """Read the spec off a network in diffusers' layout; see `spec_from_weights`."""
    return _spec(view, PLACES_DIFFUSERS)


def spec_from_weights(view: Weights) -> MMDiTSpec:
    """Read every number of the spec off names and shapes, in either layout.

    Shapes cannot tell heads where queries and keys are not normed: they are 64 wide, as in every published network.

    Raises:
        MaquetteError: the layout is unknown, or the shapes do not belong together.
    """
    return recognise(view, DIALECTS).spec(view)


ORIGINAL = Dialect("original", ("joint_blocks.0.x_block.attn.qkv.weight",), original, spec_from_original)
DIFFUSERS = Dialect(
    "diffusers",
    ("transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.proj.weight"),
    diffusers,
    spec_from_diffusers,
)
DIALECTS = (ORIGINAL, DIFFUSERS)
