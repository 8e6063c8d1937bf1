"""Checkpoints of a training run: written whole or not at all, checked when read, the newest two kept.

A checkpoint is `step-N.safetensors` and `step-N.json`; the second is written last and holds the first's digest, so a
file cut short by a crash or a full disk is never taken for a checkpoint. What else is found is swept away.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.weights.atomic_file import replacing
from maquette.weights.safetensors_file import write_safetensors

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a run was when it was saved: `step` updates were done."""

    step: int
    tensors: dict[str, Tensor]
    record: dict[str, Any]


def digest(path: Path) -> str:
    """BLAKE2b of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, then drop all but the newest `KEPT`.

    Those of later steps go first: training fell back behind them because they are damaged.

    Raises:
        MaquetteError: the folder is full or not writable; the checkpoints that were there are still there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"step-{checkpoint.step:08d}"
    weights = stem.with_suffix(".safetensors")
    write_safetensors(weights, checkpoint.tensors, {})
    record = {"step": checkpoint.step, "digest": digest(weights), "record": checkpoint.record}
    with replacing(stem.with_suffix(".json")) as file:
        file.write(json.dumps(record).encode())
    passed = [path.stem for path in sorted(folder.glob("step-*.json")) if path.stem <= stem.name]
    for path in sorted(folder.glob("step-*")):  # of two files, the record first
        if path.stem not in passed[-KEPT:]:
            path.unlink(missing_ok=True)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint, or None; and what was wrong with each newer one, for the user to read."""
    complaints: list[str] = []
    for path in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            return read(path), complaints
        except MaquetteError as error:
            complaints.append(str(error))
    return None, complaints


def read(path: Path) -> Checkpoint:
    """The checkpoint whose record is `path`; MaquetteError if either file is damaged."""
    weights = path.with_suffix(".safetensors")
    try:
        record = json.loads(path.read_bytes())
        if digest(weights) != record["digest"]:
            raise MaquetteError(f"{weights}: the checkpoint is damaged (its digest does not match)")
        return Checkpoint(int(record["step"]), load_file(weights), record["record"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise MaquetteError(f"{path}: the checkpoint cannot be read ({error})") from error
