"""What diffusers calls the layers of a joint block, the same in SD3 and in FLUX."""

from dataclasses import replace

from torch import nn

from maquette.nn.joint import JointBlock
from maquette.weights.dialect import SWAPPED, Names, Table, join, layers

IMAGE_DIFFUSERS: Names = {
    "modulation.linear": "norm1.linear",
    "qkv.linear": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "qkv.norm.q": "attn.norm_q",
    "qkv.norm.k": "attn.norm_k",
    "out": "attn.to_out.0",
    "mlp.up": "ff.net.0.proj",
    "mlp.down": "ff.net.2",
    "dual.qkv.linear": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "dual.qkv.norm.q": "attn2.norm_q",
    "dual.qkv.norm.k": "attn2.norm_k",
    "dual.out": "attn2.to_out.0",
}
TEXT_DIFFUSERS: Names = {
    "qkv.linear": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "qkv.norm.q": "attn.norm_added_q",
    "qkv.norm.k": "attn.norm_added_k",
    "out": "attn.to_add_out",
    "mlp.up": "ff_context.net.0.proj",
    "mlp.down": "ff_context.net.2",
}
TEXT_MODULATION_DIFFUSERS: Names = {"modulation.linear": "norm1_context.linear"}
EMBEDS_DIFFUSERS: Names = {
    "time_embed.up": "time_text_embed.timestep_embedder.linear_1",
    "time_embed.down": "time_text_embed.timestep_embedder.linear_2",
    "vector_embed.up": "time_text_embed.text_embedder.linear_1",
    "vector_embed.down": "time_text_embed.text_embedder.linear_2",
    "context_embed": "context_embedder",
    "final.linear": "proj_out",
}
FINAL_MODULATION_DIFFUSERS: Names = {"final.modulation.linear": "norm_out.linear"}


def swapped(table: Table) -> Table:
    """The same sources, weights and biases with their halves exchanged.

    Where a modulation has two parts only, diffusers stores scale before shift, everyone else shift before scale.
    """
    return {name: replace(source, change=SWAPPED) for name, source in table.items()}


def joint_block(block: nn.Module, ours: str, theirs: str) -> Table:
    """The sources of a `JointBlock`'s tensors in diffusers' layout."""
    assert isinstance(block, JointBlock)
    text = join(ours, "text")
    modulation = layers(block.text, text, theirs, TEXT_MODULATION_DIFFUSERS)
    return {
        **layers(block.image, join(ours, "image"), theirs, IMAGE_DIFFUSERS),
        **layers(block.text, text, theirs, TEXT_DIFFUSERS),
        **(swapped(modulation) if block.text.mlp is None else modulation),
    }
