"""The parts of a request beyond words and sizes: pictures it begins with, and what else is to be done."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from PIL import Image
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from maquette.errors import MaquetteError
from maquette.weights.place import existing
from maquette.workflows.canvas import hash_image, open_image, read_image, read_mask
from maquette.workflows.preprocessors import check_preprocessor
from maquette.workflows.region import Box

MAX_SEED = 2**63 - 1  # what a signed 64-bit integer holds
MAX_PROMPT = 4000  # characters


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character; remove it")
    return text


Words = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_no_nul)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Strength = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=4096)]


R = TypeVar("R")


def _explained(read: Callable[..., R], *given: Any) -> R:
    """What is read; an error of ours becomes one that pydantic collects."""
    try:
        return read(*given)
    except MaquetteError as error:
        raise ValueError(str(error)) from None


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that a request was given, as its file has it, and where it came from."""

    image: Image.Image
    path: str | None = None

    @cached_property
    def rgb(self) -> Image.Image:
        """It as RGB, on white where it is transparent."""
        return read_image(self.image)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of its pixels, with what is transparent and as deep as they are."""
        return hash_image(self.image)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @classmethod
    def read(cls, given: object) -> "Picture":
        """From a path, a data URI, bytes, a PIL picture, or what `told` wrote, unless the file changed since."""
        if isinstance(given, Picture):
            return given
        if isinstance(given, Mapping):
            return cls._again(given)
        if not isinstance(given, str | Path | bytes | Image.Image):
            raise ValueError(f"is no picture, got {type(given).__name__}; give a path, a data URI or a PIL picture")
        image = _explained(open_image, given)
        is_path = isinstance(given, Path) or (isinstance(given, str) and existing(given) is not None)
        return cls(image, str(given) if is_path else None)

    @classmethod
    def _again(cls, told: Mapping[str, Any]) -> "Picture":
        path, wanted = told.get("path"), told.get("sha256")
        if not isinstance(path, str):
            raise ValueError("is not in the settings, only its hash; give it again (reproduce --image, --mask)")
        found = cls.read(path)
        if wanted is not None and wanted not in (found.hash, hash_image(found.image, whole=False)):
            raise ValueError(f"{path} is another picture than the one that was used; give that one")
        return found

    def told(self) -> dict[str, str | None]:
        """What is said of it in settings."""
        return {"path": self.path, "sha256": self.hash}


def check_mask(mask: Picture, image: Picture) -> None:
    """Refuse a mask that is empty, or of another shape than its picture."""
    _explained(read_mask, mask.image, image.image.size)


Given = Annotated[Picture, BeforeValidator(Picture.read), PlainSerializer(Picture.told)]


class Part(BaseModel):
    """What all parts of a request have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


def as_tuple(given: object) -> object:
    """Lists are what JSON has for tuples."""
    return tuple(given) if isinstance(given, list) else given


T = TypeVar("T")
Several = Annotated[tuple[T, ...], BeforeValidator(as_tuple)]


def _read_box(given: object) -> object:
    if isinstance(given, str):
        return tuple(_explained(Box.read, given))
    return as_tuple(given)


Edges = Annotated[tuple[int, int, int, int], BeforeValidator(_read_box)]
"""left, top, right, bottom, in pixels of the picture."""


class Extend(Part):
    """Outpainting: so many pixels more on each side."""

    left: Annotated[int, Field(ge=0, le=4096)] = 0
    top: Annotated[int, Field(ge=0, le=4096)] = 0
    right: Annotated[int, Field(ge=0, le=4096)] = 0
    bottom: Annotated[int, Field(ge=0, le=4096)] = 0

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not any((self.left, self.top, self.right, self.bottom)):
            raise ValueError("extends nothing; give left, top, right or bottom in pixels")
        return self


class Hires(Part):
    """A second pass at a larger size: `latent` enlarges the latent, `pixel` the decoded picture.

    That is done by `upscaler`, the file of a network (ESRGAN), or by Lanczos' filter.
    """

    scale: Annotated[float, Field(gt=1, le=8, allow_inf_nan=False)] = 2.0
    strength: Strength = 0.6
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    by: Annotated[str, Field(pattern="^(latent|pixel)$")] = "pixel"
    upscaler: Name | None = None

    @model_validator(mode="after")
    def _check_way(self) -> Self:
        if self.upscaler is not None and self.by == "latent":
            raise ValueError("has an upscaler, which enlarges pictures, and not latents; leave out one of them")
        return self


class Detail(Part):
    """Things that are found, or lie in `boxes`, are enlarged, repainted and pasted back."""

    boxes: Several[Edges] = ()
    finder: Name | None = None
    prompt: Words | None = None
    negative: Words | None = None
    strength: Strength = 0.5
    size: Annotated[int, Field(gt=0, le=4096, multiple_of=8)] | None = None
    padding: Annotated[float, Field(ge=0, le=4, allow_inf_nan=False)] = 0.5
    feather: Annotated[int, Field(ge=0, le=512)] = 4

    @model_validator(mode="after")
    def _check_findable(self) -> Self:
        if not self.boxes and self.finder is None:
            raise ValueError("needs boxes, or a finder")
        return self


class Variation(Part):
    """Between the picture of the request and another one: of another seed, of other words, or both."""

    seed: Seed | None = None
    prompt: Words | None = None
    amount: Share = 0.1

    @model_validator(mode="after")
    def _check_other(self) -> Self:
        if self.seed is None and self.prompt is None:
            raise ValueError("needs a seed or a prompt")
        return self


class Region(Part):
    """Words for a part of the picture, a box or what is white in a mask; the request's own words hold everywhere."""

    prompt: Words
    box: Edges | None = None
    mask: Given | None = None
    weight: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 4.0
    feather: Annotated[int, Field(ge=0, le=512)] = 8

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if (self.box is None) == (self.mask is None):
            raise ValueError("needs a box or a mask, and not both")
        return self


class Control(Part):
    """A control network, an adapter or a picture prompt, and the picture that it follows.

    Without an `image` it is the one that the request begins with. `preprocessor` makes of it what the network reads,
    such as "canny" (`maquette.workflows.preprocessors`), `resize` brings it to the size that is painted, `mode` says
    which side outweighs the other (`maquette.engine.control`), `kind` which of several kinds of pictures it is.
    An IP-Adapter sees with `tower`, and what is not wanted looks at `negative` in place of an empty picture.
    """

    model: Name
    image: Given | None = None
    preprocessor: Name | None = None
    scale: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 1.0
    start: Share = 0.0
    end: Share = 1.0
    mode: Annotated[str, Field(pattern="^(balanced|prompt|control)$")] = "balanced"
    resize: Annotated[str, Field(pattern="^(crop|pad|stretch)$")] = "crop"
    kind: Annotated[int, Field(ge=0, le=1000)] | None = None
    negative: Given | None = None
    tower: Name | None = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if not self.start < self.end:
            raise ValueError(f"starts at {self.start:g} and ends at {self.end:g}; the end must be larger")
        if self.preprocessor is not None:
            _explained(check_preprocessor, self.preprocessor)
        return self


Factor = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class Lora(Part):
    """A LoRA: a file, or its name in the folder of LoRAs; `text_scale` is that of the text encoders, if another."""

    file: Name
    scale: Factor = 1.0
    text_scale: Factor | None = None


class Embedding(Part):
    """A textual inversion: its file, and the word of the prompt that stands for it."""

    word: Name
    file: Name


def _as_file(given: object) -> object:
    """From a file alone, or with a scale or two, as `maquette.open` takes it."""
    told = (given,) if isinstance(given, str | Path) else given
    if not isinstance(told, list | tuple) or not told:
        return given
    return dict(zip(("file", "scale", "text_scale"), (str(told[0]), *told[1:]), strict=False))


def _as_embeddings(given: object) -> object:
    """From {word: file}; a file alone is known by its name, as A1111 does."""
    pairs = given.items() if isinstance(given, Mapping) else ((Path(each).stem, each) for each in _strings(given))
    told = [{"word": word, "file": str(file) if isinstance(file, Path) else file} for word, file in pairs]
    return tuple(told) or as_tuple(given)


def _strings(given: object) -> list[str]:
    many = isinstance(given, list | tuple) and all(isinstance(each, str) for each in given)
    return list(given) if many and isinstance(given, list | tuple) else []


Loras = Several[Annotated[Lora, BeforeValidator(_as_file)]]
Embeddings = Annotated[tuple[Embedding, ...], BeforeValidator(_as_embeddings)]


class Refiner(Part):
    """Another model that takes over from the share `at` of the steps on."""

    model: Name
    at: Share = 0.8


class Tiles(Part):
    """Windows in which a large picture is painted; pixels."""

    size: Annotated[int, Field(gt=0, le=4096, multiple_of=8)] = 512
    overlap: Annotated[int, Field(ge=0, le=2048, multiple_of=8)] = 64

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if not self.overlap < self.size:
            raise ValueError(f"of {self.size} pixels overlap by {self.overlap}; the overlap must be smaller")
        return self


Push = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Pag(Part):
    """Perturbed-attention guidance: away from what the model says where it looks, in some `layers`, nowhere.

    Without `layers`, those of a U-Net's middle, or of a transformer's second block.
    """

    scale: Push = 3.0
    layers: Several[Name] = ()


class SkipLayers(Part):
    """Skip-layer guidance, for transformers: away from what the model says without some `layers`, numbered from 0.

    It acts in the part of the steps from `start` to `end`. The defaults are those of SD3.5 medium.
    """

    scale: Push = 2.8
    layers: Several[Annotated[int, Field(ge=0, le=1000)]] = (7, 8, 9)
    start: Share = 0.0
    end: Share = 0.2

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.layers:
            raise ValueError("leaves out nothing; give layers")
        if not self.start < self.end:
            raise ValueError(f"starts at {self.start:g} and ends at {self.end:g}; the end must be larger")
        return self


class Apg(Part):
    """Adaptive projected guidance (`maquette.diffusion.guidance.apg`)."""

    parallel: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] = 0.0
    momentum: Annotated[float, Field(gt=-1, lt=1, allow_inf_nan=False)] = -0.5
    threshold: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 15.0


class FreeU(Part):
    """FreeU: features of a U-Net's way up count `b` times, low frequencies of its skips `s` times (1: widest)."""

    b1: Push = 1.3
    b2: Push = 1.4
    s1: Push = 0.9
    s2: Push = 0.2


class Speed(Part):
    """Less work for nearly the same picture; what is 0 is exact.

    `cache` is how much a network's first block may change, relative and summed over steps, before its depths are
    computed anew; `outer` how many stages of a U-Net's way up are computed at every step; `merge` the share of places
    that attend as one where a U-Net attends finest.
    """

    cache: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.25
    outer: Annotated[int, Field(ge=1, le=100)] = 1
    merge: Annotated[float, Field(ge=0, le=0.75, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not self.cache and not self.merge:
            raise ValueError("changes nothing; give cache or merge")
        return self
