"""What words look like: before the latent model learns, the text tower learns to sketch what its captions show.

From its last states a small head regresses latents: those of the whole picture, and those and the box of each thing.
CLIP's contrast only asks the tower to tell the pictures of a batch apart; of the looks of a thing its states hold
little, and the U-Net would have to learn 1,300 things by heart. The head is thrown away.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from maquette.models.unet import TransformerBlock
from maquette.training.diffusion import SHOWN
from maquette.training.figures import Figures, figure, finite
from maquette.training.latents import LatentBatch
from maquette.training.learner import Learner, OptimiserSpec, Precision
from maquette.training.parts import Parts
from maquette.training.scenes import MOST_THINGS
from maquette.training.sheet import write_sheet

SIDE = 8  # latents a side of a sketch: a thing of 64 pixels in full
HEAD = 64  # channels of an attention head


class SketchRecipe(BaseModel):
    """How the text tower learns to sketch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(gt=0)
    batch: int = Field(256, gt=0, description="Whole scenes.")
    close_ups: int = Field(256, ge=0, description="Close-ups, on other steps.")
    whole_every: int = Field(2, gt=0)
    optimiser: OptimiserSpec = OptimiserSpec(rate=2e-3, muon=0.02, weight_decay=0.01)
    box: float = Field(1.0, ge=0, description="Weight of the error in the boxes.")


class Wanted(NamedTuple):
    """What the sketches of n captions should be: first the whole picture, then its things."""

    latents: Tensor  # (n, 1 + things, C * SIDE * SIDE)
    boxes: Tensor  # (n, 1 + things, 3): the middle and the size, in half pictures; zeros without a thing
    there: Tensor  # (n, 1 + things): 1 where there is something


def wanted(latents: Tensor, boxes: Tensor) -> Wanted:
    """Latents (n, C, h, w) cut and averaged to `SIDE` by boxes (n, things, 3), as (x, y, size) in latents."""
    n, _, extent, _ = latents.shape
    things = latents.new_zeros(n, 1 + boxes.shape[1], latents.shape[1], SIDE, SIDE)
    things[:, 0] = F.adaptive_avg_pool2d(latents, SIDE)
    for row, place in (boxes[..., 2] > 0).nonzero().tolist():
        x, y, size = boxes[row, place].tolist()
        things[row, 1 + place] = F.adaptive_avg_pool2d(latents[row, :, y : y + size, x : x + size], SIDE)
    x, y, size = boxes.float().unbind(2)
    there = (size > 0).float()
    told = (
        torch.stack([(2 * x + size) / extent - 1, (2 * y + size) / extent - 1, 2 * size / extent], 2) * there[..., None]
    )
    first = told.new_tensor([0.0, 0.0, 2.0]).expand(n, 1, 3)
    return Wanted(things.flatten(2), torch.cat([first, told], 1), torch.cat([there.new_ones(n, 1), there], 1))


class Sketch(nn.Module):
    """A head on the states (B, L, width) of a text tower: one query for the picture, one for each thing in it."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1 + MOST_THINGS, width))
        heads = next(heads for heads in range(max(1, width // HEAD), 0, -1) if width % heads == 0)
        self.block = TransformerBlock(width, heads, width)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, channels * SIDE * SIDE + 3)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, 1 + things, C * SIDE * SIDE) and boxes (B, 1 + things, 3)."""
        told = self.out(self.norm(self.block(self.queries.expand(len(states), -1, -1), states)))
        return told[..., :-3], told[..., -3:]


class SketchTask:
    """See the module. Of the parts the text tower learns; the first stage only shows."""

    name = "sketch"

    def __init__(self, recipe: SketchRecipe, seed: int, precision: Precision, parts: Parts) -> None:
        torch.manual_seed(seed)
        self.recipe, self.parts = recipe, parts
        self.sketch = Sketch(parts.text.spec.width, parts.vae.spec.channels)
        both = nn.ModuleDict({"text": parts.text.requires_grad_(), "sketch": self.sketch})
        self.learner = Learner(both, recipe.optimiser, recipe.steps, precision, parts.device)

    def update(self, step: int, batch: LatentBatch) -> Figures:
        assert batch.boxes is not None
        told = wanted(batch.latents * self.parts.scale, batch.boxes)
        told = Wanted(*(each.to(self.parts.device) for each in told))
        latents, boxes = self.sketch(self.parts.states(batch.captions))
        wrong = (latents.float() - told.latents).square().mean(2) * told.there
        picture, things = wrong[:, 0].mean(), wrong[:, 1:].sum() / told.there[:, 1:].sum().clamp(min=1)
        box = (boxes.float() - told.boxes).square().mean()
        loss = picture + things + self.recipe.box * box
        figures = {"loss": finite(loss, "loss", step), "picture": figure(picture), "things": figure(things)}
        loss.backward()
        return {**figures, "box": figure(box), "norm": self.learner.update(step)}

    def best(self) -> dict[str, Tensor]:
        """The text tower's weights."""
        prefix = "text."
        return {name.removeprefix(prefix): w for name, w in self.learner.best().items() if name.startswith(prefix)}

    def state(self) -> dict[str, Tensor]:
        return self.learner.state("sketch")

    def load(self, state: dict[str, Tensor]) -> None:
        self.learner.load(state, "sketch")

    @torch.no_grad()
    def show(self, step: int, folder: Path) -> None:
        """The sketches of the captions that the latent model shows too: a row of pictures, then rows of things."""
        with self.learner.averaged():
            latents, _ = self.sketch(self.parts.states(SHOWN))
        vae, scale = self.parts.vae, self.parts.scale
        shape = (vae.spec.channels, SIDE, SIDE)
        rows = (latents.float() / scale).transpose(0, 1).flatten(0, 1).unflatten(1, shape)
        write_sheet(vae.decode(rows), folder / f"{step:08d}.png", columns=len(SHOWN))
