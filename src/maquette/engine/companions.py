"""What was opened to work with a model: refiners, other models of a grid, controls. The last used stay open."""

from collections.abc import Callable
from typing import Any


class Companions:
    """Opened things by name; of more than `most` those that were used longest ago are let go."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._opened: dict[str, Any] = {}

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """The one of this name, opened now if it is not open any more; before that, there is made room for it."""
        opened = self._opened.pop(name, None)
        if opened is None:
            while len(self._opened) >= self._most:
                del self._opened[next(iter(self._opened))]
            opened = make()
        self._opened[name] = opened  # the last used stands last
        return opened
