"""X/Y/Z grids: the same request with some settings varied, as labelled sheets."""

import csv
import itertools
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from maquette.diffusion.singlestep import Step
from maquette.engine.model import Model
from maquette.engine.open import companion
from maquette.errors import MaquetteError
from maquette.workflows.loop import Result
from maquette.workflows.loras import resolve_added
from maquette.workflows.names import nearest
from maquette.workflows.overlay import caption
from maquette.workflows.paint import paint
from maquette.workflows.request import Request, reason
from maquette.workflows.settings import Picture

MAX_PICTURES = 400
MARGIN, LETTERS, PITCH = 6, 13, 16  # pixels: around pictures, of letters, from line to line
LINES = 3  # of a label, at most
REPLACE = "replace"  # the axis that exchanges its first value in the prompts for each of its values
NUMBER = r"([-+]?(?:[0-9]{1,19}\.?[0-9]{0,19}|\.[0-9]{1,19})(?:[eE][-+]?[0-9]{1,2})?)"  # a seed has 19 digits
RANGE = re.compile(rf"\s*{NUMBER}\s*\.\.\s*{NUMBER}\s*(?::\s*(-?[0-9]{{1,9}}))?\s*")


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Label = tuple[Font, list[str]]  # and its lines
Grid = tuple[Image.Image, list[Result]]
"""The sheet, and what is in each of its cells."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One setting and its values; a dot leads into a part, as in hires.scale, or into each of several (loras.scale)."""

    name: str
    values: tuple[Any, ...]

    @classmethod
    def read(cls, text: str) -> "Axis":
        """From "steps=5,10,20", or "replace=cat,dog" to exchange words of the prompts; ranges as "guidance=1..9:5".

        A value may be empty where the setting may be, as in "negative=,ugly"; one that holds commas stands in double
        quotes, as in 'prompt="a cat, asleep",a dog'.

        Raises:
            MaquetteError: there is no such setting, or a value is none of its.
        """
        name, equals, listed = text.partition("=")
        if not equals or not listed.strip(" ,"):
            raise MaquetteError(f"{text!r:.60} is no axis; write a setting and its values, such as steps=5,10,20")
        kind = str if name == REPLACE else _type_of(name)
        words = _divide(listed)
        if len(words) == 1 and ".." in words[0] and (name == REPLACE or _innermost(kind) in (int, float)):
            words = _spread(words[0])
        if name == REPLACE and not words[0]:
            raise MaquetteError(f"{text!r:.60} replaces nothing; write first what stands in the prompt")
        return cls(name, tuple(_read_values(name, kind, words)))


def _divide(listed: str) -> list[str]:
    """Values between commas; in double quotes a value may hold commas itself, and quotes that are written twice."""
    line = " ".join(listed.splitlines())
    try:
        return [word.strip() for word in next(csv.reader([line], skipinitialspace=True, strict=True))]
    except csv.Error as error:
        raise MaquetteError(f'{listed!r:.60} is no list of values ({error}); close each " before the comma') from None


def _read_values(name: str, kind: Any, words: Sequence[str]) -> Generator[Any, None, None]:
    """Each word as the setting's kind of value, without empty ones that are none."""
    read: Callable[[str], Any] = Picture.read if _innermost(kind) is Picture else partial(_read_value, kind)
    for word in words:
        try:
            yield read(word)
        except ValueError as error:
            if word:
                why = reason(error.errors()[0]) if isinstance(error, ValidationError) else str(error)
                raise MaquetteError(f"{name} cannot be {word!r:.60}: {why}") from None


def _read_value(kind: Any, word: str) -> Any:
    """A word as a value; between commas the parts of one that has parts, such as an interval."""
    try:
        return TypeAdapter(kind).validate_strings(word)
    except ValidationError:
        inner, parts = _innermost(kind), word.split(",")
        if get_origin(inner) is not tuple:
            raise
        kinds = get_args(inner)
        if kinds[-1] is ...:
            kinds = kinds[:1] * len(parts)
        if len(kinds) != len(parts):
            raise ValueError(f"give {len(kinds)} parts, with commas between them, in double quotes") from None
        read = [TypeAdapter(each).validate_strings(part.strip()) for each, part in zip(kinds, parts, strict=True)]
        return TypeAdapter(kind).validate_python(tuple(read))


def _spread(text: str) -> list[str]:
    """ "1..9:5" as five numbers at equal distances from 1 to 9, each told exactly."""
    match = RANGE.fullmatch(text)
    if match is None:
        raise MaquetteError(f"{text!r:.60} is no range; write FIRST..LAST:COUNT, such as 1..9:5")
    low, high, count = Fraction(match[1]), Fraction(match[2]), int(match[3] or 5)
    if not 1 <= count <= MAX_PICTURES:
        raise MaquetteError(f"{text!r:.60} asks for {count} values; ask for 1 to {MAX_PICTURES}, such as 1..9:5")
    numbers = [low + (high - low) * k / max(count - 1, 1) for k in range(count)]
    return [str(number) if number.denominator == 1 else repr(float(number)) for number in numbers]


def _type_of(name: str) -> Any:
    """What a setting's values are, None aside."""
    fields: Mapping[str, FieldInfo] = Request.model_fields
    kind, above = None, ""
    for part in name.split("."):
        if not fields:
            raise MaquetteError(f"{name!r} is not a setting: {above} has no parts; write {above}=...")
        if part not in fields:
            raise MaquetteError(f"{name!r} is not a setting; {nearest(part, fields.keys())}")
        kind, above = _kind(fields[part]), f"{above}.{part}".lstrip(".")
        fields = _parts(kind)
    if fields:
        raise MaquetteError(f"{name} has parts; vary one of them: {', '.join(f'{name}.{part}' for part in fields)}")
    return kind


def _kind(field: FieldInfo) -> Any:
    """What a field holds, with its limits, None aside."""
    options = get_args(field.annotation)
    kind = options[0] if NoneType in options else field.annotation
    return Annotated[(kind, *field.metadata)] if field.metadata else kind


def _innermost(kind: Any) -> Any:
    """What stands behind a kind's limits."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _parts(kind: Any) -> Mapping[str, FieldInfo]:
    """The settings in a part of a request, or in each of several; none in a plain value."""
    kind = _innermost(kind)
    if get_origin(kind) is tuple:
        kind = _innermost(get_args(kind)[0])
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}


def varied(request: Request, axes: Sequence[Axis], values: Sequence[Any], model: Model | None = None) -> Request:
    """The request with each axis's setting at one of its values; a `model` tells the LoRAs that it was opened with.

    Whole prompts are set first, then words in them are replaced, then the LoRAs changed that they name.

    Raises:
        MaquetteError: there is nothing to change, or the request cannot be so.
    """
    fields = {name: getattr(request, name) for name in request.model_fields_set}
    for axis, value in sorted(zip(axes, values, strict=True), key=lambda pair: _turn(pair[0])):
        outer, _, inner = axis.name.partition(".")
        if axis.name == REPLACE:
            fields |= _replaced(fields, axis.values[0], value)
        elif not inner:
            fields[outer] = value
        else:
            _type_of(axis.name)  # or there is none
            if outer == "loras" and model is not None:
                told = resolve_added(type(request).read(fields), model)
                fields |= {"prompt": told["prompt"], "loras": told["loras"]}
            fields[outer] = _with(outer, fields.get(outer), inner, value)
    return type(request).read(fields)


def _turn(axis: Axis) -> int:
    return 2 if axis.name.startswith("loras.") else 1 if axis.name == REPLACE else 0


def _replaced(fields: Mapping[str, Any], old: str, new: str) -> dict[str, str]:
    """The prompt and the negative prompt with other words in them, as A1111's Prompt S/R has it."""
    prompts = {name: fields.get(name, "") for name in ("prompt", "negative")}
    if not any(old in words for words in prompts.values()):
        raise MaquetteError(f"replace: {old!r:.60} is neither in the prompt nor in the negative; write what is")
    return {name: words.replace(old, new) for name, words in prompts.items()}


def _with(outer: str, part: Any, inner: str, value: Any) -> Any:
    """A part of a request, or each of several, with one of its settings changed; one that is not there is begun."""
    if isinstance(part, tuple) and part:
        return tuple(_with(outer, each, inner, value) for each in part)
    if not part and get_origin(_innermost(_kind(Request.model_fields[outer]))) is tuple:
        raise MaquetteError(f"{outer}.{inner} cannot be varied: the request has no {outer}; give some")
    if part is not None and not isinstance(part, Mapping):  # as it is after another axis led into it
        part = {name: getattr(part, name) for name in part.model_fields_set}
    return {**(part or {}), inner: value}


@torch.no_grad()
def grid(model: Model, request: Request, axes: Sequence[Axis]) -> Generator[Step, None, Grid]:
    """Paint every combination of one to three axes (columns, rows, sheets); the sheet and each cell's result.

    All cells have the same seed, unless an axis varies it. A cell of several pictures shows all of them.
    """
    if not 1 <= len(axes) <= 3:
        raise MaquetteError(f"a grid has one to three axes, not {len(axes)}")
    names = [axis.name for axis in axes if axis.name != REPLACE]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise MaquetteError(f"two axes vary {twice}, and one would hide the other; leave one of them out")
    _check_number(math.prod(len(axis.values) for axis in axes))
    if request.seed is None:
        request = request.model_copy(update={"seed": request.resolved(model.family.defaults).seed})
    combinations = itertools.product(*(axis.values for axis in reversed(axes)))
    requests = [varied(request, axes, values[::-1], model) for values in combinations]  # all, before the first is begun
    _check_number(sum(each.count for each in requests))
    painted: dict[int, Result] = {}
    for place in sorted(range(len(requests)), key=lambda place: _other_models(requests[place])):
        each = requests[place]
        other = any(axis.name == "model" for axis in axes) and each.model != model.opened_as
        painted[place] = yield from paint(companion(model, each.model) if other else model, each)
    results = [painted[place] for place in range(len(requests))]
    return sheet([_together(result.images) for result in results], axes), results


def _other_models(request: Request) -> tuple[str, str]:
    """What is the same of cells that are painted one after the other: what takes long to open."""
    return request.model, "" if request.refiner is None else request.refiner.model


def _check_number(pictures: int) -> None:
    if pictures > MAX_PICTURES:
        raise MaquetteError(f"{pictures} pictures are too many for a grid; the limit is {MAX_PICTURES}")


def _together(images: Sequence[Image.Image]) -> Image.Image:
    """The pictures of one cell, in equal rows."""
    rows = next(rows for rows in range(math.isqrt(len(images)), 0, -1) if len(images) % rows == 0)
    columns = len(images) // rows
    width, height = max(image.width for image in images), max(image.height for image in images)
    whole = Image.new("RGB", (columns * width, rows * height), "white")
    for k, image in enumerate(images):
        whole.paste(image, (k % columns * width, k // columns * height))
    return whole


def sheet(images: Sequence[Image.Image], axes: Sequence[Axis]) -> Image.Image:
    """Pictures in the order of `grid`, with the values of the axes above, beside and over them."""
    columns, rows = (len(axis.values) for axis in (*axes, Axis("", ("",)))[:2])
    cell = max(image.width for image in images) + MARGIN, max(image.height for image in images) + MARGIN
    above = _labels(axes[0], cell[0] - MARGIN)
    beside = _labels(axes[1], 2 * (cell[0] - MARGIN), max(cell[1] // PITCH, 1)) if len(axes) > 1 else []
    widths = [int(font.getlength(line)) + MARGIN for font, lines in beside for line in lines]
    left = MARGIN + max(widths, default=0)
    over = _labels(axes[2], left + columns * cell[0] - MARGIN) if len(axes) > 2 else []
    top = sum(max(len(lines) for _, lines in labels) * PITCH + 3 for labels in (above, over) if labels)
    size = left + columns * cell[0], top + rows * cell[1]
    whole = Image.new("RGB", (size[0] * (len(images) // (columns * rows)), size[1]), "white")
    pen = ImageDraw.Draw(whole)
    for k, image in enumerate(images):
        place, (row, column) = k // (columns * rows), divmod(k % (columns * rows), columns)
        x, y = place * size[0] + left + column * cell[0], top + row * cell[1]
        whole.paste(image, (x, y))
        if row == 0:
            _write(pen, x, top - len(above[column][1]) * PITCH, above[column])
        if column == 0 and beside:
            _write(pen, place * size[0] + MARGIN, y, beside[row])
        if row == column == 0 and over:
            _write(pen, place * size[0] + MARGIN, 2, over[place])
    return whole


def _labels(axis: Axis, width: int, lines: int = LINES) -> list[Label]:
    """What is said of each value of an axis, in at most so many lines of so many pixels."""
    told = (f"{axis.name} {_say(value)}" for value in axis.values)
    captions = (caption(text, f"{axis.name} {k + 1}", LETTERS) for k, text in enumerate(told))
    return [(font, _wrap(font, text, width, min(lines, LINES))) for font, text in captions]


def _write(pen: ImageDraw.ImageDraw, x: int, y: int, label: Label) -> None:
    for k, line in enumerate(label[1]):
        pen.text((x, y + k * PITCH + LETTERS), line, "black", label[0], anchor="ls")  # fonts agree on where lines stand


def _wrap(font: Font, text: str, width: int, lines: int) -> list[str]:
    """A text in at most so many lines, divided between words where that can be; what is cut off leaves an ellipsis."""
    text, found = " ".join(text.split()), list[str]()
    while text:
        if len(found) == lines - 1 and font.getlength(text) > width:
            fitting = _count_fitting(font, text, width - font.getlength("…"))
            return [*found, text[:fitting].rstrip() + "…"]
        fitting = _count_fitting(font, text, width)
        if fitting < len(text) and (space := text.rfind(" ", 0, fitting + 1)) > 0:
            fitting = space
        found.append(text[:fitting].rstrip())
        text = text[fitting:].lstrip()
    return found


def _count_fitting(font: Font, text: str, width: float) -> int:
    """How many of the first letters are no wider than `width`; at least one."""
    return max(bisect_right(range(1, len(text) + 1), width, key=lambda count: font.getlength(text[:count])), 1)


def _say(value: Any) -> str:
    if isinstance(value, Picture):
        return value.hash[:8] if value.path is None else Path(value.path).name
    return f"{value:g}" if isinstance(value, float) else str(value)
