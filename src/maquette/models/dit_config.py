"""The spec of a DiT as diffusers writes it down: the `config.json` of a DiTTransformer2DModel.

Diffusers' network is not quite the one that was trained: its sinusoids of the time have other frequencies, which no
option mends, and half of its norms another epsilon unless `norm_eps` says so.
"""

from collections.abc import Mapping
from typing import Any

from maquette.models.config import BUILT, Config
from maquette.models.dit import DiTSpec
from maquette.nn.modulation import EPS

FIXED: Mapping[str, Any] = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
}
IRRELEVANT = ("dropout", "norm_eps", "norm_num_groups", "upcast_attention")


def from_config(options: Mapping[str, Any], where: str = "config.json") -> DiTSpec:
    """The spec that a DiTTransformer2DModel's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config = Config(options, where)
    config.expect({**FIXED, "attention_type": "default"})
    heads, channels = config.integer("num_attention_heads", 16), config.integer("in_channels", 4)
    out = config.integer("out_channels", channels)
    if out not in (channels, 2 * channels):
        raise config.refuse("out_channels", f"expected {channels}, or {2 * channels} with the variance")
    spec = DiTSpec(
        channels=channels,
        size=config.integer("sample_size", 32),
        patch=config.integer("patch_size", 2),
        width=heads * config.integer("attention_head_dim", 72),
        layers=config.integer("num_layers", 28, BUILT),
        heads=heads,
        classes=config.integer("num_embeds_ada_norm", 1000),
        learned_sigma=out == 2 * channels,
    )
    config.finish(IRRELEVANT)
    return spec


def to_config(spec: DiTSpec) -> dict[str, Any]:
    """The options with which diffusers' DiTTransformer2DModel computes nearly the same; see the module."""
    return {
        "_class_name": "DiTTransformer2DModel",
        **FIXED,
        "in_channels": spec.channels,
        "out_channels": spec.channels * (2 if spec.learned_sigma else 1),
        "sample_size": spec.size,
        "patch_size": spec.patch,
        "num_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "attention_head_dim": spec.width // spec.heads,
        "num_embeds_ada_norm": spec.classes,
        "norm_eps": EPS,
    }
