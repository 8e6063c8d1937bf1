"""The spec of latent diffusion's text transformer as diffusers writes it down: an LDMBertModel's `config.json`."""

from collections.abc import Mapping
from typing import Any

from maquette.models.bert import BertSpec
from maquette.models.config import BUILT, Config, Numbers, as_options

NUMBERS: Numbers = {
    "vocabulary": ("vocab_size", 30522),
    "positions": ("max_position_embeddings", 77),
    "width": ("d_model", 1280),
    "layers": ("encoder_layers", 32, BUILT),
    "heads": ("encoder_attention_heads", 8),
    "head_width": ("head_dim", 64),
    "hidden": ("encoder_ffn_dim", 5120),
}
FIXED: Mapping[str, Any] = {"activation_function": "gelu", "scale_embedding": False}


def from_config(options: Mapping[str, Any], where: str = "config.json") -> BertSpec:
    """The spec that an LDMBertModel's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config = Config(options, where)
    config.expect(FIXED)
    return BertSpec(**config.numbered(NUMBERS))


def to_config(spec: BertSpec) -> dict[str, Any]:
    """The options with which diffusers' LDMBertModel computes the same."""
    return {"architectures": ["LDMBertModel"], "model_type": "ldmbert", **as_options(spec, NUMBERS), **FIXED}
