"""One training in a folder at a time: two would overwrite each other's checkpoints."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from maquette.errors import MaquetteError

NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if need be; the system lets go of it when this process ends, however it does.

    Raises:
        MaquetteError: another process, or another block of this one, holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MaquetteError(
                f"{folder}: another training runs in this folder; wait for it, or give another folder with --out"
            ) from None
        yield
