"""The specs of CLIP's towers as transformers writes them down: a CLIPTextModel's or CLIPVisionModel's `config.json`.

The options of a whole CLIPModel, which holds both towers, are read too.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from maquette.errors import MaquetteError
from maquette.models.clip import CLIPImageSpec, CLIPTextSpec
from maquette.models.config import BUILT, Config, Numbers, as_options

EPS = 1e-5
ACTIVATIONS = ("quick_gelu", "gelu")
LARGEST_ID = 2  # transformers reads this end-of-text id, wrong in the published configs, as "the largest id"
TEXT: Numbers = {
    "vocabulary": ("vocab_size", 49408),
    "positions": ("max_position_embeddings", 77),
    "width": ("hidden_size", 512),
    "layers": ("num_hidden_layers", 12, BUILT),
    "heads": ("num_attention_heads", 8),
    "hidden": ("intermediate_size", 2048),
    "end": ("eos_token_id", 49407),
}
IMAGE: Numbers = {
    "size": ("image_size", 224),
    "patch": ("patch_size", 32),
    "width": ("hidden_size", 768),
    "layers": ("num_hidden_layers", 12, BUILT),
    "heads": ("num_attention_heads", 12),
    "hidden": ("intermediate_size", 3072),
}


def text_from_config(options: Mapping[str, Any], where: str = "config.json") -> CLIPTextSpec:
    """The spec that a text tower's options describe; it projects if its class is one `WithProjection`, or CLIPModel.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config, projection = _tower(options, where, "text_config")
    spec = CLIPTextSpec(**config.numbered(TEXT), activation=_activation(config), projection=projection)
    return replace(spec, end=spec.vocabulary - 1) if spec.end == LARGEST_ID else spec


def image_from_config(options: Mapping[str, Any], where: str = "config.json") -> CLIPImageSpec:
    """The spec that an image tower's options describe; it always projects.

    Raises:
        MaquetteError: an option is damaged, or asks for what the network does not compute.
    """
    config, projection = _tower(options, where, "vision_config")
    config.expect({"num_channels": 3})
    projection = config.integer("projection_dim", 512) if projection is None else projection
    return CLIPImageSpec(**config.numbered(IMAGE), activation=_activation(config), projection=projection)


def _tower(options: Mapping[str, Any], where: str, part: str) -> tuple[Config, int | None]:
    """One tower's options, and the width of its projection if its class has one."""
    whole = Config(options, where)
    inner, projection = whole.get(part), None
    if isinstance(inner, Mapping):
        config, projection = Config(inner, where), whole.integer("projection_dim", 512)
    else:
        config, classes = whole, whole.get("architectures", [])
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise whole.refuse("architectures", "expected names of classes")
        if any(name.endswith("WithProjection") for name in classes):
            projection = whole.integer("projection_dim", 512)
    config.expect({"layer_norm_eps": EPS})
    return config, projection


def _activation(config: Config) -> str:
    activation = config.get("hidden_act", "quick_gelu")
    if activation not in ACTIVATIONS:
        raise config.refuse("hidden_act", f"expected {' or '.join(ACTIVATIONS)}")
    return str(activation)


def text_to_config(spec: CLIPTextSpec) -> dict[str, Any]:
    """The options with which transformers' CLIPTextModel, or CLIPTextModelWithProjection, computes the same.

    Raises:
        MaquetteError: transformers would misread the end-of-text id.
    """
    if spec.end == LARGEST_ID:
        raise MaquetteError(
            f"transformers reads the end-of-text id {LARGEST_ID} as 'the largest id'; give the token another id"
        )
    return {
        "architectures": ["CLIPTextModelWithProjection" if spec.projection else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "torch_dtype": "float32",  # what diffusers opens the other parts in, whatever the file's precision
        **as_options(spec, TEXT),
        "hidden_act": spec.activation,
        "layer_norm_eps": EPS,
        "projection_dim": spec.projection or spec.width,
        "bos_token_id": None,  # nobody reads it, and the default lies beyond small vocabularies
    }


def image_to_config(spec: CLIPImageSpec) -> dict[str, Any]:
    """The options with which transformers' CLIPVisionModelWithProjection computes the same."""
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        **as_options(spec, IMAGE),
        "hidden_act": spec.activation,
        "layer_norm_eps": EPS,
        "projection_dim": spec.projection,
    }
