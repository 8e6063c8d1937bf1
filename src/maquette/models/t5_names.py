"""The published layouts of the T5 encoder: transformers' and, in GGUF files, llama.cpp's."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from maquette.models.t5 import T5, T5Spec
from maquette.weights.dialect import Dialect, Names, Table, counted, layers, recognise, size
from maquette.weights.view import Weights


class Layout(NamedTuple):
    """What a layout calls the parts of the encoder; {} stands for the number of a layer."""

    token_embedding: str
    position_bias: str
    final_norm: str
    layer: str
    layers: Names


LAYER = {  # ours: transformers', llama.cpp's
    "norm1": ("0.layer_norm", "attn_norm"),
    "attention.qkv": (
        ("0.SelfAttention.q", "0.SelfAttention.k", "0.SelfAttention.v"),
        ("attn_q", "attn_k", "attn_v"),
    ),
    "attention.out": ("0.SelfAttention.o", "attn_o"),
    "norm2": ("1.layer_norm", "ffn_norm"),
    "mlp.up": (("1.DenseReluDense.wi_0", "1.DenseReluDense.wi_1"), ("ffn_gate", "ffn_up")),
    "mlp.down": ("1.DenseReluDense.wo", "ffn_down"),
}
TRANSFORMERS = Layout(
    token_embedding="shared",
    position_bias="encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    final_norm="encoder.final_layer_norm",
    layer="encoder.block.{}.layer",
    layers={ours: theirs for ours, (theirs, _) in LAYER.items()},
)
STABILITY = TRANSFORMERS._replace(token_embedding="encoder.embed_tokens")
LLAMA = Layout(
    token_embedding="token_embd",
    position_bias="enc.blk.0.attn_rel_b",
    final_norm="enc.output_norm",
    layer="enc.blk.{}",
    layers={ours: theirs for ours, (_, theirs) in LAYER.items()},
)


def table(network: T5, layout: Layout) -> Table:
    """The sources of the encoder's tensors in a layout."""
    outer: Names = {name: getattr(layout, name) for name in ("token_embedding", "position_bias", "final_norm")}
    sources = layers(network, "", "", outer)
    for index, layer in enumerate(network.layers):
        sources |= layers(layer, f"layers.{index}", layout.layer.format(index), layout.layers)
    return sources


def spec(view: Weights, layout: Layout) -> T5Spec:
    """Read the spec off an encoder in a layout; see `spec_from_weights`."""
    first = layout.layer.format(0)
    query, gate = (f"{first}.{layout.layers[path][0]}.weight" for path in ("attention.qkv", "mlp.up"))
    bias, embedding = f"{layout.position_bias}.weight", f"{layout.token_embedding}.weight"
    heads = size(view, bias, 1)
    return T5Spec(
        vocabulary=size(view, embedding, 0),
        width=size(view, embedding, 1),
        layers=len(counted(view, f"{layout.layer}.{layout.layers['mlp.down']}.weight")),
        heads=heads,
        head_width=size(view, query, 0) // heads,
        hidden=size(view, gate, 0),
        buckets=size(view, bias, 0),
    )


def spec_from_weights(view: Weights) -> T5Spec:
    """Read every number of the spec off names and shapes, in any layout.

    Shapes cannot tell the distance from which on all share a bucket: it is 128, as in every published network.

    Raises:
        MaquetteError: the layout is unknown, or a tensor is missing.
    """
    return recognise(view, DIALECTS).spec(view)


def _dialect(name: str, layout: Layout, ignored: tuple[str, ...] = ()) -> Dialect[T5, T5Spec]:
    marks = (f"{layout.token_embedding}.weight", f"{layout.position_bias}.weight")
    of_network: Callable[[T5], Table] = partial(table, layout=layout)
    return Dialect(name, marks, of_network, partial(spec, layout=layout), ignored)


# Both names of the token embedding occur, alone and together; together they are one tensor twice. Whole T5 files hold a
# decoder too.
DIALECTS = (
    _dialect("transformers", TRANSFORMERS, (r"encoder\.embed_tokens\.weight", r"decoder\..*", r"lm_head\.weight")),
    _dialect("transformers, as Stability writes it", STABILITY),
    _dialect("llama.cpp", LLAMA, (r"dec\..*", r"output\.weight")),
)
