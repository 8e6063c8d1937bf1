"""A recipe: the whole chain from drawn scenes to a model that paints, stage by stage, each resumable.

tokenizer -> CLIP -> autoencoder (refined with CLIP's features) -> cached latents -> latent model -> a folder in the
diffusers layout. A recipe is a TOML file; every field has a type, and an unknown one is an error.
"""

import hashlib
import re
import shutil
import tomllib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.engine.build import outline
from maquette.engine.model import Model
from maquette.engine.open import open as open_model
from maquette.engine.text import TextEncoder
from maquette.errors import MaquetteError
from maquette.models.clip import CLIPImage, CLIPImageSpec, CLIPText, CLIPTextSpec
from maquette.models.unet import UNet, UNetSpec
from maquette.models.vae import VAE, VAESpec
from maquette.text.tokenizer import CLIPTokenizer
from maquette.training.autoencoder import AutoencoderRecipe, AutoencoderTask, Features, to_signed
from maquette.training.clip import CLIP, CLIPRecipe, CLIPTask
from maquette.training.diffusion import DiffusionRecipe, DiffusionTask
from maquette.training.latents import LatentPool
from maquette.training.learner import Learner, Precision
from maquette.training.loop import SAVE_EVERY, Loop, Task
from maquette.training.scenes import EXTENT
from maquette.training.stream import SceneStream, prefetched
from maquette.weights.atomic_file import replacing
from maquette.weights.safetensors_file import SafetensorsFile, write_safetensors

M = TypeVar("M", bound=nn.Module)
STAGES = ("tokenizer", "clip", "autoencoder", "diffusion")
RECIPE, WEIGHTS = "recipe.toml", "weights.safetensors"  # the files of a run that others read
HALF_WRITTEN = re.compile(r"\.([0-9a-f]{16}|tokenizer)\.tmp")
FILLED = 64  # pictures that are encoded together


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


class Recipe(BaseModel):
    """Everything that decides what a training run makes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0)
    stream: int = Field(1, ge=0, description="Seed of the scenes.")
    threads: int | None = Field(None, gt=0, description="CPU threads; PyTorch's choice if not given.")
    precision: Precision = "bfloat16"
    begin: str | None = Field(None, description="A model whose words and weights are gone on from.")
    samples_every: int = Field(1000, gt=0, description="Steps.")
    save_every: float = Field(SAVE_EVERY, ge=0, description="Seconds between checkpoints.")
    shapes: Shapes
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    clip: CLIPRecipe
    autoencoder: AutoencoderRecipe
    diffusion: DiffusionRecipe

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        """Read a TOML file; one line for everything that is wrong with it."""
        try:
            return cls.model_validate(tomllib.loads(path.read_text("utf-8")))
        except FileNotFoundError as error:
            raise MaquetteError(f"{path}: no such recipe; those of the project are in recipes/") from error
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
            raise MaquetteError(f"{path}: {wrong}; mend the recipe") from error
        except (ValueError, OSError) as error:
            raise MaquetteError(f"{path}: is not a TOML file ({error}); give a recipe") from error


@dataclass
class Run:
    """One run of a recipe in a folder; each finished stage leaves its weights there for the next."""

    recipe: Recipe
    folder: Path
    console: Console = field(default_factory=lambda: Console(stderr=True))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The run that `train` made in a folder."""
        if not (folder / RECIPE).is_file():
            raise MaquetteError(f"{folder}: holds no run (no {RECIPE}); give the folder that 'maquette train' printed")
        return cls(Recipe.read(folder / RECIPE), folder)

    @cached_property
    def words(self) -> CLIPTokenizer:
        """The vocabulary, learned once, or that of the model gone on from."""
        folder, length = self.folder / "tokenizer", self.recipe.shapes.text.positions
        if not folder.exists():
            unfinished = self.folder / ".tokenizer.tmp"
            (self._reader.tokenizer if self._reader else self._learn_words(length)).write(unfinished)
            unfinished.rename(folder)  # a killed run leaves all of it or nothing
        return CLIPTokenizer.read(folder, length=length)

    def _learn_words(self, length: int) -> CLIPTokenizer:
        told, stream = self.recipe.tokenizer, SceneStream(self.recipe.stream)
        numbers = track(range(told.captions), "words", console=self.console, transient=True)
        return CLIPTokenizer.train([stream.item(k)[1] for k in numbers], told.size, length=length)

    @cached_property
    def origin(self) -> Model | None:
        """The model that training goes on from."""
        if self.recipe.begin is None:
            return None
        return open_model(self.recipe.begin, device="cpu", dtype=torch.float32)

    @property
    def _reader(self) -> TextEncoder | None:
        """What reads the prompts of the model gone on from."""
        if self.origin is None:
            return None
        (encoder,) = self.origin.encoders
        if not isinstance(encoder, TextEncoder):
            raise MaquetteError(f"{self.recipe.begin}: has no CLIP text tower of its own; begin with another model")
        return encoder

    @property
    def dtype(self) -> torch.dtype:
        """What finished stages compute in while a later one learns."""
        return torch.bfloat16 if self.recipe.precision == "bfloat16" else torch.float32

    @property
    def text_spec(self) -> CLIPTextSpec:
        """The text tower's shape with the vocabulary as it came out."""
        return replace(self.recipe.shapes.text, vocabulary=len(self.words), end=self.words.end)

    def train_tokenizer(self) -> None:
        self.console.print(f"words: {len(self.words)} tokens in {self.folder / 'tokenizer'}")

    def train_clip(self) -> None:
        told = self.recipe
        task = CLIPTask(told.clip, self.text_spec, told.shapes.image, self.words, told.seed, told.precision)
        if self._reader:
            task.learner.begin({f"text.{name}": weight for name, weight in self._reader.tower.state_dict().items()})
        self._train(task, task.learner, told.clip.steps, told.clip.batch)

    def train_autoencoder(self) -> None:
        told = self.recipe
        task = AutoencoderTask(told.autoencoder, told.shapes.vae, told.seed, told.precision, self._features())
        if self.origin:
            task.learner.begin(self.origin.first_stage.vae.state_dict())
        self._train(task, task.learner, told.autoencoder.steps, told.autoencoder.drawn)

    def train_diffusion(self) -> None:
        told = self.recipe
        vae, text = self.vae().to(self.dtype), self.clip().text.to(self.dtype)
        pool = self._fill(vae)
        task = DiffusionTask(
            told.diffusion, told.shapes.unet, told.seed, told.precision,
            text=text, tokenizer=self.words, vae=vae, scale=pool.scale(),
        )  # fmt: skip
        if self.origin:
            task.learner.begin(self.origin.network.state_dict())
        loop = self._loop(task, told.diffusion.steps)
        start = loop.resume()
        loop.run(start, pool.batches(start, told.diffusion.batch, told.seed))
        self._finish("diffusion", task.learner, {"scale": str(task.scale)})

    def _loop(self, task: Task[Any], steps: int) -> Loop[Any]:
        told = self.recipe
        return Loop(task, self.folder / task.name, steps, told.samples_every, self.console, told.save_every)

    def _train(self, task: Task[Any], learner: Learner, steps: int, batch: int) -> None:
        loop = self._loop(task, steps)
        start = loop.resume()
        with prefetched(SceneStream(self.recipe.stream), start * batch, batch) as batches:
            loop.run(start, batches)
        self._finish(task.name, learner, {})

    def _finish(self, stage: str, learner: Learner, metadata: dict[str, str]) -> None:
        write_safetensors(self.folder / stage / WEIGHTS, learner.best(), metadata)

    def _fill(self, vae: VAE) -> LatentPool:
        told = self.recipe
        side = EXTENT // told.shapes.vae.factor
        stream, shape = SceneStream(told.stream + 1), (told.shapes.vae.channels, side, side)
        pool = LatentPool(self.folder / "latents", stream, told.diffusion.pool, shape, self._mark())
        if pool.filled < pool.size:
            start = pool.filled
            with prefetched(stream, start, FILLED) as batches:
                filling = pool.fill(batches, lambda x: vae.encode(x).mean, to_signed)
                for _ in track(filling, "latents", total=-(-(pool.size - start) // FILLED), console=self.console):
                    pass
        return pool

    def _mark(self) -> str:
        """The digest of what encodes: the decoder may learn on while its latents are in use."""
        weights, found = load_file(self.folder / "autoencoder" / WEIGHTS), hashlib.blake2b(digest_size=16)
        for name in sorted(weights):
            if name.startswith(("encoder.", "quant_conv.")):
                found.update(name.encode() + weights[name].numpy().tobytes())
        return found.hexdigest()

    def clip(self) -> CLIP:
        """The finished towers, in float32 as all finished stages."""
        return self._finished("clip", CLIP(self.text_spec, self.recipe.shapes.image))

    def vae(self) -> VAE:
        """The finished first stage."""
        return self._finished("autoencoder", VAE(self.recipe.shapes.vae))

    def unet(self) -> UNet:
        """The finished latent model."""
        return self._finished("diffusion", UNet(self.recipe.shapes.unet))

    def scale(self) -> float:
        """What brings the finished first stage's latents to unit variance."""
        return float(SafetensorsFile(self.folder / "diffusion" / WEIGHTS).metadata["scale"])

    def _finished(self, stage: str, network: M) -> M:
        path = self.folder / stage / WEIGHTS
        if not path.exists():
            raise MaquetteError(f"{path}: the stage {stage!r} is not finished; train it first (--stage {stage})")
        try:
            network.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise MaquetteError(
                f"{path}: is damaged or of another shape than the recipe says ({error}); restore the recipe, or remove "
                "the file and train the stage again"
            ) from error
        network.eval().requires_grad_(False)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _features(self) -> Features | None:
        """CLIP's patches after each layer, as what the perceptual loss compares."""
        if not self.recipe.autoencoder.perceptual:
            return None
        tower = self.clip().image.to(self.dtype)
        side = tower.spec.size

        def features(x: Tensor) -> list[Tensor]:
            if x.shape[-1] != side:  # a crop is looked at as large as a whole picture
                x = F.interpolate(x.float(), size=(side, side), mode="bilinear")
            return list(tower(x).hidden[1:])

        return features


def train(
    path: Path,
    *,
    folder: Path | None = None,
    stage: str | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Train a recipe's stages in order (or one of them); the folder of the run, by default runs/ and its name.

    Finished stages are skipped. A folder that holds an unfinished run is gone on with only if `resume`.

    Raises:
        MaquetteError: the recipe is wrong, the folder is taken, full or not writable, or a loss became NaN.
    """
    recipe = Recipe.read(path)
    if stage is not None and stage not in STAGES:
        raise MaquetteError(f"unknown stage {stage!r}: use one of {', '.join(STAGES)}")
    run = Run(recipe, folder or Path("runs") / recipe.name, console or Console(stderr=True))
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    try:
        _prepare(path, run.folder, resume)
        for name in STAGES if stage is None else (stage,):
            if (run.folder / name / WEIGHTS).exists():
                run.console.print(f"{name}: finished before")
            else:
                getattr(run, f"train_{name}")()
    except OSError as error:
        raise MaquetteError(
            f"{error.filename or run.folder}: {error.strerror or error}; mend this, then go on with --resume"
        ) from error
    return run.folder


def _prepare(recipe: Path, folder: Path, resume: bool) -> None:
    """Make the folder of a run, sweep away what a killed one left half-written, and keep the recipe there."""
    if not resume and any(folder.glob("*/checkpoints/*.json")):
        raise MaquetteError(f"{folder}: holds a run already; go on with --resume, or give another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    inner = [folder / stage / name for stage in STAGES for name in ("", "checkpoints", "samples")]
    for place in (folder, folder / "latents", *inner):
        for leftover in [path for path in place.glob(".*.tmp") if HALF_WRITTEN.fullmatch(path.name)]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    with replacing(folder / RECIPE) as file:
        file.write(recipe.read_bytes())
