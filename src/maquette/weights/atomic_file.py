"""Writing a file so that it is either there whole or not there at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from maquette.errors import MaquetteError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well and vanishes when it does not.

    It is written beside `path`, flushed to the disk, then renamed over it: a reader sees the old file or the new one.

    Raises:
        MaquetteError: the folder is missing, full, or not writable.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        message = f"{path}: cannot be written ({error.strerror}); free some space or choose another folder"
        raise MaquetteError(message) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises:
        MaquetteError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MaquetteError(f"{path}: no such folder can be made ({error.strerror}); choose another one") from error


def _flush_folder(folder: Path) -> None:
    """Make the renaming itself durable, where the system can (not on Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
