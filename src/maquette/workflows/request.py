"""What somebody wants painted: one model that Python, the command line, HTTP and a picture's metadata all speak."""

import secrets
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from maquette.diffusion.emulation import EMULATIONS
from maquette.diffusion.samplers import SAMPLERS
from maquette.diffusion.schedules import SCHEDULES
from maquette.errors import MaquetteError
from maquette.families.family import Defaults
from maquette.workflows.names import nearest
from maquette.workflows.settings import (
    MAX_SEED,
    Apg,
    Control,
    Detail,
    Embeddings,
    Extend,
    FreeU,
    Given,
    Hires,
    Loras,
    Pag,
    Part,
    Refiner,
    Region,
    Seed,
    Several,
    Share,
    SkipLayers,
    Speed,
    Strength,
    Tiles,
    Variation,
    Words,
    as_tuple,
    check_mask,
)

MAX_STEPS = 1000
MAX_COUNT = 256
MAX_SIDE = 8192  # pixels
MAX_PIXELS = 2**24  # of one picture
SIZE_MULTIPLE = 8  # pixels to a latent, in every family but those without a first stage

_MESSAGES = {  # pydantic's error type: what to say of it; the names in braces are pydantic's
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_pattern_mismatch": "must match {pattern}",
    "literal_error": "must be {expected}",
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


def nearest_multiple(number: int, multiple: int) -> int:
    """The multiple of `multiple` nearest to `number`, not below the first."""
    return max(round(number / multiple), 1) * multiple


def enlarged_side(side: int, scale: float, multiple: int = SIZE_MULTIPLE) -> int:
    """A side of what a second pass paints."""
    return nearest_multiple(round(side * scale), multiple)


def _known(names: Collection[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise ValueError(f"{name!r} does not exist; {nearest(name, names)}")
        return name

    return AfterValidator(check)


Side = Annotated[int, Field(gt=0, le=MAX_SIDE, multiple_of=SIZE_MULTIPLE)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Guidance = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
SamplerName = Annotated[str, _known(SAMPLERS)]
NoiseName = Annotated[str, _known(EMULATIONS)]
ScheduleName = Annotated[str, _known(SCHEDULES)]


REPAINTED = 1.0  # how much is new of a part of a picture, unless the request says another; of a whole: the model's


class Request(Part):
    """A picture, or `count` of them, described; what is None is left to the model's family (the seed to chance).

    Picture k of `count` has the seed `seed + k` and is the picture that this seed gives alone: the same noise, and the
    same arithmetic up to the rounding of the device, which may differ with the size of a batch. Sizes are pixels.

    `image` is what is begun with: as much of it is new as `strength` says; with a `mask` (white is repainted) or
    `extend`, only there. `hires` and `detail` are done after that. `image_guidance` is how closely a picture is kept to
    by a model that changes it as the words say, `true_guidance` classifier-free guidance beside that which a model was
    distilled for: only with it is the negative prompt read. `interval` is the part of the steps in which guidance acts,
    `rescale` how much of its contrast is brought back. `noise` is whose random numbers are drawn
    (`maquette.diffusion.emulation`), `noise_delta` A1111's ENSD. `attention` records where the model looks for words.
    `mask_blur` are the pixels inside of a mask's edge over which old and new are mixed; grey in a mask mixes them too,
    or is the `strength` of what it covers (differential diffusion). `loras` and `embeddings` take
    the place of those that the model was opened with, for this request alone; <lora:name:0.8> in the prompt is another.
    `apg` or `cfg_zero` (CFG-Zero*) take the place of classifier-free guidance, `pag` and `slg` are added to it at the
    price of one answer more in each step, `freeu` changes a U-Net's answers.
    `speed` is approximate: less work for nearly the same picture.
    """

    prompt: Words = ""
    negative: Words = ""
    model: Annotated[str, Field(min_length=1, max_length=4096)] = "mini"
    seed: Seed | None = None
    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1
    steps: Steps | None = None
    guidance: Guidance | None = None
    image_guidance: Guidance | None = None
    true_guidance: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 1.0
    sampler: SamplerName | None = None
    schedule: ScheduleName | None = None
    width: Side | None = None
    height: Side | None = None
    image: Given | None = None
    mask: Given | None = None
    mask_blur: Annotated[int, Field(ge=0, le=64)] = 4
    mask_grey: Literal["mix", "strength"] = "mix"
    depth: Given | None = None
    strength: Strength | None = None
    extend: Extend | None = None
    hires: Hires | None = None
    detail: Detail | None = None
    variation: Variation | None = None
    regions: Several[Region] = ()
    controls: Several[Control] = ()
    loras: Loras | None = None
    embeddings: Embeddings | None = None
    refiner: Refiner | None = None
    tiles: Tiles | None = None
    speed: Speed | None = None
    rescale: Share = 0.0
    interval: Annotated[tuple[Share, Share] | None, BeforeValidator(as_tuple)] = None
    apg: Apg | None = None
    cfg_zero: bool = False
    pag: Pag | None = None
    slg: SkipLayers | None = None
    freeu: FreeU | None = None
    clip_skip: Annotated[int, Field(ge=1, le=12)] = 1
    noise: NoiseName = "cpu"
    noise_delta: Annotated[int, Field(ge=0, le=2**31)] = 0
    attention: bool = False

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        scale = 1 if self.hires is None else self.hires.scale
        width, height = (round((side or 0) * scale) for side in (self.width, self.height))
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} is too large: the limit is {MAX_PIXELS / 2**20:g} megapixels")
        other = None if self.variation is None else self.variation.seed
        for name, seed in (("seed", self.seed), ("variation.seed", other)):
            if (seed or 0) + self.count - 1 > MAX_SEED:
                raise ValueError(f"{name} {seed} leaves no seeds for {self.count} pictures: the last is {MAX_SEED}")
        for name in ("mask", "extend", "strength"):
            if getattr(self, name) is not None and self.image is None:
                raise ValueError(f"{name} needs an image")
        if self.mask is not None and self.image is not None:
            check_mask(self.mask, self.image)
        if self.image is None and any(control.image is None for control in self.controls):
            raise ValueError("a control needs an image, unless the request begins with one")
        if self.attention and self.tiles is not None:
            raise ValueError("attention is not recorded in tiles; leave out one of them")
        if self.speed is not None and self.speed.cache and (self.attention or self.tiles is not None):
            raise ValueError("with a cache there are no tiles and no maps of attention; leave out one of them")
        if self.apg is not None and self.cfg_zero:
            raise ValueError("apg and cfg_zero each take the place of guidance; leave out one of them")
        if self.interval is not None and not self.interval[0] < self.interval[1]:
            raise ValueError(f"the interval {self.interval} is empty; its end must be larger than its start")
        return self

    @property
    def keeps_pixels(self) -> bool:
        """Whether a part of the request's picture stays as it is."""
        return self.mask is not None or self.extend is not None

    @property
    def only_detailed(self) -> bool:
        """Whether only details of the request's picture are repainted, and never the whole of it."""
        return self.image is not None and self.detail is not None and self.hires is None and not self.repainted

    @property
    def repainted(self) -> bool:
        """Whether the request's picture, or a part, is painted anew before it is enlarged or its details are."""
        asked = self.keeps_pixels or self.strength is not None
        return self.image is not None and (asked or not (self.hires or self.detail))

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Self:
        """The request with these fields, or a MaquetteError that names every bad one in one line."""
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            raise MaquetteError("; ".join(_explain(detail, cls) for detail in error.errors())) from None

    def resolved(self, defaults: Defaults) -> "Resolved":
        """Fill in what was left open: the seed by chance, the rest from the family's `defaults`."""
        fields = {name: value for name in Request.model_fields if (value := getattr(self, name)) is not None}
        fields.setdefault("seed", secrets.randbelow(2**32))
        if self.repainted:
            fields.setdefault("strength", REPAINTED if self.keeps_pixels else defaults.strength)
        for name in ("steps", "guidance", "sampler", "schedule", "width", "height"):
            fields.setdefault(name, getattr(defaults, name))
        if defaults.image_guidance is not None:
            fields.setdefault("image_guidance", defaults.image_guidance)
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
    def seeds(self) -> list[int]:
        """One seed for each picture; variations of a picture share its seed, and have their own beside it."""
        varied = self.variation is not None and self.variation.seed is not None
        return [self.seed] * self.count if varied else list(range(self.seed, self.seed + self.count))

    def part(self, start: int, count: int) -> "Resolved":
        """The request for `count` of its pictures, from picture `start` on."""
        variation = self.variation
        if variation is not None and variation.seed is not None:
            variation = variation.model_copy(update={"seed": variation.seed + start})
        return self.model_copy(update={"seed": self.seeds[start], "count": count, "variation": variation})


def reason(detail: ErrorDetails) -> str:
    """What pydantic has against a value, as "must be at least 1"."""
    template = _MESSAGES.get(detail["type"])
    limits = {key: f"{value:g}" if isinstance(value, float) else value for key, value in detail.get("ctx", {}).items()}
    return detail["msg"].removeprefix("Value error, ") if template is None else template.format(**limits)


def _explain(detail: ErrorDetails, model: type[Request]) -> str:
    """One of pydantic's complaints as "steps must be at least 1, got 0"."""
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{name!r} is not a setting; {nearest(name, model.model_fields)}"
    message = reason(detail)
    if detail["type"] == "multiple_of":
        message += f"; the nearest is {nearest_multiple(detail['input'], detail['ctx']['multiple_of'])}"
    if not name or detail["type"] in {"value_error", "string_too_long", "string_too_short", "string_unicode"}:
        return f"{name} {message}".strip()
    return f"{name} {message}, got {detail['input']!r:.60}"
