"""What a file is, in a form to print: family, layout, precision, evidence, what is missing; no tensor data is read."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maquette import collector_paused
from maquette.engine.adapt import LoRAFile, Origin, merge, open_loras
from maquette.engine.parts import Part
from maquette.engine.recognise import NO_WISHES, Recognition, Wishes, recognise
from maquette.errors import MaquetteError
from maquette.weights.lora import holds_lora, read_lora
from maquette.weights.open_file import open_weights
from maquette.weights.view import Weights

Report = dict[str, Any]

BYTES = {"float32": 4, "bfloat16 or float16": 2}
TRAINING = ("modelspec.", "ss_")  # metadata that tell of the training
LONGEST = 400  # characters of one of them that are shown


@collector_paused()
def describe_file(path: Path, wishes: Wishes = NO_WISHES, loras: Iterable[Path] = ()) -> Report:
    """What a model's file or folder is, or a LoRA's, or a learned word's; and which keys of `loras` it would use.

    Raises:
        MaquetteError: it is damaged, or nothing that is known.
    """
    if path.is_file():
        weights = open_weights(path, wishes.variant)
        if holds_lora(weights):
            return _describe_lora(path, weights)
        if _is_embedding(weights):
            vectors = {name: list(weights.shape(name)) for name in weights}
            return {"path": str(path), "title": "textual inversion", "vectors": vectors}
    found = recognise(path, wishes)
    parts = {name: _describe_part(part) for name, part in found.parts.items()}
    parameters = sum(part["parameters"] for part in parts.values())
    family = found.family
    return {
        "path": str(path),
        "title": found.title,
        "family": None if family is None else family.name,
        "parts": parts,
        "absent": _absent(found),
        "evidence": [evidence._asdict() for evidence in found.evidence],
        "surplus": list(found.surplus),
        "training": _training(found.metadata),
        "parameters": parameters,
        "memory": {precision: parameters * size for precision, size in BYTES.items()},
        "loras": [_match(found, lora) for lora in loras],
    }


def _describe_part(part: Part) -> Report:
    account = part.account()
    shapes = {name: part.weights.shape(name) for name in part.weights}
    return {
        "kind": part.kind.name,
        "layout": part.dialect.name,
        "precision": dict(Counter(part.weights.encoding(name) for name in part.weights).most_common()),
        "tensors": len(shapes),
        "parameters": sum(map(math.prod, shapes.values())),
        "missing": account.missing,
        "surplus": account.surplus,
        "spec": "a config beside the weights" if part.configured else "the shapes",
    }


def _absent(found: Recognition) -> list[str]:
    if found.family is None:
        return []
    wanted = [*(() if found.family.pixels else ("vae",)), *(reading.part for reading in found.family.readings)]
    return [name for name in wanted if name not in found.parts]


def _training(metadata: Any) -> dict[str, str]:
    told = {name: str(value) for name, value in metadata.items() if name.startswith(TRAINING)}
    return {name: value if len(value) <= LONGEST else value[:LONGEST] + " ..." for name, value in sorted(told.items())}


def _describe_lora(path: Path, weights: Weights) -> Report:
    lora = read_lora(weights)
    ranks = Counter(found.algebra.rank(found.parts) for found in lora.modules.values() if found.algebra is not None)
    return {
        "path": str(path),
        "title": "LoRA",
        "modules": len(lora.modules),
        "ranks": {str(rank): count for rank, count in ranks.most_common()},
        "precision": dict(Counter(weights.encoding(name) for name in weights).most_common()),
        "surplus": list(lora.surplus),
        "training": _training(weights.metadata),
    }


def _is_embedding(weights: Weights) -> bool:
    """Some vectors and nothing else."""
    names = [name for name in weights if name.startswith("string_to_param.")] or list(weights)
    return len(names) <= 3 and all(len(weights.shape(name)) in (1, 2) for name in names)


def _match(found: Recognition, lora: Path) -> Report:
    """Which keys of a LoRA a model would use; nothing is merged."""
    origins = {}
    for name, part in found.parts.items():
        network = part.network()
        origins[name] = Origin(part.kind, network, part.read(network))
    try:
        (report,) = merge(origins, open_loras([LoRAFile(lora)])).reports
    except MaquetteError as error:
        return {"path": str(lora), "matched": 0, "unmatched": [], "problem": str(error)}
    return {"path": str(lora), "matched": len(report.matched), "unmatched": list(report.unmatched), "problem": None}
