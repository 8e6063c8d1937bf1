"""The evaluation: pictures painted for captions that training never saw, read by a judge that training never met.

Half of the scenes show one object, half two in a relation; half of the captions are English, half Chinese. The same
judge reads the drawn scenes themselves: what a perfect painter would be said to have right.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from maquette.diffusion.denoise import Denoiser
from maquette.diffusion.guidance import Pair, cfg
from maquette.diffusion.noise import SeededNoise
from maquette.diffusion.samplers import sampler, walk
from maquette.diffusion.schedules import schedule
from maquette.engine.image import to_bytes
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.families.family import Defaults
from maquette.training.autoencoder import to_signed
from maquette.training.captions import Language, caption
from maquette.training.drawing import draw
from maquette.training.kept import Kept
from maquette.training.metrics import Moments, frechet_distance, psnr, ssim
from maquette.training.readings import Judging, Score, read, score
from maquette.training.scenes import EXTENT, Scene, held_out_scenes

COUNT, SEED = 400, 2026
BATCH = 25  # pictures at once
FIGURES = ("object", "objects", "background", "relation", "recolour", "everything")
LANGUAGES: tuple[Language, Language] = ("en", "zh")
OTHER_SEED = 1  # added to the seed for the drawn scenes that the Fréchet distance is taken to

Advance = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Example:
    """A held-out scene and what is said of it."""

    scene: Scene
    caption: str
    language: Language


class Setting(BaseModel):
    """How pictures are painted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    guidance: float
    sampler: str
    steps: int
    schedule: str

    @classmethod
    def of(cls, defaults: Defaults) -> "Setting":
        """What a family paints with unless told otherwise."""
        return cls(
            guidance=defaults.guidance, sampler=defaults.sampler, steps=defaults.steps, schedule=defaults.schedule
        )

    def __str__(self) -> str:
        return f"{self.sampler}, {self.steps} steps, {self.schedule}, guidance {self.guidance:g}"


class Tally(BaseModel):
    """How many were right, and of how many."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    right: int = 0
    of: int = 0

    @property
    def share(self) -> float:
        """The share that was right; NaN if there were none."""
        return self.right / self.of if self.of else math.nan

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(right=self.right + other.right, of=self.of + other.of)


class Report(BaseModel):
    """What the judge says of a set of pictures.

    `tallies` has for each language those of FIGURES: object (of single ones), objects (both of two), background,
    relation, recolour, and everything (none of those wrong). `frechet` is the squared Fréchet distance
    to drawn held-out scenes in the judge's features, the means over the picture of what it sees in each cell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tallies: dict[Language, dict[str, Tally]]
    frechet: float

    def tally(self, figure: str, language: Language | None = None) -> Tally:
        """One figure's tally, in one language or in both."""
        languages = LANGUAGES if language is None else (language,)
        return sum((self.tallies[each][figure] for each in languages), Tally())


class FirstStageReport(BaseModel):
    """How well the first stage rebuilds drawn held-out scenes: means over pictures; PSNR in decibels."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    psnr: float
    ssim: float
    count: int


@cache
def examples(count: int = COUNT, seed: int = SEED, language: Language | None = None) -> tuple[Example, ...]:
    """The captions to paint: singles and pairs, English and Chinese by turns; the same on every machine.

    In one `language` alone they are of the same scenes, and as before where that had been its language anyway.
    """
    if count < 4:
        raise MaquetteError(f"{count} captions are too few to evaluate with: use at least 4")
    single = held_out_scenes((count + 1) // 2, seed, "single")
    pairs = held_out_scenes(count // 2, seed, "relation")
    found = []
    for k in range(count):
        spoken = language or LANGUAGES[k // 2 % 2]
        scene = (pairs if k % 2 else single)[k // 2]
        found.append(Example(scene, caption(scene, np.random.default_rng([seed, k]), spoken), spoken))
    return tuple(found)


def drawn(scenes: Sequence[Scene]) -> Tensor:
    """The scenes' own pictures, (n, 128, 128, 3) in bytes."""
    return torch.from_numpy(np.stack([draw(scene) for scene in scenes]))


@torch.no_grad()
def paint(
    model: Model,
    captions: Sequence[str],
    seeds: Sequence[int],
    setting: Setting,
    advance: Advance,
    denoise: Denoiser | None = None,
) -> Tensor:
    """Pictures of captions, one for each seed, (n, 128, 128, 3) in bytes; `advance` is told of every step.

    `denoise` is asked instead of the model's own denoiser: one that follows pictures, say.
    """
    chunks = model.chunks(*captions)
    told, untold = model.condition(captions, chunks=chunks), model.condition([""], chunks=chunks, negative=True)
    pair = Pair(denoise or model.denoiser, told, untold.repeat(len(captions)))
    levels = schedule(setting.schedule, model.process, setting.steps)
    take, shape = sampler(setting.sampler), model.latent_shape(EXTENT, EXTENT)
    for step in walk(take, cfg(pair, setting.guidance), levels, SeededNoise(seeds), shape, model.device):
        x = step.x
        advance(len(captions))
    return to_bytes(model.decode(x))


def paint_all(
    model: Model, wanted: Sequence[Example], setting: Setting, seed: int, console: Console, kept: Kept | None = None
) -> Tensor:
    """A picture of each example, (n, 128, 128, 3) in bytes; picture k has the seed `seed + k`, whatever the setting.

    What is `kept` is not painted again, and what is painted is kept.
    """
    parts = []
    with counting(str(setting), len(wanted) * setting.steps, console) as advance:
        for start in range(0, len(wanted), BATCH):
            captions = [example.caption for example in wanted[start : start + BATCH]]
            pictures = None if kept is None else kept.get(start, len(captions))
            if pictures is None:
                seeds = range(seed + start, seed + start + len(captions))
                pictures = paint(model, captions, seeds, setting, advance)
                if kept is not None:
                    kept.put(start, pictures)
            else:
                advance(len(captions) * setting.steps)
            parts.append(pictures)
    return torch.cat(parts)


def grade(pictures: Tensor, wanted: Sequence[Example], judge: Judging, seed: int = SEED) -> Report:
    """Have pictures (n, H, W, 3) in bytes read, and compare with what the examples say."""
    verdicts, features = judged(pictures, wanted, judge)
    tallies = {language: dict.fromkeys(FIGURES, Tally()) for language in LANGUAGES}
    for verdict, example in zip(verdicts, wanted, strict=True):
        for figure, right in verdict.items():
            tallies[example.language][figure] += Tally(right=right, of=1)
    reference = drawn([example.scene for example in examples(len(wanted), seed + OTHER_SEED)])
    others = torch.cat([read(judge, to_signed(part))[1] for part in reference.split(BATCH)])
    return Report(tallies=tallies, frechet=frechet_distance(Moments.of(features), Moments.of(others)))


def judged(pictures: Tensor, wanted: Sequence[Example], judge: Judging) -> tuple[list[dict[str, bool]], Tensor]:
    """What is right in each picture (n, H, W, 3) in bytes, by figure, and the judge's features of them (n, width)."""
    readings, features = [], []
    for part in pictures.split(BATCH):
        read_part, features_part = read(judge, to_signed(part))
        readings += read_part
        features.append(features_part)
    scenes = [example.scene for example in wanted]
    verdicts = [_figures(score(reading, scene), scene) for reading, scene in zip(readings, scenes, strict=True)]
    return verdicts, torch.cat(features)


def _figures(scored: Score, scene: Scene) -> dict[str, bool]:
    """The figures to which a picture contributes."""
    figures = {
        "object": scored.object if scene.kind == "single" else None,
        "objects": scored.object if scene.kind != "single" else None,
        "background": scored.background,
        "relation": scored.relation,
        "recolour": scored.recolour,
        "everything": scored.everything,
    }
    return {figure: right for figure, right in figures.items() if right is not None}


def evaluate(
    model: Model,
    *,
    judge: Judging,
    count: int = COUNT,
    seed: int = SEED,
    setting: Setting | None = None,
    console: Console | None = None,
    kept: Kept | None = None,
) -> Report:
    """Paint `count` held-out captions in one setting (the family's own if not given) and have the pictures read.

    It goes on from the pictures that are `kept`.
    """
    wanted = examples(count, seed)
    setting = setting or Setting.of(model.family.defaults)
    pictures = paint_all(model, wanted, setting, seed, console or Console(stderr=True), kept)
    return grade(pictures, wanted, judge, seed)


def evaluate_drawn(judge: Judging, count: int = COUNT, seed: int = SEED) -> Report:
    """What the judge says of the drawn scenes themselves: its own reliability, which bounds every other report."""
    wanted = examples(count, seed)
    return grade(drawn([example.scene for example in wanted]), wanted, judge, seed)


@torch.no_grad()
def evaluate_first_stage(model: Model, count: int = COUNT, seed: int = SEED) -> FirstStageReport:
    """Encode and decode drawn held-out scenes, and compare in bytes."""
    pictures = drawn([example.scene for example in examples(count, seed)])
    noise, likeness = [], []
    for part in pictures.split(BATCH):
        x = to_signed(part)
        rebuilt = to_signed(to_bytes(model.decode(model.encode(x.to(model.device)))))
        noise.append(psnr(rebuilt, x))
        likeness.append(ssim(rebuilt, x))
    return FirstStageReport(psnr=float(torch.cat(noise).mean()), ssim=float(torch.cat(likeness).mean()), count=count)


@contextmanager
def counting(what: str, total: int, console: Console) -> Iterator[Advance]:
    """A bar with the time left, in the block; what is yielded is told of progress."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda amount: progress.advance(bar, amount)
