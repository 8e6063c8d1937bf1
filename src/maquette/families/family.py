"""What a family of models is: a declaration of everything that its files do not say or that all of them share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.prediction import Prediction
from maquette.diffusion.process import Process


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """The settings of a request that leaves them open; sizes in pixels."""

    steps: int
    guidance: float
    sampler: str
    schedule: str
    width: int
    height: int
    strength: float = 0.75
    """How much is new of a whole picture that is begun with."""
    image_guidance: float | None = None
    """How closely an instructed model keeps to the picture that it changes."""


@dataclass(frozen=True, kw_only=True)
class Latent:
    """How the first stage's latents are brought to unit variance: (z - shift) * scale, perhaps by channel."""

    scale: float | tuple[float, ...] = 0.18215
    shift: float | tuple[float, ...] = 0.0
    overflows: bool = False
    """The published first stage overflows float16."""
    measured: bool = False
    """Training measured the scale, and files may hold it as the tensor scale_factor."""

    def scaled(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) of unit variance, from those of the first stage."""
        return (z - _by_channel(self.shift, z)) * _by_channel(self.scale, z)

    def unscaled(self, x: Tensor) -> Tensor:
        """The first stage's latents, from those of unit variance."""
        return x / _by_channel(self.scale, x) + _by_channel(self.shift, x)

    def divided(self, by: float) -> "Latent":
        """The same latents with all numbers divided."""
        if isinstance(self.scale, tuple):
            return replace(self, scale=tuple(each / by for each in self.scale))
        return replace(self, scale=self.scale / by)


def _by_channel(numbers: float | tuple[float, ...], like: Tensor) -> float | Tensor:
    return numbers if isinstance(numbers, float) else torch.tensor(numbers).to(like)[:, None, None]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a family reads one of its text encoders, and where original single files keep it."""

    part: str = "text_encoder"
    """The folder of a diffusers model that holds it."""
    kind: Literal["clip", "t5", "bert", "class"] = "clip"
    activation: str = "quick_gelu"
    """Of a CLIP tower's perceptrons, where no config says it."""
    skip: int = 0
    """How many of the last layers are left out."""
    norm: bool = True
    """Whether the final norm follows the layer that is read."""
    pooled: Literal["pooled", "projected"] = "pooled"
    pooled_in_files: Literal["pooled", "projected"] | None = None
    """What is read of a tower that came from a single file, where that differs."""
    pad: int | None = None
    """The id that fills a text up; None is the end-of-text mark."""
    length: int | None = None
    """Tokens of a text; None is as many as the tower has positions."""
    cut: bool = False
    """Towers in transformers' layout were saved without the layers that are left out."""
    prefix: str = ""
    layout: Literal["transformers", "OpenCLIP", "original"] = "transformers"
    optional: bool = False
    """Zeros stand for an encoder that is not there."""


class Encoding(NamedTuple):
    """What one text encoder says of prompts."""

    tokens: Tensor
    """(B, L, C)"""
    pooled: Tensor
    """(B, D); (B, 0) where there is none."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a request says beside the words, for `prompts` of which there is one for each row; sizes in pixels."""

    prompts: tuple[str, ...]
    spec: Any
    """The denoiser's."""
    width: int
    height: int
    original: tuple[int, int]
    """(width, height) of the picture as it was before it was scaled."""
    crop: tuple[int, int] = (0, 0)
    """(top, left) of the part of it that is wanted."""
    aesthetic: float = 6.0
    guidance: float = 1.0


Beside = Literal["mask", "folded mask", "masked picture", "picture", "unscaled picture", "depth"]
"""What a denoiser may read beside the latent: the mask at the latent's size, or with all pixels under each place as
channels; the latent of the picture, as the first stage gives it where it is unscaled, or of the part that is kept; how
far away things are."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    `condition` turns what the text encoders say, in the order of `readings` (None for one that is not there), into what
    the denoiser is told. `matches` tells the family's denoisers from others by their spec; `published` are those that
    have a name of their own.
    """

    name: str
    pipeline: str
    """The class that a diffusers folder's model_index.json names."""
    process: Process
    prediction: Prediction
    matches: Callable[[Any], bool]
    published: Mapping[str, Any] = field(default_factory=dict)
    latent: Latent = Latent()
    pixels: bool = False
    """There is no first stage; the estimate of the picture is kept within [-1, 1] (Ho et al. 2020)."""
    readings: tuple[Reading, ...]
    condition: Callable[[Sequence[Encoding | None], Told], Conditioning]
    defaults: Defaults
    emphasis: bool = True
    """Prompts are read by A1111's grammar, in as many chunks as they need."""
    beside: tuple[Beside, ...] = ()
    """What the denoiser reads beside the latent, in this order."""
    instructed: bool = False
    """The words say how the picture read beside the latent is changed; guidance has a scale for each (Brooks et al.
    2023, InstructPix2Pix)."""
    zero_empty_negative: bool = False
    """An empty negative prompt is told as zeros."""
    distilled: bool = False
    """Guidance is told to the network, which was distilled for it, and not done by two answers."""
    shift_by_size: bool = False
    """The flow's shift grows with the picture, as FLUX's does."""
    by_name: bool = False
    """Nothing in its files tells it from another family: it is only opened by its name."""
    named: str = ""
    """How its files are named where they were published, as a regular expression over small letters."""
    half: torch.dtype = torch.float16
    """The half precision that holds the family's numbers."""
    prefixes: tuple[str, str] = ("model.diffusion_model.", "first_stage_model.")
    """What stands before the denoiser's and the first stage's names in original single files."""

    @property
    def follows_picture(self) -> bool:
        """Whether all of a picture is read beside the latent."""
        return not {"picture", "unscaled picture"}.isdisjoint(self.beside)
