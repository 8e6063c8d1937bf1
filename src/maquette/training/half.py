"""Finished networks in half precision, as parts of folders that this package and diffusers open.

Half precision is bfloat16: what was trained in it has no need of float16's further bits, it holds float32's range, and
files of it compress better: a clone is a seventh smaller.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.engine.convert import ENCODER_FILE, NETWORK_FILE, TRANSFORMERS, Piece, write_network
from maquette.engine.kinds import Kind
from maquette.errors import MaquetteError
from maquette.weights.view import InMemory


def halved(weights: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Weights in half precision; `what` they are of is for the message.

    Raises:
        MaquetteError: a weight is not finite.
    """
    for key, value in weights.items():
        if not bool(value.isfinite().all()):
            raise MaquetteError(f"the weight {key!r} of the {what} is not finite; train it again")
    return {key: value.to(torch.bfloat16) for key, value in weights.items()}


def write_half(folder: Path, kind: Kind, spec: Any, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a network's weights, in our names, and its config in the layout that folders have them in.

    Raises:
        MaquetteError: a weight is not finite.
    """
    state = halved(weights, folder.name)
    layout, name = (TRANSFORMERS, ENCODER_FILE) if kind.role == "clip" else ("diffusers", NETWORK_FILE)
    write_network(folder, Piece(kind, spec, InMemory(state)), layout, config, name)
