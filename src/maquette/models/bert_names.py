"""The published layouts of latent diffusion's text transformer: the original one and diffusers' (LDMBertModel)."""

from functools import partial
from typing import NamedTuple

from maquette.errors import MaquetteError
from maquette.models.bert import Bert, BertSpec
from maquette.weights.dialect import Dialect, Names, Table, counted, layers, size
from maquette.weights.view import Weights, describe

HEAD_WIDTH = 64  # shapes tell the product of heads and their width alone


class Layout(NamedTuple):
    """What a layout calls the parts; {} stands for the number of a layer, {0} and {1} for those of its two halves."""

    outer: Names
    attention: str
    perceptron: str
    attention_layers: Names
    perceptron_layers: Names
    step: int
    """How far the number of a layer's attention is from the one before."""


ORIGINAL_LAYOUT = Layout(
    outer={"token_embedding": "token_emb", "position_embedding": "pos_emb.emb", "final_norm": "norm"},
    attention="attn_layers.layers.{0}",
    perceptron="attn_layers.layers.{1}",
    attention_layers={"norm1": "0", "attention.qkv": ("1.to_q", "1.to_k", "1.to_v"), "attention.out": "1.to_out"},
    perceptron_layers={"norm2": "0", "mlp.up": "1.net.0.0", "mlp.down": "1.net.2"},
    step=2,
)
DIFFUSERS_LAYOUT = Layout(
    outer={
        "token_embedding": "model.embed_tokens",
        "position_embedding": "model.embed_positions",
        "final_norm": "model.layer_norm",
    },
    attention="model.layers.{0}",
    perceptron="model.layers.{0}",
    attention_layers={
        "norm1": "self_attn_layer_norm",
        "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.out": "self_attn.out_proj",
    },
    perceptron_layers={"norm2": "final_layer_norm", "mlp.up": "fc1", "mlp.down": "fc2"},
    step=1,
)


def table(layout: Layout, network: Bert) -> Table:
    """The sources of the transformer's tensors in a layout."""
    sources = layers(network, "", "", layout.outer)
    for index, layer in enumerate(network.layers):
        first = layout.step * index
        for prefix, names in (
            (layout.attention, layout.attention_layers),
            (layout.perceptron, layout.perceptron_layers),
        ):
            sources |= layers(layer, f"layers.{index}", prefix.format(first, first + 1), names)
    return sources


def spec(layout: Layout, view: Weights) -> BertSpec:
    """Read every number of the spec off names and shapes; heads are 64 wide, as in the published network.

    Raises:
        MaquetteError: heads of 64 are impossible.
    """
    norms = f"{layout.attention}.{layout.attention_layers['norm1']}.weight"
    query = f"{layout.attention.format(0)}.{layout.attention_layers['attention.qkv'][0]}.weight"
    up = f"{layout.perceptron.format(0, 1)}.{layout.perceptron_layers['mlp.up']}.weight"
    inner = size(view, query, 0)
    if inner % HEAD_WIDTH:
        raise MaquetteError(
            f"{describe(view)}: {inner} rows of queries do not divide into heads of {HEAD_WIDTH} as in the published "
            "text transformer; give the config.json it was made with"
        )
    return BertSpec(
        vocabulary=size(view, f"{layout.outer['token_embedding']}.weight", 0),
        positions=size(view, f"{layout.outer['position_embedding']}.weight", 0),
        width=size(view, f"{layout.outer['token_embedding']}.weight", 1),
        layers=len(counted(view, norms)) // layout.step,  # both halves begin with a norm
        heads=inner // HEAD_WIDTH,
        head_width=HEAD_WIDTH,
        hidden=size(view, up, 0),
    )


def _dialect(name: str, layout: Layout) -> Dialect[Bert, BertSpec]:
    marks = tuple(f"{layout.outer[each]}.weight" for each in ("token_embedding", "position_embedding"))
    return Dialect(name, marks, partial(table, layout), partial(spec, layout), (r"to_logits\..*",))


ORIGINAL = _dialect("original", ORIGINAL_LAYOUT)
DIFFUSERS = _dialect("transformers", DIFFUSERS_LAYOUT)
DIALECTS = (ORIGINAL, DIFFUSERS)
