"""Finished networks in half precision, as parts of folders that this package and diffusers open."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maquette.engine.convert import ENCODER_FILE, NETWORK_FILE, TRANSFORMERS, Piece, write_network
from maquette.engine.kinds import Kind
from maquette.errors import MaquetteError
from maquette.weights.view import InMemory


def write_half(folder: Path, kind: Kind, spec: Any, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write a network's weights, in our names, and its config in the layout that folders have them in.

    Raises:
        MaquetteError: a weight is not finite in half precision.
    """
    state = {key: value.to(torch.float16) for key, value in weights.items()}
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise MaquetteError(
                f"the weight {key!r} of the {folder.name} is not finite in half precision; train it again"
            )
    layout, name = (TRANSFORMERS, ENCODER_FILE) if kind.role == "clip" else ("diffusers", NETWORK_FILE)
    write_network(folder, Piece(kind, spec, InMemory(state)), layout, config, name)
