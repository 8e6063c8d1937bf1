"""The options of `--control`, one for each control in turn; one alone holds for all of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from maquette.cli.forms import Interval, read_interval, split_number
from maquette.errors import MaquetteError
from maquette.weights.place import existing

FORM = "MODEL[=IMAGE[:SCALE]]"
NOTHING = "none"  # what a control is not given by an option that another one has


def _share(text: str) -> Interval:
    return read_interval("--control-interval", text)


def _kind(text: str) -> int:
    if not text.strip().isdecimal():
        raise MaquetteError(f"--control-kind: {text!r:.40} is no number of a kind; give 0, 1, 2, ...")
    return int(text)


FURTHER: Mapping[str, tuple[tuple[str, ...], Callable[[str], Any]]] = {
    "control_from": (("preprocessor",), str),
    "control_mode": (("mode",), str),
    "control_resize": (("resize",), str),
    "control_interval": (("start", "end"), _share),
    "control_kind": (("kind",), _kind),
    "control_tower": (("tower",), str),
    "control_negative": (("negative",), str),
}
"""For each further option the fields of a control that it sets, and what reads it."""


def read_controls(told: Sequence[str], further: Mapping[str, Sequence[str] | None]) -> tuple[Mapping[str, Any], ...]:
    """The controls that "MODEL=IMAGE:SCALE" and the further options mean.

    Raises:
        MaquetteError: one is not of its form, or there are not as many as controls.
    """
    found = [_read_control(each) for each in told]
    for option, values in further.items():
        if not values:
            continue
        name = "--" + option.replace("_", "-")
        if not found or len(values) not in (1, len(found)):
            raise MaquetteError(
                f"{name} is given {len(values)} times for {len(found)} controls; give it once or for each"
            )
        fields, read = FURTHER[option]
        for control, value in zip(found, values if len(values) > 1 else [*values] * len(found), strict=True):
            if value != NOTHING:
                made = read(value)
                control.update(zip(fields, made if isinstance(made, tuple) else (made,), strict=True))
    return tuple(found)


def _read_control(text: str) -> dict[str, Any]:
    """The model, and the picture if it is not the one that the request begins with."""
    model, equals, image = text.partition("=")
    if not model or (equals and not image):
        raise MaquetteError(f"--control {text}: give {FORM}")
    if not image:
        return {"model": model}
    path, scale = (image, 1.0) if existing(image) else split_number("--control", image, 1.0)
    return {"model": model, "image": path, "scale": scale}
