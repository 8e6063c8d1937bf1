"""Training the judge on drawn scenes alone: it never sees a picture of the model that it will judge.

Its scenes come from a stream of their own. What it learns of each cell of 8 x 8 pixels is drawn with the scene: the
emoji that covers most of it, that emoji's recolouring, and for the whole picture the background.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from torch import Tensor

from maquette.diffusion.transfer import to_device
from maquette.engine.build import fill, outline
from maquette.engine.open import ASSETS, read_json
from maquette.errors import MaquetteError
from maquette.models.judge import CELL, Judge, JudgeSpec
from maquette.training.autoencoder import to_signed
from maquette.training.checkpoint import digest
from maquette.training.crops import corners, crop
from maquette.training.degradation import degrade
from maquette.training.emoji import KNOWN, catalogue, fingerprint
from maquette.training.figures import Figures, figure, finite
from maquette.training.half import halved
from maquette.training.learner import CPU, Learner, OptimiserSpec, Precision
from maquette.training.loop import SAVE_EVERY, Loop, generator
from maquette.training.scenes import EXTENT, MOST_THINGS, Background, Scene
from maquette.training.stream import Batch, SceneStream, prefetched
from maquette.training.words import BACKGROUNDS, RECOLOURS
from maquette.weights.atomic_file import replacing
from maquette.weights.safetensors_file import SafetensorsFile, write_safetensors

STREAM = 77  # the seed of its scenes
SHIPPED, WEIGHTS = ASSETS / "judge", "judge.safetensors"
COVERED = 0.25  # of a cell's pixels make it foreground
RECOLOUR_LABELS = {None: 0} | {colour: label for label, colour in enumerate(RECOLOURS, 1)}
BACKGROUND_LABELS = {colour: label for label, colour in enumerate(BACKGROUNDS)}
PLAIN, DOWNWARD, SIDEWAYS = range(3)
DAMAGE, CELLS = 1, 2  # the purposes of a step's random numbers


class JudgeRecipe(BaseModel):
    """How the judge is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(5000, gt=0)
    batch: int = Field(32, gt=0)
    optimiser: OptimiserSpec = OptimiserSpec(rate=2e-3, weight_decay=0.02, ema=0.999, decay=0.4)
    crops: int = Field(0, ge=0, description="So many crops around objects instead of whole pictures, on other steps.")
    crop: int = Field(64, gt=0, le=EXTENT, multiple_of=2 * CELL, description="Side of the crops.")
    whole_every: int = Field(4, gt=0, description="With crops, the steps from one with whole pictures to the next.")
    cells: tuple[int, int] = Field((16, 24), description="Cells of the background and of things that count, a picture.")
    recolour: float = Field(0.5, ge=0, description="Weight of the recolouring's cross-entropy.")
    background: float = Field(0.3, ge=0, description="Weight of each of the background's three cross-entropies.")

    @property
    def drawn(self) -> int:
        """Scenes that each step is given."""
        return max(self.batch, self.crops)


class Labels(NamedTuple):
    """What the judge should say of n pictures, as class numbers."""

    emoji: Tensor  # (n, h, w): 0 background, else index + 1
    recolour: Tensor  # (n, h, w)
    backdrop: Tensor  # (n, 3): first colour, second colour, direction


def judge_spec() -> JudgeSpec:
    """The shape that tells this catalogue apart."""
    return JudgeSpec(emoji=len(catalogue()), recolours=len(RECOLOURS), backgrounds=len(BACKGROUNDS))


def labels(scenes: list[Scene], maps: NDArray[np.int16]) -> Labels:
    """The labels of scenes with the semantic maps (n, H, W): a cell belongs to what covers most of it, if 1/4 is."""
    n, height, width = maps.shape
    emoji = np.full((n, MOST_THINGS), -1, np.int16)
    recolours = np.zeros((n, MOST_THINGS), np.int64)
    for k, scene in enumerate(scenes):
        for place, thing in enumerate(scene.things):
            emoji[k, place], recolours[k, place] = thing.emoji + 1, RECOLOUR_LABELS[thing.recolour]
    cells = maps.reshape(n, 1, height // CELL, CELL, width // CELL, CELL)
    counts = (cells == emoji[:, :, None, None, None, None]).sum((3, 5))  # (n, things, h, w)
    covered = (cells > 0).mean((1, 3, 5)) >= COVERED
    most = counts.argmax(1)
    rows = np.arange(n)[:, None, None]
    return Labels(
        torch.from_numpy(np.where(covered, emoji[rows, most], 0).astype(np.int64)),
        torch.from_numpy(np.where(covered, recolours[rows, most], 0)),
        torch.tensor([backdrop_labels(scene.background) for scene in scenes]),
    )


def backdrop_labels(background: Background) -> tuple[int, int, int]:
    """Colour at the start, colour at the end, direction."""
    first, last = background.colours[0], background.colours[-1]
    direction = PLAIN if background.to is None else SIDEWAYS if background.horizontal else DOWNWARD
    return BACKGROUND_LABELS[first], BACKGROUND_LABELS[last], direction


class JudgeTask:
    """See the module; batches must carry their semantic maps."""

    name = "judge"

    def __init__(
        self, recipe: JudgeRecipe, spec: JudgeSpec, seed: int, precision: Precision, device: torch.device = CPU
    ) -> None:
        torch.manual_seed(seed)
        self.recipe, self.seed, self.device = recipe, seed, device
        self.judge = Judge(spec)
        self.learner = Learner(self.judge, recipe.optimiser, recipe.steps, precision, device)
        self.shown: Figures = {}

    def update(self, step: int, batch: Batch) -> Figures:
        scenes, pictures, maps = self._view(step, batch)
        wanted = labels(scenes, maps)
        x = degrade(to_signed(pictures, self.device), generator(self.seed, step, DAMAGE))
        cells = self.judge.look(x)
        chosen = self._counted(step, wanted.emoji > 0).flatten().nonzero().flatten()  # on the CPU, which knows at once
        things = (wanted.emoji.flatten()[chosen] > 0).nonzero().flatten()
        wanted = Labels(*(to_device(label, self.device) for label in wanted))
        chosen, things = chosen.to(self.device), things.to(self.device)
        rows, told = cells.permute(0, 2, 3, 1).flatten(0, 2)[chosen], wanted.emoji.flatten()[chosen]
        emoji = self.judge.emoji(rows).float()
        recolour = self.judge.recolour(rows[things]).float()
        loss = F.cross_entropy(emoji, told)
        loss = loss + self.recipe.recolour * F.cross_entropy(recolour, wanted.recolour.flatten()[chosen][things])
        figures = {"object": figure((emoji.argmax(1) == told)[things].float().mean())}
        if len(pictures[0]) == len(batch.pictures[0]):  # a crop's background may be another part of a gradient
            backdrop = [logits.float() for logits in self.judge.backdrop(x, cells)]
            names = zip(backdrop, wanted.backdrop.unbind(1), strict=True)
            loss = loss + self.recipe.background * torch.stack([F.cross_entropy(*pair) for pair in names]).sum()
            right = torch.stack([logits.argmax(1) for logits in backdrop], 1) == wanted.backdrop
            figures["background"] = figure(right.all(1).float().mean())
        figures["loss"] = finite(loss, "loss", step)
        loss.backward()
        self.learner.update(step)
        self.shown = figures
        return figures

    def _view(self, step: int, batch: Batch) -> tuple[list[Scene], NDArray[np.uint8], NDArray[np.int16]]:
        """The scenes of a step, their pictures and their maps: whole, or crops around objects."""
        assert batch.maps is not None
        told = self.recipe
        if step % told.whole_every == 0 or not told.crops:
            return batch.scenes[: told.batch], batch.pictures[: told.batch], batch.maps[: told.batch]
        scenes, rng = batch.scenes[: told.crops], np.random.default_rng((self.seed, step))
        at = corners(scenes, told.crop, batch.pictures.shape[1], CELL, rng)
        return scenes, crop(batch.pictures, at, told.crop), crop(batch.maps, at, told.crop)

    def _counted(self, step: int, things: Tensor) -> Tensor:
        """Which cells count (n, h, w): about the same number in each picture, whether its things are large or small."""
        chances = torch.rand(things.shape, generator=generator(self.seed, step, CELLS))
        counted = torch.zeros_like(things)
        for most, kind in zip(self.recipe.cells, (~things, things), strict=True):
            counted |= kind & (chances * kind.sum((1, 2), keepdim=True) < most)
        return counted

    def state(self) -> dict[str, Tensor]:
        return self.learner.state("judge")

    def load(self, state: dict[str, Tensor]) -> None:
        self.learner.load(state, "judge")

    def show(self, step: int, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{step:08d}.json").write_text(
            json.dumps({name: float(value) for name, value in self.shown.items()}) + "\n"
        )


def train_judge(
    folder: Path,
    recipe: JudgeRecipe | None = None,
    *,
    out: Path = SHIPPED,
    begin: Path | None = None,
    seed: int = STREAM,
    precision: Precision = "bfloat16",
    console: Console | None = None,
    device: torch.device = CPU,
    workers: int = 1,
    deadline: float = math.inf,
    save_every: float = SAVE_EVERY,
) -> Judge:
    """Train the judge in `folder`, going on from its newest checkpoint if there is one, and save it in `out`.

    `begin` is a saved judge to start from; `workers` processes draw. At the deadline, on the monotonic clock, it saves
    and raises TimeIsUp.
    """
    recipe = recipe or JudgeRecipe()
    task = JudgeTask(recipe, judge_spec(), seed, precision, device)
    if begin is not None:
        task.learner.begin(load_judge(begin).state_dict())
    console = console or Console(stderr=True)
    loop = Loop(task, folder, recipe.steps, recipe.steps, console, save_every, deadline)
    start = loop.resume()
    with prefetched(SceneStream(seed, maps=True), start * recipe.drawn, recipe.drawn, workers=workers) as batches:
        loop.run(start, batches)
    save_judge(out, task.judge.spec, task.learner.best(), {"seed": seed, **recipe.model_dump()})
    return load_judge(out)


def save_judge(folder: Path, spec: JudgeSpec, weights: Mapping[str, Tensor], recipe: Mapping[str, object]) -> None:
    """Write a judge's weights in half precision, its shape, how it was trained and the catalogue that it knows."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / WEIGHTS, halved(weights, "judge"))
    record = {"spec": asdict(spec), "catalogue": fingerprint(), "recipe": recipe}
    with replacing(folder / "config.json") as file:
        file.write((json.dumps(record, indent=2) + "\n").encode())


def load_judge(folder: Path = SHIPPED) -> Judge:
    """A judge that was saved, in float32; by default the package's.

    Raises:
        MaquetteError: there is none, it is damaged, or its catalogue of emoji is not the one of this machine's font.
    """
    record = read_json(folder / "config.json")
    if record.get("catalogue") != fingerprint():
        raise MaquetteError(
            f"{folder}: the judge was trained on another version of the emoji font or of the Unicode names (the "
            f"package's own on {KNOWN}); install the one it knows, or train a judge on this one"
        )
    told = record["spec"]
    spec = JudgeSpec(**{**told, "widths": tuple(told["widths"])})
    weights = SafetensorsFile(folder / WEIGHTS)
    return fill(outline(Judge, spec), weights, torch.device("cpu"), torch.float32)


def judge_hash(folder: Path = SHIPPED) -> str:
    """Ten digits that change with a saved judge's weights."""
    return digest(folder / WEIGHTS)[:10]
