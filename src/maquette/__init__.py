"""Maquette: Stable Diffusion, complete, in Python and PyTorch.

Importing this package imports nothing heavy; the public names below are fetched when they are first used.
"""

from typing import TYPE_CHECKING, Any

from maquette.errors import MaquetteError

if TYPE_CHECKING:
    from maquette.engine.open import open

__version__ = "0.1.0"
__all__ = ["MaquetteError", "__version__", "open"]


def __getattr__(name: str) -> Any:
    if name == "open":
        from maquette.engine.open import open

        globals()[name] = open
        return open
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
