"""Textual inversion (arXiv:2208.01618): learned vectors that stand for a new word, n of them for n tokens.

Files spell them in many ways: `string_to_param` of the paper's code and AUTOMATIC1111, `emb_params` of its safetensors,
the new word itself as the only key (diffusers), or one key for each text encoder (`clip_l`, `clip_g`, for SDXL).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.weights.view import Weights, describe

MAX_VECTORS = 75  # a prompt's chunk without its first and last token

ENCODERS = ("clip_l", "clip_g", "t5xxl")  # as files name them
_PAPER = "string_to_param."


def read_embedding(weights: Weights, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """The vectors of one embedding file for each text encoder that it serves, as (n, d) float32.

    `widths` are the model's encoders, by name (`clip_l`, `clip_g`, ...), and the width of their token embeddings.
    A key that names an encoder belongs to it, and is left if the model has no such encoder but others are named; any
    other key belongs to the only encoder of its width.

    Raises:
        MaquetteError: the file is no embedding, or was made for another family.
    """
    source = describe(weights)
    names = [name for name in weights if name.startswith(_PAPER)] or list(weights)
    names = [name for name in names if name in widths or name not in ENCODERS] or names  # of others than the model's
    if len(names) > len(widths):
        raise MaquetteError(
            f"{source}: holds {len(names)} tensors, too many for an embedding of {len(widths)} text encoders; "
            "give an embedding of this model's family"
        )
    vectors: dict[str, Tensor] = {}
    for name in names:
        encoder = name if name in widths else _encoder_of_width(source, weights.shape(name), widths)
        if encoder in vectors:
            raise MaquetteError(f"{source}: holds two embeddings for {encoder}; use another file")
        vectors[encoder] = _vectors(source, name, weights, widths[encoder])
    return vectors


def _encoder_of_width(source: str, shape: tuple[int, ...], widths: Mapping[str, int]) -> str:
    width = shape[-1] if shape else 0
    fitting = [encoder for encoder, its in widths.items() if its == width]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(f"{encoder} ({its})" for encoder, its in widths.items())
    problem = "none" if not fitting else "more than one"
    raise MaquetteError(
        f"{source}: vectors of width {width} fit {problem} of this model's text encoders, {known}; "
        "give an embedding of this model's family"
    )


def _vectors(source: str, name: str, weights: Weights, width: int) -> Tensor:
    shape = weights.shape(name)
    count = math.prod(shape[:-1])
    if len(shape) not in (1, 2) or shape[-1] != width or not 1 <= count <= MAX_VECTORS:
        raise MaquetteError(
            f"{source}: {name!r} has shape {shape}, expected 1 to {MAX_VECTORS} vectors of width {width}; "
            "give an embedding of this model's family"
        )
    vectors = weights[name].to(torch.float32).reshape(count, width)
    if not vectors.isfinite().all():
        raise MaquetteError(f"{source}: {name!r} holds infinities or no numbers; use another file")
    return vectors
