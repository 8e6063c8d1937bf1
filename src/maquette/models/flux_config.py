"""The spec of a FLUX.1 transformer as diffusers writes it down: the `config.json` of a FluxTransformer2DModel.

There the latents are packed before the network, so its channels are those of a patch of them.
"""

from collections.abc import Mapping
from typing import Any

from maquette.models.config import BUILT, Config
from maquette.models.flux import PATCH, FluxSpec


def from_config(options: Mapping[str, Any], where: str = "config.json") -> FluxSpec:
    """The spec that a FluxTransformer2DModel's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config = Config(options, where)
    config.expect({"patch_size": 1})
    heads = config.integer("num_attention_heads", 24)
    head_width = config.integer("attention_head_dim", 128)
    axes = config.integers("axes_dims_rope") if "axes_dims_rope" in config else FluxSpec.axes
    if len(axes) != 3 or sum(axes) != head_width or any(width % 2 for width in axes):
        raise config.refuse("axes_dims_rope", f"expected 3 even numbers that sum to the width of a head, {head_width}")
    packed = config.integer("in_channels", 64)
    spec = FluxSpec(
        in_channels=_unpacked(config, "in_channels", packed),
        out_channels=_unpacked(config, "out_channels", packed),
        width=heads * head_width,
        heads=heads,
        double=config.integer("num_layers", 19, BUILT),
        single=config.integer("num_single_layers", 38, BUILT),
        context=config.integer("joint_attention_dim", 4096),
        vector=config.integer("pooled_projection_dim", 768),
        guidance=config.flag("guidance_embeds", False),
        axes=axes,
    )
    config.finish(())
    return spec


def _unpacked(config: Config, name: str, default: int) -> int:
    channels, rest = divmod(config.integer(name, default), PATCH**2)
    if rest:
        raise config.refuse(name, f"expected a multiple of {PATCH**2}")
    return channels


def to_config(spec: FluxSpec) -> dict[str, Any]:
    """The options with which diffusers' FluxTransformer2DModel computes the same."""
    return {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": spec.in_channels * PATCH**2,
        "out_channels": spec.out_channels * PATCH**2,
        "num_layers": spec.double,
        "num_single_layers": spec.single,
        "num_attention_heads": spec.heads,
        "attention_head_dim": spec.width // spec.heads,
        "joint_attention_dim": spec.context,
        "pooled_projection_dim": spec.vector,
        "guidance_embeds": spec.guidance,
        "axes_dims_rope": list(spec.axes),
    }
