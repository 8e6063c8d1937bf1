"""A T2I-Adapter that paints from semantic maps, beside a frozen model (Mou et al. 2023; Rombach et al. 2022, 4.3.2).

The map says what is where and how it is outlined; the words say what it is and in which style. Half of the captions
are left out, so that the map is obeyed and not only the words. As in the paper no layer begins at zero.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.objective import Objective, capped_snr, stratified
from maquette.diffusion.process import Scalar
from maquette.engine import kinds
from maquette.engine.build import outline
from maquette.engine.control import ControlNetwork, controlled, open_control
from maquette.engine.control_fit import check_control
from maquette.engine.model import Model
from maquette.models import t2i_adapter_config
from maquette.models.t2i_adapter import T2IAdapter, T2IAdapterSpec
from maquette.training.autoencoder import to_signed
from maquette.training.captions import caption
from maquette.training.diffusion import dropped, regress
from maquette.training.evaluate import LANGUAGES, Advance, Example, Setting, paint
from maquette.training.figures import Figures
from maquette.training.half import write_half
from maquette.training.learner import CPU, Learner, OptimiserSpec, Precision
from maquette.training.loop import SAVE_EVERY, Loop
from maquette.training.palette import palette
from maquette.training.scenes import held_out_scenes
from maquette.training.semantic import MapBatch, MapStream, semantic_picture
from maquette.training.sheet import write_sheet
from maquette.training.stream import SceneStream, prefetched

PALETTE = "palette.json"  # beside the weights
SHOWN, SHOWN_SEED = 8, 8


class AdapterRecipe(BaseModel):
    """How the adapter is trained; `shape` must fit the model's U-Net."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(gt=0)
    batch: int = Field(64, gt=0)
    shape: T2IAdapterSpec
    optimiser: OptimiserSpec = OptimiserSpec(rate=5e-4, ema=0.999)
    snr_cap: float = Field(5.0, gt=1, description="Cap of the weight SNR + 1 on the error in x0.")
    drop: float = Field(0.5, ge=0, le=1, description="Share of captions replaced by the empty one.")
    exact: float = Field(0.6, ge=0, le=1, description="Share of maps with true outlines; the others: ellipses, boxes.")


class AdapterTask:
    """See the module; `model` is finished and stays as it is."""

    name = "adapter"

    def __init__(self, recipe: AdapterRecipe, model: Model, seed: int, precision: Precision) -> None:
        """`precision` is the adapter's; the model computes in its own.

        Raises:
            MaquetteError: the shape does not fit the model.
        """
        spec, stage = recipe.shape, model.first_stage.vae.spec
        check_control(Path("[adapter.shape]"), outline(T2IAdapter, spec), model.name, model.network, stage)
        torch.manual_seed(seed)
        self.recipe, self.model, self.seed, self.device = recipe, model, seed, model.device
        self.adapter = T2IAdapter(spec)
        self.learner = Learner(self.adapter, recipe.optimiser, recipe.steps, precision, model.device)
        self.objective = Objective(
            process=model.process, prediction=model.prediction, density=stratified, weight=capped_snr(recipe.snr_cap)
        )

    def update(self, step: int, batch: MapBatch) -> Figures:
        x0 = self.model.encode(to_signed(batch.pictures, self.device))
        told = self.model.condition(dropped(batch.captions, self.recipe.drop, self.seed, step))
        features = self.adapter(to_unit(batch.maps, self.device))

        def network(x: Tensor, t: Scalar, told: Conditioning) -> Tensor:
            predicted: Tensor = self.model.network(x, t, replace(told, features=features))
            return predicted

        loss, figures = regress(network, self.objective, x0, told, self.seed, step)
        loss.backward()
        return {**figures, "norm": self.learner.update(step)}

    def state(self) -> dict[str, Tensor]:
        return self.learner.state("adapter")

    def load(self, state: dict[str, Tensor]) -> None:
        self.learner.load(state, "adapter")

    def show(self, step: int, folder: Path) -> None:
        """Paint held-out maps with the averaged weights: above the maps, then with words, then without."""
        wanted = map_examples(SHOWN, SHOWN_SEED)
        maps = maps_of(wanted)
        rows, setting = [to_signed(maps)], Setting.of(self.model.family.defaults)
        with self.learner.averaged():
            control = ControlNetwork(path=folder, model=self.model, network=self.adapter)
            for words in ([each.caption for each in wanted], [""] * SHOWN):
                rows.append(to_signed(paint_maps(control, maps, words, range(SHOWN), setting)))
        write_sheet(torch.cat(rows), folder / f"{step:08d}.png", columns=SHOWN)


def map_examples(count: int, seed: int) -> list[Example]:
    """Scenes of all kinds that training never shows, with captions in English and Chinese by turns."""
    told = []
    for k, scene in enumerate(held_out_scenes(count, seed)):
        language = LANGUAGES[k % 2]
        told.append(Example(scene, caption(scene, np.random.default_rng([seed, k]), language), language))
    return told


def maps_of(wanted: Sequence[Example]) -> Tensor:
    """The maps of examples, (n, 128, 128, 3) in bytes."""
    return torch.from_numpy(np.stack([semantic_picture(example.scene) for example in wanted]))


def to_unit(maps: object, device: torch.device = CPU) -> Tensor:
    """Maps (B, H, W, 3) in bytes as an adapter reads them: (B, 3, H, W) in [0, 1]."""
    return (to_signed(maps, device) + 1) / 2


@torch.no_grad()
def paint_maps(
    control: ControlNetwork,
    maps: Tensor,
    captions: Sequence[str],
    seeds: Sequence[int],
    setting: Setting,
    advance: Advance = lambda count: None,
) -> Tensor:
    """Pictures (n, 128, 128, 3) in bytes by maps (n, 128, 128, 3), each with its caption and seed."""
    model = control.model
    denoise = controlled(model.denoiser, [control.follow(to_unit(maps, model.device))])
    return paint(model, captions, seeds, setting, advance, denoise)


def train_adapter(
    folder: Path,
    recipe: AdapterRecipe,
    model: Model,
    *,
    out: Path,
    begin: Path | None = None,
    seed: int = 0,
    precision: Precision = "bfloat16",
    samples_every: int = 1000,
    console: Console | None = None,
    workers: int = 1,
    deadline: float = math.inf,
    save_every: float = SAVE_EVERY,
) -> Path:
    """Train an adapter for a model, where the model is, going on from the newest checkpoint, and save it in `out`.

    `begin` is a saved adapter to start from; `seed` is that of its scenes too; `workers` processes draw. At the
    deadline, on the monotonic clock, it saves and raises TimeIsUp.
    """
    task = AdapterTask(recipe, model, seed, precision)
    if begin is not None:
        task.learner.begin(open_control(begin, model).network.state_dict())
    loop = Loop(task, folder, recipe.steps, samples_every, console or Console(stderr=True), save_every, deadline)
    start, stream = loop.resume(), MapStream(SceneStream(seed), recipe.exact)
    with prefetched(stream, start * recipe.batch, recipe.batch, workers=workers) as batches:
        loop.run(start, batches)
    return save_adapter(out, recipe.shape, task.learner.best())


def save_adapter(folder: Path, spec: T2IAdapterSpec, weights: Mapping[str, Tensor]) -> Path:
    """Write an adapter's weights in half precision as diffusers' T2IAdapter, and the palette of its maps."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as staged:
        place = Path(staged) / "adapter"
        write_half(place, kinds.T2I_ADAPTER, spec, weights, t2i_adapter_config.to_config(spec))
        palette().write(place / PALETTE)
        for file in sorted(place.iterdir(), key=lambda path: path.suffix == ".json"):
            file.replace(folder / file.name)
    return folder
