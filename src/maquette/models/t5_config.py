"""The spec of a T5 encoder as transformers writes it down: a T5EncoderModel's `config.json`."""

from collections.abc import Mapping
from typing import Any

from maquette.models.config import Config
from maquette.models.t5 import EPS, T5Spec

GATED = "gated-gelu"  # transformers means the tanh GELU by it


def from_config(options: Mapping[str, Any], where: str = "config.json") -> T5Spec:
    """The spec that a T5 model's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute, as the ungated T5 v1.0.
    """
    config = Config(options, where)
    if config.get("feed_forward_proj", "relu") != GATED:
        raise config.refuse("feed_forward_proj", f"expected {GATED}, T5 v1.1's")
    config.expect({"layer_norm_epsilon": EPS})
    return T5Spec(
        vocabulary=config.integer("vocab_size", 32128),
        width=config.integer("d_model", 512),
        layers=config.integer("num_layers", 6),
        heads=config.integer("num_heads", 8),
        head_width=config.integer("d_kv", 64),
        hidden=config.integer("d_ff", 2048),
        buckets=config.integer("relative_attention_num_buckets", 32),
        distance=config.integer("relative_attention_max_distance", 128),
    )


def to_config(spec: T5Spec) -> dict[str, Any]:
    """The options with which transformers' T5EncoderModel computes the same."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": spec.vocabulary,
        "d_model": spec.width,
        "num_layers": spec.layers,
        "num_heads": spec.heads,
        "d_kv": spec.head_width,
        "d_ff": spec.hidden,
        "relative_attention_num_buckets": spec.buckets,
        "relative_attention_max_distance": spec.distance,
        "feed_forward_proj": GATED,
        "layer_norm_epsilon": EPS,
    }
