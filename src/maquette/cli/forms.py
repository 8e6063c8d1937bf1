"""The forms of options that say several things: WORDS:NUMBER, A-B, KEY=VALUE, WIDTHxHEIGHT."""

import re

from maquette.errors import MaquetteError

Interval = tuple[float, float]


def read_size(size: str | None) -> dict[str, int]:
    """The fields width and height that "512x768" means; none of them for None."""
    if size is None:
        return {}
    match = re.fullmatch(r"(\d{1,9})\s*[xX×]\s*(\d{1,9})", size.strip(), re.ASCII)
    if match is None:
        raise MaquetteError(f"size {size!r} is not WIDTHxHEIGHT; give one such as 128x128")
    return {"width": int(match[1]), "height": int(match[2])}


def split_number(option: str, text: str, usual: float) -> tuple[str, float]:
    """What stands before a last colon, and the number behind it, if there is one."""
    before, colon, number = text.rpartition(":")
    return (before, read_number(option, number)) if colon else (text, usual)


def read_number(option: str, text: str) -> float:
    """A number, or an error that names the option."""
    try:
        return float(text)
    except ValueError:
        raise MaquetteError(f"{option}: {text!r} is no number; see --help for its form") from None


def split_pair(option: str, text: str, form: str) -> tuple[str, str]:
    """What stands before and behind the first equals sign."""
    before, equals, after = text.partition("=")
    if not (before and equals and after):
        raise MaquetteError(f"{option} {text}: give {form}")
    return before, after


def read_interval(option: str, text: str) -> Interval:
    """The two numbers of "A-B"."""
    first, _, last = text.partition("-")
    return read_number(option, first), read_number(option, last)
