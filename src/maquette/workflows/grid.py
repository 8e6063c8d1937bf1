"""X/Y/Z grids: the same request with some settings varied, as labelled sheets."""

import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import TypeAdapter, ValidationError

from maquette.diffusion.singlestep import Step
from maquette.engine.model import Model
from maquette.engine.open import companion
from maquette.errors import MaquetteError
from maquette.workflows.loop import Result
from maquette.workflows.names import nearest
from maquette.workflows.paint import paint
from maquette.workflows.request import Request

MAX_CELLS = 400
MARGIN, LETTERS = 6, 13  # pixels
REPLACE = "replace"  # the axis that exchanges its first value in the prompt for each of its values


Grid = tuple[Image.Image, list[Result]]
"""The sheet, and what is in each of its cells."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One setting and its values; a dot leads into a part, as in hires.scale."""

    name: str
    values: tuple[Any, ...]

    @classmethod
    def read(cls, text: str) -> "Axis":
        """From "steps=5,10,20", or "replace=cat,dog" to exchange words of the prompt; ranges as "guidance=1..9:5".

        Raises:
            MaquetteError: there is no such setting, or a value is none of its.
        """
        name, equals, listed = text.partition("=")
        words = [word.strip() for word in listed.split(",") if word.strip()]
        if not equals or not words:
            raise MaquetteError(f"{text!r:.60} is no axis; write a setting and its values, such as steps=5,10,20")
        if len(words) == 1 and ".." in words[0]:
            words = _spread(words[0])
        if name == REPLACE:
            return cls(name, tuple(words))
        adapter = TypeAdapter(_type_of(name))
        try:
            return cls(name, tuple(adapter.validate_strings(word) for word in words))
        except ValidationError as error:
            raise MaquetteError(f"{name} cannot be {listed!r:.60}: {error.errors()[0]['msg']}") from None


def _spread(text: str) -> list[str]:
    """ "1..9:5" as five numbers at equal distances from 1 to 9."""
    ends, _, count = text.partition(":")
    first, _, last = ends.partition("..")
    try:
        low, high, number = float(first), float(last), int(count or 5)
        return [f"{low + (high - low) * k / max(number - 1, 1):g}" for k in range(number)]
    except ValueError:
        raise MaquetteError(f"{text!r:.60} is no range; write FIRST..LAST:COUNT, such as 1..9:5") from None


def _type_of(name: str) -> Any:
    fields: Mapping[str, Any] = Request.model_fields
    for part in name.split("."):
        if part not in fields:
            raise MaquetteError(f"{name!r} is not a setting; {nearest(part, fields.keys())}")
        told = fields[part].annotation
        parts = [each for each in getattr(told, "__args__", (told,)) if each is not type(None)]
        fields = getattr(parts[0], "model_fields", {})
    return parts[0]


def varied(request: Request, axes: Sequence[Axis], values: Sequence[Any]) -> Request:
    """The request with each axis's setting at one of its values."""
    fields = {name: getattr(request, name) for name in request.model_fields_set}
    for axis, value in zip(axes, values, strict=True):
        if axis.name == REPLACE:
            fields["prompt"] = fields.get("prompt", "").replace(axis.values[0], value)
            continue
        outer, _, inner = axis.name.partition(".")
        if inner:
            part = fields.get(outer)
            fields[outer] = {
                **({} if part is None else {k: getattr(part, k) for k in part.model_fields_set}),
                inner: value,
            }
        else:
            fields[outer] = value
    return type(request).read(fields)


@torch.no_grad()
def grid(
    model: Model, request: Request, axes: Sequence[Axis]
) -> Generator[Step, None, tuple[Image.Image, list[Result]]]:
    """Paint every combination of one to three axes (columns, rows, sheets); the sheet and each cell's result."""
    if not 1 <= len(axes) <= 3:
        raise MaquetteError(f"a grid has one to three axes, not {len(axes)}")
    combinations = list(itertools.product(*(axis.values for axis in reversed(axes))))
    if len(combinations) > MAX_CELLS:
        raise MaquetteError(f"{len(combinations)} pictures are too many for a grid; the limit is {MAX_CELLS}")
    requests = [varied(request, axes, values[::-1]) for values in combinations]  # all are checked before the first
    results, names = [], {axis.name for axis in axes}
    for each in requests:
        other = "model" in names and each.model != model.opened_as
        painter = companion(model, each.model) if other else model
        results.append((yield from paint(painter, each)))
    return sheet([result.images[0] for result in results], axes), results


def sheet(images: Sequence[Image.Image], axes: Sequence[Axis]) -> Image.Image:
    """Pictures in the order of `grid`, with the values of the axes above, beside and over them."""
    columns, rows = (len(axis.values) for axis in (*axes, Axis("", ("",)))[:2])
    font = ImageFont.load_default(LETTERS)
    cell = max(image.width for image in images) + MARGIN, max(image.height for image in images) + MARGIN
    labels = [[f"{axis.name} {_say(value)}" for value in axis.values] for axis in axes]
    left = int(max(font.getlength(label) for label in labels[1])) + 2 * MARGIN if len(axes) > 1 else MARGIN
    top = (2 if len(axes) > 2 else 1) * (LETTERS + MARGIN)
    size = left + columns * cell[0], top + rows * cell[1]
    sheets = len(images) // (columns * rows)
    whole = Image.new("RGB", (size[0] * sheets, size[1]), "white")
    pen = ImageDraw.Draw(whole)
    for k, image in enumerate(images):
        place, (row, column) = k // (columns * rows), divmod(k % (columns * rows), columns)
        x, y = place * size[0] + left + column * cell[0], top + row * cell[1]
        whole.paste(image, (x, y))
        if row == 0:
            pen.text((x, top - LETTERS - 3), labels[0][column], "black", font)
        if column == 0 and len(axes) > 1:
            pen.text((place * size[0] + MARGIN, y), labels[1][row], "black", font)
        if row == column == 0 and len(axes) > 2:
            pen.text((place * size[0] + MARGIN, 2), labels[2][place], "black", font)
    return whole


def _say(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
