"""Writing a file, or several, so that it is either there whole or not there at all."""

import os
import secrets
from collections.abc import Iterator, Sequence
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
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        _remove(temporary)


def write_all(files: Sequence[tuple[Path, bytes]]) -> None:
    """Write all files, or none: each beside its place, flushed to the disk and closed, and then all are renamed.

    Should a renaming fail, what was renamed before is removed again, unless it took the place of another file.

    Raises:
        MaquetteError: a folder is missing, full, or not writable.
    """
    temporary, new = {path: _beside(path) for path, _ in files}, list[Path]()
    path = Path()
    try:
        for path, data in files:
            with temporary[path].open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path in temporary:
            new += [] if path.exists() else [path]
            temporary[path].replace(path)
        for folder in {path.parent for path in temporary}:
            _flush_folder(folder)
    except BaseException as error:
        _remove(*new)
        if isinstance(error, OSError):
            raise _unwritten(path, error) from error
        raise
    finally:
        _remove(*temporary.values())


def _beside(path: Path) -> Path:
    """A name in the same folder that no file has."""
    return path.with_name(f".{secrets.token_hex(8)}.tmp")


def _unwritten(path: Path, error: OSError) -> MaquetteError:
    return MaquetteError(f"{path}: cannot be written ({error.strerror}); free some space or choose another folder")


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


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
