"""Options that several commands have, as dataclasses: each is said once, and a command takes the whole group."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_type_hints


def with_options(**groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, which takes each of the `groups` by its name, the options that make them.

    A group is a dataclass whose fields are annotated for typer and have defaults.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called(**given: Any) -> None:
            made = {
                name: group(**{each.name: given.pop(each.name) for each in fields(group)})
                for name, group in groups.items()
            }
            command(**made, **given)

        own = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, each in inspect.signature(command, eval_str=True).parameters.items()
            if name not in groups
        ]
        options = [each for group in groups.values() for each in _options(group)]
        called.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        return called

    return give


def _options(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=hints[each.name],
        )
        for each in fields(group)
    ]
