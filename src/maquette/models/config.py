"""The `config.json` beside weights, read strictly: every option is used, or known not to matter, or refused."""

from collections.abc import Iterable, Mapping
from typing import Any

from maquette.errors import MaquetteError

AVERAGING = ("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")
"""What diffusers writes beside the options of a network whose weights are a moving average; it changes nothing."""
BUILT, LEVELS = 1000, 16
"""The most layers that options may ask for, and the most levels of resolution: more would cost time and memory before
anybody saw that the weights are not there. Published networks have up to 57, and 6."""
Numbers = Mapping[str, tuple[str, int] | tuple[str, int, int]]
"""A spec's fields that are whole numbers: what the options call each, what it is where they do not say it, and the most
that it may be, if that is bounded."""


def as_options(spec: Any, numbers: Numbers) -> dict[str, int]:
    """The whole numbers of a spec as options: what `Config.numbered` reads."""
    return {entry[0]: getattr(spec, ours) for ours, entry in numbers.items()}


class Config:
    """The options of one network, which remembers those that were asked for; `where` names the file in messages."""

    def __init__(self, options: Mapping[str, Any], where: str) -> None:
        self._options = dict(options)
        self._where = where
        self._known: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._options

    def get(self, name: str, default: Any = None) -> Any:
        """The value as it is; null counts as absent."""
        self._known.add(name)
        value = self._options.get(name)
        return default if value is None else value

    def integer(self, name: str, default: int | None = None, most: int | None = None) -> int:
        """A whole number above 0, at most `most` if that is given."""
        value = self.get(name, default)
        if not _counts(value, most):
            raise self.refuse(name, f"expected a whole number above 0{_up_to(most)}")
        return int(value)

    def numbered(self, numbers: Numbers) -> dict[str, int]:
        """Several whole numbers, by our names."""
        return {ours: self.integer(*entry) for ours, entry in numbers.items()}

    def integers(
        self, name: str, count: int | None = None, default: int | None = None, most: int | None = None
    ) -> tuple[int, ...]:
        """Whole numbers above 0, at most `most` if that is given: `count` of them, or as many as there are levels.

        One number alone stands for `count` equal ones.
        """
        value = self.get(name, default)
        if type(value) is int and count is not None:
            value = [value] * count
        lengths = range(1, LEVELS + 1) if count is None else (count,)
        if (
            not isinstance(value, list | tuple)
            or len(value) not in lengths
            or not all(_counts(item, most) for item in value)
        ):
            number = f"1 to {LEVELS}" if count is None else str(count)
            raise self.refuse(name, f"expected {number} whole numbers above 0{_up_to(most)}")
        return tuple(value)

    def number(self, name: str, default: float) -> float:
        """Any number."""
        value = self.get(name, default)
        if type(value) not in (int, float):
            raise self.refuse(name, "expected a number")
        return float(value)

    def numbers(self, name: str, count: int) -> tuple[float, ...] | None:
        """`count` numbers, or None where there are none."""
        value = self.get(name)
        if value is None:
            return None
        if (
            not isinstance(value, list | tuple)
            or len(value) != count
            or not all(type(x) in (int, float) for x in value)
        ):
            raise self.refuse(name, f"expected {count} numbers")
        return tuple(map(float, value))

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.get(name, default)
        if type(value) is not bool:
            raise self.refuse(name, "expected true or false")
        return value

    def expect(self, fixed: Mapping[str, Any]) -> None:
        """Refuse values other than the ones that the network computes with; absent, null and false are one."""
        for name, expected in fixed.items():
            value = self.get(name, expected)
            if value != expected and (value or expected):
                raise self.refuse(name, f"this network knows only {expected!r}")

    def finish(self, irrelevant: Iterable[str]) -> None:
        """Refuse options that nobody asked for, unless they do not matter, start with _, or are not set."""
        known = self._known | {*irrelevant, *AVERAGING}
        for name, value in self._options.items():
            if name not in known and not name.startswith("_") and value not in (None, False):
                raise self.refuse(name, "an option that this network does not know")

    def refuse(self, name: str, why: str) -> MaquetteError:
        """The error that says what is wrong with an option."""
        return MaquetteError(f"{self._where}: {name!r} is {self._options.get(name)!r:.200}: {why}; use another model")


def _counts(value: Any, most: int | None) -> bool:
    """Whether a value is a whole number above 0 and not above `most`."""
    return type(value) is int and value > 0 and (most is None or value <= most)


def _up_to(most: int | None) -> str:
    return "" if most is None else f" and up to {most:,}"
