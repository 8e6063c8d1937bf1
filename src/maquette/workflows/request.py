"""What somebody wants painted: one model that Python, the command line, HTTP and a picture's metadata all speak."""

import difflib
import secrets
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from maquette.diffusion.samplers import SAMPLERS
from maquette.diffusion.schedules import SCHEDULES
from maquette.errors import MaquetteError
from maquette.families.family import Defaults

MAX_SEED = 2**63 - 1  # what a signed 64-bit integer holds
MAX_PROMPT = 4000  # characters
MAX_STEPS = 1000
MAX_COUNT = 256
MAX_SIDE = 8192  # pixels
MAX_PIXELS = 2**24  # of one picture
SIZE_MULTIPLE = 8  # pixels to a latent, in every family but those without a first stage

_MESSAGES = {  # pydantic's error type: what to say of it; the names in braces are pydantic's
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_long": "is too long: the limit is {max_length} characters",
    "string_unicode": "is not valid Unicode text",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "value_error": "{error}",
}


def nearest(name: str, known: Collection[str]) -> str:
    """The names in `known` most like `name`, as the end of an error message; all of them where none is like it."""
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(known))}"


def nearest_multiple(number: int, multiple: int) -> int:
    """The multiple of `multiple` nearest to `number`, not below the first."""
    return max(round(number / multiple), 1) * multiple


def _known(names: Collection[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"{name!r} does not exist; {nearest(name, names)}")
        return name

    return AfterValidator(check)


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character; remove it")
    return text


Words = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_no_nul)]
Side = Annotated[int, Field(gt=0, le=MAX_SIDE, multiple_of=SIZE_MULTIPLE)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Guidance = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
SamplerName = Annotated[str, _known(SAMPLERS)]
ScheduleName = Annotated[str, _known(SCHEDULES)]


class Request(BaseModel):
    """A picture, or `count` of them, described; what is None is left to the model's family (the seed to chance).

    Picture k of `count` has the seed `seed + k` and is the picture that this seed gives alone: the same noise, and the
    same arithmetic up to the rounding of the device, which may differ with the size of a batch. Sizes are pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Words = ""
    negative: Words = ""
    model: Annotated[str, Field(min_length=1, max_length=4096)] = "mini"
    seed: Seed | None = None
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1
    steps: Steps | None = None
    guidance: Guidance | None = None
    sampler: SamplerName | None = None
    schedule: ScheduleName | None = None
    width: Side | None = None
    height: Side | None = None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.width or 0) * (self.height or 0) > MAX_PIXELS:
            raise ValueError(f"{self.width}x{self.height} is too large: the limit is {MAX_PIXELS / 2**20:g} megapixels")
        if (self.seed or 0) + self.count - 1 > MAX_SEED:
            raise ValueError(f"seed {self.seed} leaves no seeds for {self.count} pictures: the last is {MAX_SEED}")
        return self

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Self:
        """The request with these fields, or a MaquetteError that names every bad one in one line."""
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            raise MaquetteError("; ".join(_explain(detail, cls) for detail in error.errors())) from None

    def resolved(self, defaults: Defaults) -> "Resolved":
        """Fill in what was left open: the seed by chance, the rest from the family's `defaults`."""
        fields = self.model_dump(exclude_none=True)
        fields.setdefault("seed", secrets.randbelow(2**32))
        for name in ("steps", "guidance", "sampler", "schedule", "width", "height"):
            fields.setdefault(name, getattr(defaults, name))
        return Resolved.read(fields)


class Resolved(Request):
    """A request with nothing left open: the same one gives the same pixels."""

    seed: Seed
    steps: Steps
    guidance: Guidance
    sampler: SamplerName
    schedule: ScheduleName
    width: Side
    height: Side

    @property
    def seeds(self) -> range:
        """One seed for each picture."""
        return range(self.seed, self.seed + self.count)

    def alone(self, k: int) -> "Resolved":
        """The request for picture k alone."""
        return self.model_copy(update={"seed": self.seeds[k], "count": 1})


def _explain(detail: ErrorDetails, model: type[Request]) -> str:
    """One of pydantic's complaints as "steps must be at least 1, got 0"."""
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{name!r} is not a setting; {nearest(name, model.model_fields)}"
    template = _MESSAGES.get(detail["type"])
    limits = {key: f"{value:g}" if isinstance(value, float) else value for key, value in detail.get("ctx", {}).items()}
    message = detail["msg"] if template is None else template.format(**limits)
    if detail["type"] == "multiple_of":
        message += f"; the nearest is {nearest_multiple(detail['input'], detail['ctx']['multiple_of'])}"
    if not name or detail["type"] in {"value_error", "string_too_long", "string_too_short", "string_unicode"}:
        return f"{name} {message}".strip()
    return f"{name} {message}, got {detail['input']!r:.60}"
