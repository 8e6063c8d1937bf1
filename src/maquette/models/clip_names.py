"""The published layouts of CLIP's towers: transformers' (in each of its spellings) and OpenCLIP's.

OpenCLIP keeps queries, keys and values in one tensor, as we do, and its projections transposed. In transformers'
layout of the text tower, later versions and some conversions leave out the word `text_model`.
"""

import math
from dataclasses import replace
from functools import partial

from maquette.errors import MaquetteError
from maquette.models.clip import CLIPImage, CLIPImageSpec, CLIPText, CLIPTextSpec
from maquette.weights.dialect import (
    TRANSPOSED,
    Dialect,
    Names,
    Source,
    Table,
    counted,
    join,
    layers,
    recognise,
    size,
    targets,
)
from maquette.weights.lora import Target
from maquette.weights.view import Weights, describe

LAYER_HF: Names = {
    "norm1": "layer_norm1",
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
LAYER_OPEN_CLIP: Names = {
    "norm1": "ln_1",
    "attention.out": "attn.out_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


def _hf_layers(network: CLIPText | CLIPImage, prefix: str) -> Table:
    table: Table = {}
    for index, layer in enumerate(network.layers):
        table |= layers(layer, f"layers.{index}", join(prefix, f"encoder.layers.{index}"), LAYER_HF)
    return table


def _open_clip_layers(network: CLIPText | CLIPImage, prefix: str) -> Table:
    table: Table = {}
    for index, layer in enumerate(network.layers):
        ours, theirs = f"layers.{index}", join(prefix, f"transformer.resblocks.{index}")
        table |= layers(layer, ours, theirs, LAYER_OPEN_CLIP)
        for leaf in ("weight", "bias"):  # rows q, k, v, as ours
            table[f"{ours}.attention.qkv.{leaf}"] = Source((f"{theirs}.attn.in_proj_{leaf}",))
    return table


def text_hf(prefix: str, network: CLIPText) -> Table:
    """The sources of the text tower in transformers' layout, with `text_model` or nothing before the names."""
    embeddings: Names = {
        "token_embedding": "embeddings.token_embedding",
        "position_embedding": "embeddings.position_embedding",
        "final_norm": "final_layer_norm",
    }
    table = layers(network, "", prefix, embeddings) | _hf_layers(network, prefix)
    return table | layers(network, "", "", {"projection": "text_projection"})


def text_open_clip(projection: Source, network: CLIPText) -> Table:
    """The sources of the text tower in OpenCLIP's layout, with its projection or as diffusers' scripts write that."""
    table = layers(network, "", "", {"token_embedding": "token_embedding", "final_norm": "ln_final"})
    table["position_embedding.weight"] = Source(("positional_embedding",))
    if network.projection is not None:
        table["projection.weight"] = projection
    return table | _open_clip_layers(network, "")


COMFYUI_ROOTS = {
    position: tuple(f"text_encoders.{name}.transformer" for name in names)
    for position, names in {1: ("clip_l", "clip_h"), 2: ("clip_g",)}.items()
}


def text_lora_targets(network: CLIPText, position: int = 1) -> list[Target]:
    """Where LoRA files may speak of a model's first, second, ... text tower; all use transformers' names."""
    own = ("text_encoder", "") if position == 1 else (f"text_encoder_{position}",)  # "": PEFT's folder of one tower
    roots = (*own, *COMFYUI_ROOTS.get(position, ()))
    kohya = ("lora_te", "lora_te1") if position == 1 else (f"lora_te{position}",)
    tables = (text_hf("text_model", network), text_hf("", network))
    return targets(network, tables, roots=roots, kohya=kohya)


def image_hf(network: CLIPImage) -> Table:
    """The sources of the image tower in transformers' layout."""
    outer: Names = {
        "patch_embedding": "embeddings.patch_embedding",
        "position_embedding": "embeddings.position_embedding",
        "norm_in": "pre_layrnorm",  # so spelt
        "final_norm": "post_layernorm",
    }
    table = layers(network, "", "vision_model", outer) | _hf_layers(network, "vision_model")
    table["class_embedding"] = Source(("vision_model.embeddings.class_embedding",))
    return table | layers(network, "", "", {"projection": "visual_projection"})


def image_open_clip(network: CLIPImage) -> Table:
    """The sources of the image tower in OpenCLIP's layout."""
    outer: Names = {"patch_embedding": "conv1", "norm_in": "ln_pre", "final_norm": "ln_post"}
    table = layers(network, "", "visual", outer) | _open_clip_layers(network, "visual")
    table["class_embedding"] = Source(("visual.class_embedding",))
    table["position_embedding.weight"] = Source(("visual.positional_embedding",))
    table["projection.weight"] = Source(("visual.proj",), TRANSPOSED)
    return table


def text_spec_hf(prefix: str, view: Weights) -> CLIPTextSpec:
    """Read the spec off a text tower in transformers' layout; see `text_spec_from_weights`."""
    embeddings, layer = join(prefix, "embeddings"), join(prefix, "encoder.layers.{}.mlp.fc1.weight")
    spec = _text_spec(view, f"{embeddings}.token_embedding.weight", f"{embeddings}.position_embedding.weight", layer)
    projection = size(view, "text_projection.weight", 0) if "text_projection.weight" in view else None
    return replace(spec, projection=projection, activation="quick_gelu" if spec.width <= 768 else "gelu")


def text_spec_open_clip(view: Weights) -> CLIPTextSpec:
    """Read the spec off a text tower in OpenCLIP's layout; see `text_spec_from_weights`."""
    layer = "transformer.resblocks.{}.mlp.c_fc.weight"
    spec = _text_spec(view, "token_embedding.weight", "positional_embedding", layer)
    theirs = (("text_projection", 1), ("text_projection.weight", 0))
    projection = next((size(view, name, axis) for name, axis in theirs if name in view), None)
    return replace(spec, projection=projection, activation="gelu")


def _text_spec(view: Weights, embedding: str, positions: str, layer: str) -> CLIPTextSpec:
    vocabulary, width = size(view, embedding, 0), size(view, embedding, 1)
    if width % 64:
        raise MaquetteError(
            f"{describe(view)}: width {width} does not divide into heads of 64 as in published text towers; "
            "give the config.json it was made with"
        )
    return CLIPTextSpec(
        vocabulary=vocabulary,
        positions=size(view, positions, 0),
        width=width,
        layers=len(counted(view, layer)),
        heads=width // 64,
        hidden=size(view, layer.format(0), 0),
        end=vocabulary - 1,
    )


def text_spec_from_weights(view: Weights) -> CLIPTextSpec:
    """Read every number of a text tower's spec off names and shapes, in any layout.

    Shapes cannot tell these, which have the published towers' values: heads are 64 wide; the activation is gelu in
    OpenCLIP's towers, and in transformers' layout quick_gelu up to width 768, that of OpenAI's largest; the
    end-of-text token is the last of the vocabulary.

    Raises:
        MaquetteError: the layout is unknown, or heads of 64 are impossible.
    """
    return recognise(view, TEXT_DIALECTS).spec(view)


def image_spec_hf(view: Weights) -> CLIPImageSpec:
    """Read the spec off an image tower in transformers' layout; see `image_spec_from_weights`."""
    embeddings, layer = "vision_model.embeddings", "vision_model.encoder.layers.{}.mlp.fc1.weight"
    spec = _image_spec(view, f"{embeddings}.patch_embedding.weight", f"{embeddings}.position_embedding.weight", layer)
    projection = size(view, "visual_projection.weight", 0)
    return replace(spec, projection=projection, activation="quick_gelu" if spec.width <= 1024 else "gelu")


def image_spec_open_clip(view: Weights) -> CLIPImageSpec:
    """Read the spec off an image tower in OpenCLIP's layout; see `image_spec_from_weights`."""
    layer = "visual.transformer.resblocks.{}.mlp.c_fc.weight"
    spec = _image_spec(view, "visual.conv1.weight", "visual.positional_embedding", layer)
    return replace(spec, projection=size(view, "visual.proj", 1), activation="gelu")


def _image_spec(view: Weights, patches: str, positions: str, layer: str) -> CLIPImageSpec:
    width, patch = size(view, patches, 0), size(view, patches, 2)
    heads = min(width // 64, 16)
    if not heads or width % heads:
        raise MaquetteError(
            f"{describe(view)}: width {width} does not divide into {heads} heads as in published image towers; "
            "give the config.json it was made with"
        )
    return CLIPImageSpec(
        size=patch * math.isqrt(max(size(view, positions, 0) - 1, 0)),
        patch=patch,
        width=width,
        layers=len(counted(view, layer)),
        heads=heads,
        hidden=size(view, layer.format(0), 0),
    )


def image_spec_from_weights(view: Weights) -> CLIPImageSpec:
    """Read every number of an image tower's spec off names and shapes, in either layout.

    Shapes cannot tell these, which have the published towers' values: heads are 64 wide but never more than 16; the
    activation is gelu in OpenCLIP's towers, and in transformers' layout quick_gelu up to width 1024.

    Raises:
        MaquetteError: the layout is unknown, or these heads are impossible.
    """
    return recognise(view, IMAGE_DIALECTS).spec(view)


# A file may hold both towers; each ignores the other and the buffers of positions.
_NOT_TEXT = (
    r"(.*\.)?position_ids",
    r"logit_scale",
    r"attn_mask",
    r"vision_model\..*",
    r"visual_projection\..*",
    r"visual\..*",
)
_NOT_IMAGE = (
    r"(.*\.)?position_ids",
    r"logit_scale",
    r"attn_mask",
    r"text_model\..*",
    r"text_projection(\.weight)?",
    r"token_embedding\.weight|positional_embedding|ln_final\..*|transformer\..*",
)


def _text_dialect(name: str, prefix: str) -> Dialect[CLIPText, CLIPTextSpec]:
    marks = (join(prefix, "embeddings.token_embedding.weight"), join(prefix, "final_layer_norm.weight"))
    return Dialect(name, marks, partial(text_hf, prefix), partial(text_spec_hf, prefix), _NOT_TEXT)


TEXT_HF = _text_dialect("transformers", "text_model")
TEXT_HF_FLAT = _text_dialect("flat transformers", "")
TEXT_OPEN_CLIP = Dialect(
    "OpenCLIP",
    ("token_embedding.weight", "ln_final.weight"),
    partial(text_open_clip, Source(("text_projection",), TRANSPOSED)),
    text_spec_open_clip,
    _NOT_TEXT,
)
TEXT_OPEN_CLIP_MIXED = Dialect(
    "OpenCLIP, projecting as transformers",  # SDXL by diffusers' script
    (*TEXT_OPEN_CLIP.marks, "text_projection.weight"),
    partial(text_open_clip, Source(("text_projection.weight",))),
    text_spec_open_clip,
    _NOT_TEXT,
)
OPEN_CLIP = (TEXT_OPEN_CLIP.name, TEXT_OPEN_CLIP_MIXED.name)
TEXT_DIALECTS = (TEXT_HF, TEXT_HF_FLAT, TEXT_OPEN_CLIP_MIXED, TEXT_OPEN_CLIP)  # the mixed one bears the other's marks

IMAGE_HF = Dialect(
    "transformers",
    ("vision_model.embeddings.class_embedding", "visual_projection.weight"),
    image_hf,
    image_spec_hf,
    _NOT_IMAGE,
)
IMAGE_OPEN_CLIP = Dialect(
    "OpenCLIP", ("visual.class_embedding", "visual.proj"), image_open_clip, image_spec_open_clip, _NOT_IMAGE
)
IMAGE_DIALECTS = (IMAGE_HF, IMAGE_OPEN_CLIP)
