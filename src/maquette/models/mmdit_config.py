"""The spec of an MM-DiT as diffusers writes it down: the `config.json` of an SD3Transformer2DModel."""

from collections.abc import Mapping
from typing import Any

from maquette.models.config import BUILT, Config
from maquette.models.mmdit import MMDiTSpec

QK_NORM = "rms_norm"
IRRELEVANT = ("sample_size",)


def from_config(options: Mapping[str, Any], where: str = "config.json") -> MMDiTSpec:
    """The spec that an SD3Transformer2DModel's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config = Config(options, where)
    heads, layers = config.integer("num_attention_heads", 18), config.integer("num_layers", 18, BUILT)
    width = heads * config.integer("attention_head_dim", 64)
    if config.integer("caption_projection_dim", 1152) != width:
        raise config.refuse("caption_projection_dim", f"text and picture are equally wide here, {width}")
    if config.get("qk_norm") not in (None, QK_NORM):
        raise config.refuse("qk_norm", f"expected {QK_NORM} or null")
    dual = config.get("dual_attention_layers", ())
    if not isinstance(dual, list | tuple) or not all(index in range(layers) for index in dual):
        raise config.refuse("dual_attention_layers", f"expected numbers of blocks from 0 to {layers - 1}")
    in_channels = config.integer("in_channels", 16)
    spec = MMDiTSpec(
        in_channels=in_channels,
        out_channels=config.integer("out_channels", in_channels if "out_channels" in config else 16),
        patch=config.integer("patch_size", 2),
        width=width,
        layers=layers,
        heads=heads,
        context=config.integer("joint_attention_dim", 4096),
        vector=config.integer("pooled_projection_dim", 2048),
        grid=config.integer("pos_embed_max_size", 96),
        qk_norm=config.get("qk_norm") is not None,
        dual=tuple(sorted(dual)),
    )
    config.finish(IRRELEVANT)
    return spec


def to_config(spec: MMDiTSpec, *, sample_size: int | None = None) -> dict[str, Any]:
    """The options with which diffusers' SD3Transformer2DModel computes the same.

    `sample_size` is the side of the latents that pipelines paint when nobody says otherwise.
    """
    options: dict[str, Any] = {
        "_class_name": "SD3Transformer2DModel",
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "patch_size": spec.patch,
        "num_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "attention_head_dim": spec.width // spec.heads,
        "caption_projection_dim": spec.width,
        "joint_attention_dim": spec.context,
        "pooled_projection_dim": spec.vector,
        "pos_embed_max_size": spec.grid,
        "qk_norm": QK_NORM if spec.qk_norm else None,
        "dual_attention_layers": list(spec.dual),
    }
    return options if sample_size is None else {**options, "sample_size": sample_size}
