"""Recipes: everything that decides what a training run makes, as a TOML file.

Every field has a type; an unknown one is an error, and so are networks that cannot be built or do not fit one another.
"""

import tomllib
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from maquette.diffusion.conditioning import Conditioning
from maquette.engine.build import outline
from maquette.engine.device import fastest_device
from maquette.errors import MaquetteError
from maquette.models.clip import CLIPImage, CLIPImageSpec, CLIPText, CLIPTextSpec
from maquette.models.unet import UNet, UNetSpec
from maquette.models.vae import VAE, VAESpec
from maquette.training.adapter import AdapterRecipe
from maquette.training.autoencoder import AutoencoderRecipe
from maquette.training.clip import CLIPRecipe
from maquette.training.diffusion import DiffusionRecipe
from maquette.training.judge import JudgeRecipe
from maquette.training.learner import Precision
from maquette.training.loop import SAVE_EVERY
from maquette.training.scenes import EXTENT
from maquette.training.sketch import SketchRecipe
from maquette.training.stream import processors


class Shapes(BaseModel):
    """The shapes of the networks, in the words of their specifications."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vae: VAESpec
    unet: UNetSpec
    text: CLIPTextSpec
    image: CLIPImageSpec

    @model_validator(mode="after")
    def _make_one_model(self) -> Self:
        """Hours of training end in vain if the last network cannot be built or does not fit the first."""
        for what, one, other in (
            ("vae.channels and unet.in_channels", self.vae.channels, self.unet.in_channels),
            ("vae.channels and unet.out_channels", self.vae.channels, self.unet.out_channels),
            ("text.width and unet.context", self.text.width, self.unet.context),
            ("text.projection and image.projection", self.text.projection, self.image.projection),
            ("image.size and the side of the scenes", self.image.size, EXTENT),
            ("vae.in_channels and the channels of the scenes", self.vae.in_channels, 3),
            ("unet.vector and what the text tower gives", self.unet.vector, None),
        ):
            if one != other:
                raise ValueError(f"{what} must be equal, and are {one} and {other}")
        for name, paint in (
            ("text", self._read),
            ("image", self._look),
            ("vae", self._rebuild),
            ("unet", self._denoise),
        ):
            try:
                with torch.device("meta"), torch.no_grad():
                    paint()
            except (ValueError, RuntimeError, LookupError, ArithmeticError, AssertionError) as error:
                raise ValueError(f"{name}: there is no such network ({str(error).splitlines()[0]})") from error
        return self

    # Each network is built and run without memory, on the meta device: shapes alone.

    def _read(self) -> None:
        outline(CLIPText, self.text)(torch.zeros(1, self.text.positions, dtype=torch.long))

    def _look(self) -> None:
        outline(CLIPImage, self.image)(torch.zeros(1, 3, EXTENT, EXTENT))

    def _rebuild(self) -> None:
        decoded, _ = outline(VAE, self.vae)(torch.zeros(1, 3, EXTENT, EXTENT))
        if decoded.shape[-1] != EXTENT:
            raise ValueError(f"pictures of {EXTENT} pixels come back with {decoded.shape[-1]}")

    def _denoise(self) -> None:
        side = EXTENT // self.vae.factor
        told = Conditioning(tokens=torch.zeros(1, self.text.positions, self.text.width))
        outline(UNet, self.unet)(torch.zeros(1, self.unet.in_channels, side, side), torch.zeros(1), told)


class TokenizerRecipe(BaseModel):
    """How the vocabulary is learned."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(5120, ge=600, description="At most so many tokens.")
    captions: int = Field(40_000, gt=0, description="Captions to learn from.")


class Settings(BaseModel):
    """How any training runs, whatever it makes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0)
    device: str | None = Field(None, description="Such as cuda or cpu; the fastest there is if not given.")
    threads: int | None = Field(None, gt=0, description="CPU threads; PyTorch's choice if not given.")
    workers: int | None = Field(None, gt=0, description="Processes that draw; if not given, all cores but one.")
    precision: Precision = "bfloat16"
    begin: str | None = Field(None, description="A model whose words and weights are gone on from.")
    samples_every: int = Field(1000, gt=0, description="Steps.")
    save_every: float = Field(SAVE_EVERY, ge=0, description="Seconds between checkpoints.")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file; one line for everything that is wrong with it."""
        try:
            return cls.model_validate(load(path))
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
            raise MaquetteError(f"{path}: {wrong}; mend the recipe") from error

    def set_up(self) -> tuple[torch.device, int]:
        """Set PyTorch's threads and precision; where networks learn, and how many processes draw."""
        try:
            device = fastest_device() if self.device is None else torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise MaquetteError(f"the device {self.device!r} cannot be used ({error}); name another one") from error
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TensorFloat-32 for what is not in bfloat16
            torch.backends.cudnn.benchmark = True  # shapes stay the same
        return device, self.workers or processors()


class Recipe(Settings):
    """Everything that decides what a training run makes."""

    stream: int = Field(1, ge=0, description="Seed of the scenes.")
    shapes: Shapes
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    clip: CLIPRecipe
    autoencoder: AutoencoderRecipe
    sketch: SketchRecipe | None = None
    diffusion: DiffusionRecipe

    @model_validator(mode="after")
    def _crops_are_latents(self) -> Self:
        crop, factor = self.autoencoder.crop, self.shapes.vae.factor
        if self.autoencoder.crops and crop % factor:
            raise ValueError(f"autoencoder.crop must be a multiple of the factor of the vae, {factor}, and is {crop}")
        return self

    @model_validator(mode="after")
    def _pools_fill_the_sketches(self) -> Self:
        told, pools = self.sketch, self.diffusion
        if told and (told.batch > pools.pool or told.close_ups > pools.close_pool):
            raise ValueError(
                f"sketch: {told.batch} or {told.close_ups} close-ups are more than the pools of [diffusion] hold: "
                f"{pools.pool} and {pools.close_pool}"
            )
        return self


class JudgeSettings(Settings):
    """The recipe of the judge, which is no part of a model; its seed is that of its scenes too."""

    judge: JudgeRecipe


class AdapterSettings(Settings):
    """The recipe of an adapter beside a finished model; its seed is that of its scenes too."""

    model: str = Field("mini", description="The model that it is for, which stays as it is.")
    begin: str | None = Field(None, description="An adapter that is gone on from.")
    adapter: AdapterRecipe


def read_recipe(path: Path) -> Recipe | JudgeSettings | AdapterSettings:
    """Read a TOML file of any kind."""
    told = load(path)
    return (JudgeSettings if "judge" in told else AdapterSettings if "adapter" in told else Recipe).read(path)


LASTING = ("seed", "stream", "begin", "shapes", "tokenizer", "model", "prediction", "zero_terminal_snr")
"""What no run can change once it is begun: what it has made so far would be read as something else."""


def check_lasting(before: Path, now: Path) -> None:
    """Refuse to go on with a run by a recipe that says something lasting otherwise than its own."""
    old, new = ({**told, **told.get("diffusion", {})} for told in (_dumped(before), _dumped(now)))
    if other := next((name for name in LASTING if old.get(name) != new.get(name)), None):
        raise MaquetteError(
            f"{now}: says another {other} than the run was begun with ({before}); restore it, or give another folder "
            "with --out"
        )


def _dumped(path: Path) -> dict[str, Any]:
    return read_recipe(path).model_dump()


def load(path: Path) -> dict[str, Any]:
    """A recipe's fields, not yet looked at."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise MaquetteError(f"{path}: no such recipe; those of the project are in recipes/") from error
    except (ValueError, OSError) as error:
        raise MaquetteError(f"{path}: is not a TOML file ({error}); give a recipe") from error
