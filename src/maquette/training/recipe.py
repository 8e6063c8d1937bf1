"""A recipe: the whole chain from drawn scenes to a model that paints, stage by stage, each resumable.

tokenizer -> CLIP -> autoencoder (refined with CLIP's features) -> cached latents -> latent model -> a folder in the
diffusers layout. A recipe is a TOML file; every field has a type, and an unknown one is an error.
"""

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn

from maquette.errors import MaquetteError
from maquette.models.clip import CLIPImageSpec, CLIPTextSpec
from maquette.models.unet import UNet, UNetSpec
from maquette.models.vae import VAE, VAESpec
from maquette.text.tokenizer import CLIPTokenizer
from maquette.training.autoencoder import AutoencoderRecipe, AutoencoderTask, Features, to_signed
from maquette.training.clip import CLIP, CLIPRecipe, CLIPTask
from maquette.training.diffusion import DiffusionRecipe, DiffusionTask
from maquette.training.latents import LatentPool
from maquette.training.learner import Learner, Precision
from maquette.training.loop import Loop
from maquette.training.stream import SceneStream, prefetched
from maquette.weights.safetensors_file import SafetensorsFile, write_safetensors

M = TypeVar("M", bound=nn.Module)
STAGES = ("tokenizer", "clip", "autoencoder", "diffusion")


class Shapes(BaseModel):
    """The shapes of the networks, in the words of their specifications."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vae: VAESpec
    unet: UNetSpec
    text: CLIPTextSpec
    image: CLIPImageSpec


class TokenizerRecipe(BaseModel):
    """How the vocabulary is learned."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(5120, ge=600, description="At most so many tokens.")
    captions: int = Field(40_000, gt=0, description="Captions to learn from.")


class Recipe(BaseModel):
    """Everything that decides what a training run makes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    seed: int = 0
    stream: int = Field(1, description="Seed of the scenes.")
    threads: int | None = Field(None, description="CPU threads; PyTorch's choice if not given.")
    precision: Precision = "bfloat16"
    samples_every: int = 1000
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
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise MaquetteError(f"{path}: is not a TOML file ({error})") from error
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
            raise MaquetteError(f"{path}: {wrong}") from error


@dataclass
class Run:
    """One run of a recipe in a folder; each finished stage leaves its weights there for the next."""

    recipe: Recipe
    folder: Path
    console: Console

    @cached_property
    def words(self) -> CLIPTokenizer:
        """The vocabulary, learned once."""
        folder = self.folder / "tokenizer"
        if not (folder / "vocab.json").exists():
            told, stream = self.recipe.tokenizer, SceneStream(self.recipe.stream)
            numbers = track(range(told.captions), "words", console=self.console, transient=True)
            texts = [stream.item(k)[1] for k in numbers]
            CLIPTokenizer.train(texts, told.size, length=self.recipe.shapes.text.positions).write(folder)
        return CLIPTokenizer.read(folder)

    @property
    def dtype(self) -> torch.dtype:
        """What finished stages compute in while a later one learns."""
        return torch.bfloat16 if self.recipe.precision == "bfloat16" else torch.float32

    @property
    def text_spec(self) -> CLIPTextSpec:
        """The text tower's shape with the vocabulary as it came out."""
        told = self.recipe.shapes.text.__dict__ | {"vocabulary": len(self.words), "end": self.words.end}
        return CLIPTextSpec(**told)

    def train_tokenizer(self) -> None:
        self.console.print(f"words: {len(self.words)} tokens in {self.folder / 'tokenizer'}")

    def train_clip(self) -> None:
        told = self.recipe
        task = CLIPTask(told.clip, self.text_spec, told.shapes.image, self.words, told.seed, told.precision)
        self._train(task, task.learner, told.clip.steps, told.clip.batch)

    def train_autoencoder(self) -> None:
        told = self.recipe
        task = AutoencoderTask(told.autoencoder, told.shapes.vae, told.seed, told.precision, self._features())
        self._train(task, task.learner, told.autoencoder.steps, told.autoencoder.batch)

    def train_diffusion(self) -> None:
        told = self.recipe
        vae, text = self.vae().to(self.dtype), self.clip().text.to(self.dtype)
        pool = self._fill(vae)
        task = DiffusionTask(
            told.diffusion, told.shapes.unet, told.seed, told.precision,
            text=text, tokenizer=self.words, vae=vae, scale=pool.scale(),
        )  # fmt: skip
        loop = Loop(task, self.folder / "diffusion", told.diffusion.steps, told.samples_every, self.console)
        start = loop.resume()
        loop.run(start, pool.batches(start, told.diffusion.batch, told.seed))
        self._finish("diffusion", task.learner, {"scale": str(task.scale)})

    def _train(self, task: Any, learner: Learner, steps: int, batch: int) -> None:
        loop: Loop[Any] = Loop(task, self.folder / task.name, steps, self.recipe.samples_every, self.console)
        start = loop.resume()
        with prefetched(SceneStream(self.recipe.stream), start * batch, batch) as batches:
            loop.run(start, batches)
        self._finish(task.name, learner, {})

    def _finish(self, stage: str, learner: Learner, metadata: dict[str, str]) -> None:
        write_safetensors(self.folder / stage / "weights.safetensors", learner.best(), metadata)

    def _fill(self, vae: VAE) -> LatentPool:
        told = self.recipe
        side = 128 // told.shapes.vae.factor
        mark = str(sum(float(p.double().abs().sum()) for p in vae.encoder.parameters()))
        stream, shape = SceneStream(told.stream + 1), (told.shapes.vae.channels, side, side)
        pool = LatentPool(self.folder / "latents", stream, told.diffusion.pool, shape, mark)
        if pool.filled < pool.size:
            start = pool.filled
            with prefetched(stream, start, 64) as batches:
                filling = pool.fill(batches, lambda x: vae.encode(x).mean, to_signed)
                for _ in track(filling, "latents", total=(pool.size - start) // 64, console=self.console):
                    pass
        return pool

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
        return float(SafetensorsFile(self.folder / "diffusion/weights.safetensors").metadata["scale"])

    def _finished(self, stage: str, network: M) -> M:
        path = self.folder / stage / "weights.safetensors"
        if not path.exists():
            raise MaquetteError(f"{path}: the stage {stage!r} is not finished; train it first (--stage {stage})")
        network.load_state_dict(load_file(path))
        network.eval().requires_grad_(False)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def _features(self) -> Features | None:
        """CLIP's patches after each layer, as what the perceptual loss compares."""
        if not self.recipe.autoencoder.perceptual:
            return None
        image = self.clip().image.to(self.dtype)

        def features(x: Tensor) -> list[Tensor]:
            return list(image(x).hidden[1:])

        return features


def train(
    path: Path,
    *,
    folder: Path | None = None,
    stage: str | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Train a recipe's stages in order (or one of them); the folder of the run.

    Finished stages are skipped. A folder that holds an unfinished run is gone on with only if `resume`.
    """
    recipe = Recipe.read(path)
    folder = folder or Path("runs") / recipe.name
    console = console or Console(stderr=True)
    if stage is not None and stage not in STAGES:
        raise MaquetteError(f"unknown stage {stage!r}: use one of {', '.join(STAGES)}")
    if not resume and folder.exists() and any(folder.glob("*/checkpoints/*.json")):
        raise MaquetteError(f"{folder}: holds a run already; go on with --resume, or give another folder with --out")
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    run = Run(recipe, folder, console)
    for name in STAGES if stage is None else (stage,):
        if (folder / name / "weights.safetensors").exists():
            console.print(f"{name}: finished before")
            continue
        getattr(run, f"train_{name}")()
    return folder
