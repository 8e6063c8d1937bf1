"""A run of a recipe: from drawn scenes to a model that paints, stage by stage, each resumable.

tokenizer -> CLIP -> autoencoder (refined with CLIP's features) -> cached latents -> sketches, if the recipe has them
-> latent model. `export` makes a folder in the diffusers layout of it.
"""

import hashlib
import math
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from maquette.engine.model import Model
from maquette.engine.open import open as open_model
from maquette.engine.text import TextEncoder
from maquette.errors import MaquetteError
from maquette.models.clip import CLIPText, CLIPTextSpec
from maquette.models.unet import UNet
from maquette.models.vae import VAE
from maquette.text.tokenizer import CLIPTokenizer
from maquette.training.adapter import train_adapter
from maquette.training.autoencoder import AutoencoderTask, Features, to_signed
from maquette.training.clip import CLIP, CLIPTask
from maquette.training.diffusion import DiffusionTask
from maquette.training.judge import train_judge
from maquette.training.latents import LatentBatch, LatentPool, Turns, chosen
from maquette.training.learner import CPU, Learner
from maquette.training.lock import locked
from maquette.training.loop import Loop, Task, TimeIsUp
from maquette.training.parts import Parts
from maquette.training.recipe import AdapterSettings, JudgeSettings, Recipe, check_lasting, read_recipe
from maquette.training.scenes import CLOSE, EXTENT
from maquette.training.sketch import SketchTask
from maquette.training.stream import SceneStream, Source, prefetched
from maquette.weights.atomic_file import replacing
from maquette.weights.safetensors_file import SafetensorsFile, write_safetensors

M = TypeVar("M", bound=nn.Module)
Item = TypeVar("Item")
LATENTS, CLOSE_UPS = "latents", "close-ups"  # the folders of cached latents
STAGES = ("tokenizer", "clip", "autoencoder", "sketch", "diffusion")
RECIPE, WEIGHTS = "recipe.toml", "weights.safetensors"  # the files of a run that others read
TEXT = "text.safetensors"  # of the latent model, if the text tower learned with it
HALF_WRITTEN = re.compile(r"\.([0-9a-f]{16}|tokenizer)\.tmp")
TOGETHER, TOGETHER_FAST = 64, 512  # pictures that are encoded at once, on the CPU and on an accelerator


@dataclass
class Run:
    """One run of a recipe in a folder; each finished stage leaves its weights there for the next."""

    recipe: Recipe
    folder: Path
    console: Console = field(default_factory=lambda: Console(stderr=True))
    device: torch.device = CPU
    workers: int = 1  # processes that draw
    deadline: float = math.inf  # on the monotonic clock

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
        task = CLIPTask(
            told.clip, self.text_spec, told.shapes.image, self.words, told.seed, told.precision, self.device
        )
        if self._reader:
            task.learner.begin({f"text.{name}": weight for name, weight in self._reader.tower.state_dict().items()})
        self._train(task, task.learner, told.clip.steps, told.clip.batch, scenes=False)

    def train_autoencoder(self) -> None:
        told = self.recipe
        features = self._features()
        task = AutoencoderTask(told.autoencoder, told.shapes.vae, told.seed, told.precision, features, self.device)
        if self.origin:
            task.learner.begin(self.origin.first_stage.vae.state_dict())
        recipe = told.autoencoder
        self._train(task, task.learner, recipe.steps, recipe.drawn, scenes=recipe.crops > 0)

    def train_sketch(self) -> None:
        """The text tower learns what captions look like; nothing to do if the recipe does not ask for it."""
        told, recipe = self.recipe, self.recipe.sketch
        if recipe is None:
            return
        vae = self.vae().to(self.device, self.dtype)
        pool, close_pool = self._fill(vae), self._fill(vae, close=True) if recipe.close_ups else None
        parts = Parts(self.clip().text.to(self.device), self.words, vae, pool.scale(), self.device)
        task = SketchTask(recipe, told.seed, told.precision, parts)
        loop, factor = self._loop(task, recipe.steps), told.shapes.vae.factor
        close = close_pool.epochs(told.seed, factor) if close_pool else None
        turns = Turns(
            pool.epochs(told.seed, factor), recipe.batch, close, recipe.close_ups, recipe.whole_every, recipe.steps
        )
        self._learn(loop, turns, pool, close_pool)
        write_safetensors(self.folder / task.name / WEIGHTS, task.best(), {})

    def train_diffusion(self) -> None:
        told = self.recipe
        vae = self.vae().to(self.device, self.dtype)
        pool, close_pool = self._fill(vae), self._fill(vae, close=True) if told.diffusion.close_ups else None
        dtype = self.dtype if told.diffusion.text is None else torch.float32  # what learns is rounded by its learner
        text = self._learned_text().to(self.device, dtype)
        parts = Parts(text, self.words, vae, pool.scale(), self.device)
        task = DiffusionTask(told.diffusion, told.shapes.unet, told.seed, told.precision, parts)
        if self.origin:
            task.learner.begin(self.origin.network.state_dict())
        if self._reader and task.reader and told.sketch is None:
            task.reader.begin(self._reader.tower.state_dict())
        self._learn(self._loop(task, told.diffusion.steps), self._turns(pool, close_pool), pool, close_pool)
        if task.reader:
            write_safetensors(self.folder / "diffusion" / TEXT, task.reader.best(), {})
        self._finish("diffusion", task.learner, {"scale": str(parts.scale)})

    def _learn(self, loop: Loop[LatentBatch], turns: Turns, pool: LatentPool, close_pool: LatentPool | None) -> None:
        start = loop.resume()
        with self._drawn(turns, start, 1) as choices:
            loop.run(start, chosen(choices, pool, close_pool))

    def _turns(self, pool: LatentPool, close_pool: LatentPool | None) -> Turns:
        told, seed = self.recipe.diffusion, self.recipe.seed
        whole_from = told.steps if told.whole_from is None else told.whole_from
        close = close_pool.epochs(seed) if close_pool else None
        return Turns(pool.epochs(seed), told.batch, close, told.close_ups, told.whole_every, whole_from)

    def _loop(self, task: Task[Any], steps: int) -> Loop[Any]:
        told = self.recipe
        folder = self.folder / task.name
        return Loop(task, folder, steps, told.samples_every, self.console, told.save_every, self.deadline)

    def _drawn(self, source: Source[Item], start: int, count: int) -> AbstractContextManager[Iterator[Item]]:
        return prefetched(source, start, count, workers=self.workers)

    def _train(self, task: Task[Any], learner: Learner, steps: int, batch: int, *, scenes: bool) -> None:
        loop = self._loop(task, steps)
        start = loop.resume()
        with self._drawn(SceneStream(self.recipe.stream, scenes=scenes), start * batch, batch) as batches:
            loop.run(start, batches)
        self._finish(task.name, learner, {})

    def _finish(self, stage: str, learner: Learner, metadata: dict[str, str]) -> None:
        write_safetensors(self.folder / stage / WEIGHTS, learner.best(), metadata)

    def _fill(self, vae: VAE, close: bool = False) -> LatentPool:
        told = self.recipe
        side = (CLOSE if close else EXTENT) // told.shapes.vae.factor
        size = told.diffusion.close_pool if close else told.diffusion.pool
        stream = SceneStream(told.stream + 1, scenes=False, close=close)
        shape = (told.shapes.vae.channels, side, side)
        pool = LatentPool(self.folder / (CLOSE_UPS if close else LATENTS), stream, size, shape, self._mark())
        if pool.filled < pool.size:
            start, count = pool.filled, TOGETHER if self.device.type == "cpu" else TOGETHER_FAST
            with self._drawn(stream, start, count) as batches:
                filling = pool.fill(batches, lambda x: vae.encode(x).mean, partial(to_signed, device=self.device))
                for _ in track(filling, pool.folder.name, total=-(-(pool.size - start) // count), console=self.console):
                    if time.monotonic() > self.deadline:
                        raise TimeIsUp(f"latents: the time is up; --resume goes on from about {pool.filled}")
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

    def text(self) -> CLIPText:
        """The finished text tower: as the latent model left it, or CLIP's."""
        if self.recipe.diffusion.text is None:
            return self._learned_text()
        return self._finished("diffusion", CLIPText(self.text_spec), TEXT)

    def _learned_text(self) -> CLIPText:
        """The text tower that the latent model begins with."""
        if self.recipe.sketch is None:
            return self.clip().text
        return self._finished("sketch", CLIPText(self.text_spec))

    def vae(self) -> VAE:
        """The finished first stage."""
        return self._finished("autoencoder", VAE(self.recipe.shapes.vae))

    def unet(self) -> UNet:
        """The finished latent model."""
        return self._finished("diffusion", UNet(self.recipe.shapes.unet))

    def scale(self) -> float:
        """What brings the finished first stage's latents to unit variance."""
        return float(SafetensorsFile(self.folder / "diffusion" / WEIGHTS).metadata["scale"])

    def _finished(self, stage: str, network: M, weights: str = WEIGHTS) -> M:
        path = self.folder / stage / weights
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
        tower = self.clip().image.to(self.device, self.dtype)
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
    minutes: float = math.inf,
    console: Console | None = None,
) -> Path:
    """Train a recipe's stages in order (or one of them); the folder of the run, by default runs/ and its name.

    Finished stages are skipped. A folder that holds an unfinished run is gone on with only if `resume`. After so many
    `minutes` training saves and stops.

    Raises:
        MaquetteError: the recipe is wrong, the folder is taken, full or not writable, or a loss became NaN.
    """
    deadline = time.monotonic() + 60 * minutes
    settings = read_recipe(path)
    stages = STAGES if isinstance(settings, Recipe) else ()
    if stage is not None and stage not in stages:
        raise MaquetteError(f"unknown stage {stage!r}: use one of {', '.join(stages) or 'none, with this recipe'}")
    if stage == "sketch" and isinstance(settings, Recipe) and settings.sketch is None:
        raise MaquetteError(f"{path}: has no [sketch]; add it, or leave this stage out")
    folder, console = folder or Path("runs") / settings.name, console or Console(stderr=True)
    device, workers = settings.set_up()
    try:
        with locked(folder):
            if resume and not (folder / RECIPE).exists():
                console.print(f"{folder}: holds no run yet; one begins")
            _prepare(path, folder, resume)
            if isinstance(settings, Recipe):
                run = Run(settings, folder, console, device, workers, deadline)
                _train_stages(run, STAGES if stage is None else (stage,))
            else:
                _train_part(settings, folder, console, device, workers, deadline)
    except TimeIsUp as stopped:
        console.print(str(stopped))
    except OSError as error:
        raise MaquetteError(
            f"{error.filename or folder}: {error.strerror or error}; mend this, then go on with --resume"
        ) from error
    return folder


def _train_stages(run: Run, stages: tuple[str, ...]) -> None:
    for name in stages:
        if (run.folder / name / WEIGHTS).exists():
            run.console.print(f"{name}: finished before")
        else:
            getattr(run, f"train_{name}")()


def _train_part(
    told: JudgeSettings | AdapterSettings,
    folder: Path,
    console: Console,
    device: torch.device,
    workers: int,
    deadline: float,
) -> None:
    shared: dict[str, Any] = {
        "out": folder / "trained", "begin": Path(told.begin) if told.begin else None, "seed": told.seed,
        "precision": told.precision, "console": console, "workers": workers, "deadline": deadline,
        "save_every": told.save_every,
    }  # fmt: skip
    if isinstance(told, JudgeSettings):
        train_judge(folder / "judge", told.judge, device=device, **shared)
    else:
        model = open_model(told.model, device=str(device), dtype=told.precision)
        train_adapter(folder / "adapter", told.adapter, model, samples_every=told.samples_every, **shared)


def _prepare(recipe: Path, folder: Path, resume: bool) -> None:
    """Make the folder of a run, sweep away what a killed one left half-written, and keep the recipe there."""
    begun = ("*/checkpoints/*.json", f"*/{WEIGHTS}", "tokenizer")
    if not resume and any(any(folder.glob(pattern)) for pattern in begun):
        raise MaquetteError(f"{folder}: holds a run already; go on with --resume, or give another folder with --out")
    if resume and (folder / RECIPE).exists():
        check_lasting(folder / RECIPE, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    inner = [
        folder / stage / name for stage in (*STAGES, "judge", "adapter") for name in ("", "checkpoints", "samples")
    ]
    for place in (folder, folder / LATENTS, folder / CLOSE_UPS, *inner):
        for leftover in [path for path in place.glob(".*.tmp") if HALF_WRITTEN.fullmatch(path.name)]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    with replacing(folder / RECIPE) as file:
        file.write(recipe.read_bytes())
