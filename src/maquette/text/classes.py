"""Prompts that are the number of a class."""

from maquette.errors import MaquetteError


def class_number(prompt: str) -> int | None:
    """The class that a prompt numbers, None for an empty one.

    Raises:
        MaquetteError: it is no number.
    """
    words = prompt.strip()
    if words and not (words.isascii() and words.isdigit() and len(words) < 10):
        raise MaquetteError(
            f"this model paints classes, not words: got {prompt!r:.60}; give the number of one, such as 207"
        )
    return int(words) if words else None
