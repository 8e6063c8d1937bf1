"""The spec of a T5 encoder as transformers writes it down: a T5EncoderModel's `config.json`."""

from collections.abc import Mapping
from typing import Any

from maquette.models.config import BUILT, Config, Numbers, as_options
from maquette.models.t5 import EPS, T5Spec

GATED = "gated-gelu"  # transformers means the tanh GELU by it
NUMBERS: Numbers = {
    "vocabulary": ("vocab_size", 32128),
    "width": ("d_model", 512),
    "layers": ("num_layers", 6, BUILT),
    "heads": ("num_heads", 8),
    "head_width": ("d_kv", 64),
    "hidden": ("d_ff", 2048),
    "buckets": ("relative_attention_num_buckets", 32),
    "distance": ("relative_attention_max_distance", 128),
}


def from_config(options: Mapping[str, Any], where: str = "config.json") -> T5Spec:
    """The spec that a T5 model's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute, as the ungated T5 v1.0.
    """
    config = Config(options, where)
    if config.get("feed_forward_proj", "relu") != GATED:
        raise config.refuse("feed_forward_proj", f"expected {GATED}, T5 v1.1's")
    config.expect({"layer_norm_epsilon": EPS})
    return T5Spec(**config.numbered(NUMBERS))


def to_config(spec: T5Spec) -> dict[str, Any]:
    """The options with which transformers' T5EncoderModel computes the same."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "torch_dtype": "float32",  # what diffusers opens the other parts in, whatever the file's precision
        **as_options(spec, NUMBERS),
        "feed_forward_proj": GATED,
        "layer_norm_epsilon": EPS,
    }
