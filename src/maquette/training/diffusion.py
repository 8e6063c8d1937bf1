"""Stage two: the latent model, a U-Net with cross-attention to CLIP's states (Rombach et al. 2022, section 3.3).

Captions are dropped with a small probability, so that one network learns both halves of classifier-free guidance
(Ho & Salimans 2022); a moving average of the weights is what paints. The text tower may learn on with the U-Net, as in
section 3.3 of the paper (equation 3), and most updates may see close-ups, which cost a quarter of a whole scene.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Network, denoiser
from maquette.diffusion.guidance import Pair, cfg
from maquette.diffusion.noise import SeededNoise
from maquette.diffusion.objective import Objective, capped_snr, losses_by_time, stratified, towards_noise
from maquette.diffusion.prediction import PREDICTIONS
from maquette.diffusion.process import Discrete
from maquette.diffusion.samplers import sampler, walk
from maquette.diffusion.schedules import schedule
from maquette.diffusion.transfer import to_device
from maquette.models.unet import UNet, UNetSpec
from maquette.training.figures import Figures, finite
from maquette.training.latents import LatentBatch
from maquette.training.learner import Learner, OptimiserSpec, Precision
from maquette.training.loop import generator
from maquette.training.parts import Parts
from maquette.training.scenes import EXTENT
from maquette.training.sheet import write_sheet

NOISE, TIME, DROP = 1, 2, 3  # the purposes of a step's random numbers

SHOWN = (
    "a red apple on a blue background",
    "a cat",
    "a pizza to the left of a dog",
    "three bananas",
    "a green frog at the top",
    "a blue apple",
    "a rocket above a tree on a black background",
    "a pixel art fish",
    "蓝色背景上的红苹果",
    "一只猫",
    "狗在披萨的左边",
    "黄色背景上的一辆汽车",
    "三个苹果",
    "一朵花",
    "黑色背景上的火箭",
    "一只老虎在右边",
)


class DiffusionRecipe(BaseModel):
    """How the latent model is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(gt=0)
    batch: int = Field(64, gt=0)
    pool: int = Field(65536, gt=0, description="Scenes whose latents are cached.")
    close_ups: int = Field(0, ge=0, description="So many close-ups instead of whole scenes, on other steps.")
    close_pool: int = Field(131072, gt=0, description="Close-ups whose latents are cached.")
    whole_every: int = Field(3, gt=0, description="With close-ups, the steps from one with whole scenes to the next.")
    whole_from: int | None = Field(None, ge=0, description="The step from which only whole scenes are seen.")
    optimiser: OptimiserSpec = OptimiserSpec(rate=1e-3, ema=0.9995, weight_decay=0.01)
    text: OptimiserSpec | None = Field(None, description="How the text tower learns on, if it does.")
    prediction: Literal["epsilon", "sample", "v"] = "v"
    zero_terminal_snr: bool = True
    snr_cap: float | None = Field(
        5.0, gt=1, description="Cap of the weight SNR + 1 on the error in x0; None: plain squares."
    )
    shift: float = Field(1.0, gt=0, description="Above 1, more of the times have much noise: where the words decide.")
    compile: bool = Field(False, description="On CUDA alone.")
    drop: float = Field(0.1, ge=0, le=1, description="Share of captions replaced by the empty one.")

    @model_validator(mode="after")
    def _can_be_trained(self) -> Self:
        if self.pool < self.batch:
            raise ValueError(f"the pool of {self.pool} scenes does not fill a batch of {self.batch}")
        if self.close_pool < self.close_ups:
            raise ValueError(f"the pool of {self.close_pool} close-ups does not fill a batch of {self.close_ups}")
        if self.prediction == "epsilon" and self.zero_terminal_snr:
            raise ValueError("pure noise is its own epsilon: predict v, or set zero_terminal_snr = false")
        return self


def process_of(recipe: DiffusionRecipe) -> Discrete:
    """SD's schedule of betas."""
    return Discrete.scaled_linear(zero_terminal_snr=recipe.zero_terminal_snr)


def dropped(captions: Sequence[str], share: float, seed: int, step: int) -> list[str]:
    """The captions of an update, about a share of them replaced by the empty one."""
    chances = torch.rand(len(captions), generator=generator(seed, step, DROP))
    return ["" if drop else caption for caption, drop in zip(captions, (chances < share).tolist(), strict=True)]


def regress(
    network: Network, objective: Objective, x0: Tensor, told: Conditioning, seed: int, step: int
) -> tuple[Tensor, Figures]:
    """The mean loss of an update with the noise and the times of its step, and what to show of it."""
    noise = to_device(torch.randn(x0.shape, generator=generator(seed, step, NOISE)), x0.device)
    t = objective.draw_times(len(x0), generator(seed, step, TIME))
    losses = objective.losses(network, x0, told, t, noise)
    loss = losses.mean()
    figures = {"loss": finite(loss, "loss", step)}
    if step % 25 == 24:
        by_time, _ = losses_by_time(losses.detach(), t, objective.process, bins=4)
        figures |= {f"t{i}": float(value) for i, value in enumerate(by_time) if value == value}
    return loss, figures


class DiffusionTask:
    """See the module. The parts stay as they are, but for the text tower if the recipe lets it learn."""

    name = "diffusion"

    def __init__(self, recipe: DiffusionRecipe, spec: UNetSpec, seed: int, precision: Precision, parts: Parts) -> None:
        torch.manual_seed(seed)
        self.recipe, self.seed, self.parts = recipe, seed, parts
        device = parts.device
        self.unet = UNet(spec)
        self.learner = Learner(self.unet, recipe.optimiser, recipe.steps, precision, device)
        self.reader: Learner | None = None
        if recipe.text is not None:
            self.reader = Learner(parts.text.requires_grad_(), recipe.text, recipe.steps, precision, device)
        self.network = torch.compile(self.unet) if recipe.compile and device.type == "cuda" else self.unet
        self.process = process_of(recipe)
        self.prediction = PREDICTIONS[recipe.prediction]
        weight = None if recipe.snr_cap is None else capped_snr(recipe.snr_cap)
        density = towards_noise(stratified, recipe.shift)
        self.objective = Objective(process=self.process, prediction=self.prediction, density=density, weight=weight)

    def update(self, step: int, batch: LatentBatch) -> Figures:
        x0 = to_device(batch.latents, self.parts.device) * self.parts.scale
        told = self.condition(dropped(batch.captions, self.recipe.drop, self.seed, step))
        loss, figures = regress(self.network, self.objective, x0, told, self.seed, step)
        loss.backward()
        words = {} if self.reader is None else {"words": self.reader.update(step)}
        return {**figures, **words, "norm": self.learner.update(step)}

    def condition(self, captions: Sequence[str]) -> Conditioning:
        """What the network is told: CLIP's last states after the final norm, as in SD 1."""
        return Conditioning(tokens=self.parts.states(captions))

    def state(self) -> dict[str, Tensor]:
        return self.learner.state("unet") | (self.reader.state("text") if self.reader else {})

    def load(self, state: dict[str, Tensor]) -> None:
        self.learner.load(state, "unet")
        if self.reader is not None:
            self.reader.load(state, "text")

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block all that learns works with its moving average."""
        with ExitStack() as stack:
            for learner in filter(None, (self.learner, self.reader)):
                stack.enter_context(learner.averaged())
            yield

    def show(self, step: int, folder: Path) -> None:
        """Paint the `SHOWN` captions with the averaged weights: DPM++ 2M, 16 steps, guidance 5."""
        with self.averaged(), torch.no_grad():
            told, untold = self.condition(SHOWN), self.condition([""] * len(SHOWN))
            ask = denoiser(self.unet, self.prediction, self.unet.dtype)
            vae, scale = self.parts.vae, self.parts.scale
            side = EXTENT // vae.spec.factor
            shape, noise = (self.unet.spec.out_channels, side, side), SeededNoise(range(len(SHOWN)))
            guided, levels = cfg(Pair(ask, told, untold), 5.0), schedule("trailing", self.process, 16)
            for painted in walk(sampler("dpmpp_2m"), guided, levels, noise, shape, self.parts.device):
                x = painted.x
            write_sheet(vae.decode(x / scale), folder / f"{step:08d}.png", columns=8)
