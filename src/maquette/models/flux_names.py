"""The published layouts of FLUX.1: the original one (Black Forest Labs) and diffusers'."""

from typing import NamedTuple

from maquette.errors import MaquetteError
from maquette.models.flux import PATCH, Flux, FluxBody, FluxSpec
from maquette.models.joint_names import (
    EMBEDS_DIFFUSERS,
    FINAL_MODULATION_DIFFUSERS,
    joint_block,
    swapped,
)
from maquette.weights.dialect import Dialect, Names, Source, Table, counted, join, layers, recognise, size, targets
from maquette.weights.lora import Target
from maquette.weights.view import Weights, describe

AXES = FluxSpec.axes

OUTER_ORIGINAL: Names = {
    "patch_embed": "img_in",
    "time_embed.up": "time_in.in_layer",
    "time_embed.down": "time_in.out_layer",
    "vector_embed.up": "vector_in.in_layer",
    "vector_embed.down": "vector_in.out_layer",
    "guidance_embed.up": "guidance_in.in_layer",
    "guidance_embed.down": "guidance_in.out_layer",
    "context_embed": "txt_in",
    "final.modulation.linear": "final_layer.adaLN_modulation.1",
    "final.linear": "final_layer.linear",
}
GUIDANCE_DIFFUSERS: Names = {
    "guidance_embed.up": "time_text_embed.guidance_embedder.linear_1",
    "guidance_embed.down": "time_text_embed.guidance_embedder.linear_2",
}
SINGLE_ORIGINAL: Names = {"modulation.linear": "modulation.lin", "up": "linear1", "down": "linear2"}
SINGLE_DIFFUSERS: Names = {
    "modulation.linear": "norm.linear",
    "norm.q": "attn.norm_q",
    "norm.k": "attn.norm_k",
    "down": "proj_out",
}
UP_DIFFUSERS = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")


def stream_original(short: str) -> Names:
    """What the original layout calls the layers of a stream, `short` being img or txt."""
    return {
        "modulation.linear": f"{short}_mod.lin",
        "qkv.linear": f"{short}_attn.qkv",
        "out": f"{short}_attn.proj",
        "mlp.up": f"{short}_mlp.0",
        "mlp.down": f"{short}_mlp.2",
    }


def norms_original(ours: str, theirs: str) -> Table:
    """The sources of the norms of queries and keys: the original layout calls their weight a scale."""
    return {
        f"{ours}.q.weight": Source((f"{theirs}.query_norm.scale",)),
        f"{ours}.k.weight": Source((f"{theirs}.key_norm.scale",)),
    }


def original(network: FluxBody) -> Table:
    """The sources of the network's tensors in the original layout."""
    table = layers(network, "", "", OUTER_ORIGINAL)
    for index, block in enumerate(network.double_blocks):
        theirs = f"double_blocks.{index}"
        for name, short in (("text", "txt"), ("image", "img")):
            ours = f"{theirs}.{name}"
            table |= layers(block.get_submodule(name), ours, theirs, stream_original(short))
            table |= norms_original(f"{ours}.qkv.norm", f"{theirs}.{short}_attn.norm")
    for index, block in enumerate(network.single_blocks):
        both = f"single_blocks.{index}"
        table |= layers(block, both, both, SINGLE_ORIGINAL)
        table |= norms_original(f"{both}.norm", f"{both}.norm")
    return table


def diffusers(network: FluxBody) -> Table:
    """The sources of the network's tensors in diffusers' layout."""
    table = {
        **layers(network, "", "", {"patch_embed": "x_embedder", **EMBEDS_DIFFUSERS, **GUIDANCE_DIFFUSERS}),
        **swapped(layers(network, "", "", FINAL_MODULATION_DIFFUSERS)),
    }
    for index, block in enumerate(network.double_blocks):
        table |= joint_block(block, f"double_blocks.{index}", f"transformer_blocks.{index}")
    width = network.spec.width
    for index, block in enumerate(network.single_blocks):
        ours, theirs = f"single_blocks.{index}", f"single_transformer_blocks.{index}"
        table |= layers(block, ours, theirs, SINGLE_DIFFUSERS)
        for leaf in ("weight", "bias"):
            names = tuple(f"{theirs}.{part}.{leaf}" for part in UP_DIFFUSERS)
            table[f"{ours}.up.{leaf}"] = Source(names, rows=(width, width, width, 4 * width))
    return table


def lora_targets(network: Flux, position: int = 1) -> list[Target]:
    """Where LoRA files may speak of the network; XLabs' speak of a single block's q, k and v, rows of ours.

    Black Forest Labs' own replace the norms of queries and keys.
    """
    roots = ("transformer", "diffusion_model", "")
    kohya = ("lora_unet", "lora_transformer", "lycoris")
    found = targets(network, (original(network), diffusers(network)), roots=roots, kohya=kohya)
    for name, source in original(network).items():
        if source.names[0].endswith("_norm.scale"):
            module = source.names[0].removesuffix(".scale")
            found.append(Target(name, tuple(join(root, module) for root in roots)))
    for index in range(len(network.single_blocks)):
        both = f"single_blocks.{index}"
        qkv, proj = (tuple(join(root, both, leaf) for root in roots) for leaf in ("qkv", "proj"))
        found.append(Target(f"{both}.up.weight", qkv, rows=slice(0, 3 * network.spec.width)))
        found.append(Target(f"{both}.down.weight", proj))
    return found


class Places(NamedTuple):
    """Where a layout keeps the tensors whose shapes tell the spec; {} stands for the number of a block."""

    patch: str
    context: str
    vector: str
    guidance: str
    out: str
    double: str
    single: str
    query_norm: str


PLACES_ORIGINAL = Places(
    patch="img_in.weight",
    context="txt_in.weight",
    vector="vector_in.in_layer.weight",
    guidance="guidance_in.in_layer.weight",
    out="final_layer.linear.weight",
    double="double_blocks.{}.img_attn.qkv.weight",
    single="single_blocks.{}.linear1.weight",
    query_norm="double_blocks.0.img_attn.norm.query_norm.scale",
)
PLACES_DIFFUSERS = Places(
    patch="x_embedder.weight",
    context="context_embedder.weight",
    vector="time_text_embed.text_embedder.linear_1.weight",
    guidance="time_text_embed.guidance_embedder.linear_1.weight",
    out="proj_out.weight",
    double="transformer_blocks.{}.attn.to_q.weight",
    single="single_transformer_blocks.{}.proj_mlp.weight",
    query_norm="transformer_blocks.0.attn.norm_q.weight",
)


def _spec(view: Weights, at: Places) -> FluxSpec:
    width, head_width = size(view, at.patch, 0), size(view, at.query_norm, 0)
    if width % head_width or head_width != sum(AXES):
        raise MaquetteError(
            f"{describe(view)}: width {width} with heads of {head_width}; in published networks heads are "
            f"{sum(AXES)} wide and turn over {AXES} features: give the spec it was made with"
        )
    return FluxSpec(
        in_channels=size(view, at.patch, 1) // PATCH**2,
        out_channels=size(view, at.out if at.out in view else at.patch, 0 if at.out in view else 1) // PATCH**2,
        width=width,
        heads=width // head_width,
        double=len(counted(view, at.double)),
        single=len(counted(view, at.single)),
        context=size(view, at.context, 1),
        vector=size(view, at.vector, 1),
        guidance=at.guidance in view,
    )


def spec_from_original(view: Weights) -> FluxSpec:
    """Read the spec off a network in the original layout; see `spec_from_weights`."""
    return _spec(view, PLACES_ORIGINAL)


def spec_from_diffusers(view: Weights) -> FluxSpec:
    """Read the spec off a network in diffusers' layout; see `spec_from_weights`."""
    return _spec(view, PLACES_DIFFUSERS)


def spec_from_weights(view: Weights) -> FluxSpec:
    """Read every number of the spec off names and shapes, in either layout.

    Shapes cannot tell the rotary axes: they are those of every published network.

    Raises:
        MaquetteError: the layout is unknown, or heads are not as wide as the published ones.
    """
    return recognise(view, DIALECTS).spec(view)


ORIGINAL = Dialect("original", ("double_blocks.0.img_attn.norm.query_norm.scale",), original, spec_from_original)
DIFFUSERS = Dialect(
    "diffusers",
    ("x_embedder.weight", "transformer_blocks.0.attn.norm_added_q.weight"),
    diffusers,
    spec_from_diffusers,
)
DIALECTS = (ORIGINAL, DIFFUSERS)
