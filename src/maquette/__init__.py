"""Maquette: Stable Diffusion, complete, in Python and PyTorch.

Importing this package imports nothing heavy; the public names below are fetched when they are first used.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from maquette.errors import MaquetteError

if TYPE_CHECKING:
    from maquette.engine.open import open

__version__ = "0.1.0"
__all__ = ["MaquetteError", "__version__", "open"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """Build much that stays, such as torch's modules or a network's, without looking for garbage in it meanwhile.

    That takes a quarter of the time from the start of a process to an opened model.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def __getattr__(name: str) -> Any:
    if name == "open":
        with collector_paused():
            from maquette.engine.open import open

        globals()[name] = open
        return open
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
