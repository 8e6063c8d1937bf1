"""What the names in a pickle may stand for: functions of our own, or objects that do nothing."""

import sys
from collections.abc import Callable

# Parts of the standard library that training programs put into checkpoints, and that do nothing here.
_HARMLESS_MODULES = frozenset(
    {"abc", "argparse", "collections", "dataclasses", "datetime", "decimal", "enum", "fractions", "numbers"}
) | {"pathlib", "typing", "uuid"}
_HARMLESS_NAMES = frozenset(
    {"_codecs.encode", "copy_reg._reconstructor", "copyreg._reconstructor", "functools.partial", "re._compile"}
)
_HARMLESS_BUILTINS = frozenset(
    {"bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long", "object", "range", "set"}
) | {"slice", "str", "tuple", "type", "unicode"}
_BUILTINS = frozenset({"builtins", "__builtin__"})
_PYTHON_2 = frozenset({"commands", "copy_reg", "exceptions", "httplib", "os2", "popen2", "urllib2"})
_STANDARD = frozenset(sys.stdlib_module_names) | _BUILTINS | _PYTHON_2


class Inert:
    """What a name that we do not know stands for; `state` is what its BUILD instruction gave it."""

    __slots__ = ("kind", "state")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.state: dict[object, object] | None = None


class Refused(Exception):
    """Raised by a known function whose arguments are wrong; the reader adds the file."""


Function = Callable[[tuple[object, ...]], object]  # takes the arguments as a tuple and checks them, or raises Refused


class Known:
    """A name that may be called: the function of ours that it stands for."""

    __slots__ = ("function",)

    def __init__(self, function: Function) -> None:
        self.function = function


def hashable(key: object) -> object:
    """The key, if it is one that a table of tensors has; a stand-in otherwise (crafted keys may collide by design)."""
    if isinstance(key, str | bytes | bool | None) or (isinstance(key, int) and abs(key) < 1 << 63):
        return key
    return Inert("key")


def is_dangerous(module: str, name: str) -> bool:
    """Whether a name is of the standard library's, and none of those that training programs leave behind.

    This is for the user's ears, not for safety: whatever passes becomes an inert object all the same.
    """
    first, _, rest = name.partition(".")
    if rest and first in _STANDARD:  # walks from one module to another: "torch" + "os.system"
        return True
    if module in _BUILTINS:
        return name not in _HARMLESS_BUILTINS
    root = module.partition(".")[0]
    return root in _STANDARD and root not in _HARMLESS_MODULES and f"{module}.{name}" not in _HARMLESS_NAMES
