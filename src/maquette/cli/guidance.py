"""The forms of the options that say how guidance pushes: --apg, --pag, --slg, --freeu."""

from collections.abc import Callable, Mapping
from typing import Any

from maquette.cli.forms import read_interval, read_number
from maquette.errors import MaquetteError

APG, FREEU = ("parallel", "momentum", "threshold"), ("b1", "b2", "s1", "s2")


def _read_apg(text: str) -> Mapping[str, Any]:
    numbers = [read_number("--apg", each) for each in text.split(":")]
    if len(numbers) > len(APG):
        raise MaquetteError(f"--apg takes {':'.join(APG).upper()}, got {text!r}")
    return dict(zip(APG, numbers, strict=False))


def _read_pag(text: str) -> Mapping[str, Any]:
    scale, colon, layers = text.partition(":")
    return {"scale": read_number("--pag", scale)} | ({"layers": _split(layers)} if colon else {})


def _read_slg(text: str) -> Mapping[str, Any]:
    scale, layers, share, *more = (*text.split(":"), "", "")
    if any(more) or not all(layer.isdecimal() for layer in _split(layers)):
        raise MaquetteError(f"--slg takes SCALE[:LAYER,...[:A-B]], such as 2.8:7,8,9:0-0.2, got {text!r}")
    given: dict[str, Any] = {"scale": read_number("--slg", scale)}
    if layers:
        given["layers"] = tuple(map(int, _split(layers)))
    if share:
        given["start"], given["end"] = read_interval("--slg", share)
    return given


def _read_freeu(text: str) -> Mapping[str, Any]:
    numbers = [read_number("--freeu", each) for each in text.split(",")]
    if len(numbers) != len(FREEU):
        raise MaquetteError(f"--freeu takes {','.join(FREEU).upper()}, such as 1.3,1.4,0.9,0.2, got {text!r}")
    return dict(zip(FREEU, numbers, strict=True))


def _split(listed: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, listed.split(","))))


GUIDANCE: Mapping[str, Callable[[str], Mapping[str, Any]]] = {
    "apg": _read_apg,
    "pag": _read_pag,
    "slg": _read_slg,
    "freeu": _read_freeu,
}
"""For each option, which is a request's field as well, what reads it."""
