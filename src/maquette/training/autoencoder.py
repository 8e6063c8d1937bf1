"""Stage one: the KL autoencoder (Rombach et al. 2022, section 3.1 and appendix G; Esser et al. 2021).

Reconstruction (L1 + L2), a slight KL penalty, and from a given step on a perceptual loss on the features of our own
CLIP's image tower and a patch critic with a hinge loss, weighted by the ratio of the gradients at the last layer.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from maquette.diffusion.transfer import to_device
from maquette.models.critic import Critic, CriticSpec
from maquette.models.vae import VAE, VAESpec
from maquette.training.crops import corners, crop
from maquette.training.figures import Figures, figure, finite
from maquette.training.learner import CPU, Learner, OptimiserSpec, Precision
from maquette.training.loop import generator
from maquette.training.scenes import EXTENT
from maquette.training.sheet import write_sheet
from maquette.training.stream import Batch

Features = Callable[[Tensor], list[Tensor]]
"""Pictures (B, 3, H, W) in [-1, 1] -> features (B, patches, width), layer by layer, in which nearness is likeness."""


class AutoencoderRecipe(BaseModel):
    """How stage one is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(gt=0)
    batch: int = Field(16, gt=0, description="Whole pictures in a step.")
    optimiser: OptimiserSpec = OptimiserSpec(rate=1e-3, ema=0.999)
    kl: float = Field(1e-2, ge=0, description="Weight of the KL term, per pixel, in nats.")
    perceptual: float = Field(0.1, ge=0)
    adversarial: float = Field(0.1, ge=0)
    refine_from: int = Field(ge=0, description="The step from which the perceptual and the adversarial loss are on.")
    freeze_encoder_from: int | None = Field(None, ge=0, description="The step from which only the decoder learns.")
    critic: OptimiserSpec = OptimiserSpec(rate=2e-4, betas=(0.5, 0.9), weight_decay=0.0)
    crops: int = Field(0, ge=0, description="So many crops around objects instead of whole pictures, on other steps.")
    whole_every: int = Field(2, gt=0, description="With crops, the steps from one with whole pictures to the next.")
    crop: int = Field(64, gt=0, le=EXTENT, description="Side of the crops.")
    compile: bool = Field(False, description="On CUDA alone.")

    @property
    def drawn(self) -> int:
        """Scenes that each step is given."""
        return max(self.batch, self.crops)


class AutoencoderTask:
    """See the module. `features` is needed only if the recipe refines."""

    name = "autoencoder"

    def __init__(
        self,
        recipe: AutoencoderRecipe,
        spec: VAESpec,
        seed: int,
        precision: Precision,
        features: Features | None,
        device: torch.device = CPU,
    ) -> None:
        torch.manual_seed(seed)
        self.recipe, self.seed, self.features, self.device = recipe, seed, features, device
        self.vae = VAE(spec)
        self.learner = Learner(self.vae, recipe.optimiser, recipe.steps, precision, device)
        self.critic = Critic(CriticSpec(width=32))
        self.critic_learner = Learner(
            self.critic, recipe.critic, max(1, recipe.steps - recipe.refine_from), precision, device
        )
        self.encode, self.decode = self.vae.encode, self.vae.decode
        if recipe.compile and device.type == "cuda":
            self.encode, self.decode = torch.compile(self.encode), torch.compile(self.decode)
        self.shown: Tensor | None = None

    def update(self, step: int, batch: Batch) -> Figures:
        x = to_signed(self._view(step, batch), self.device)
        frozen = self.recipe.freeze_encoder_from is not None and step >= self.recipe.freeze_encoder_from
        if step == self.recipe.freeze_encoder_from:
            self.learner.settle()
        channels, factor = self.vae.spec.channels, self.vae.spec.factor
        shape = (len(x), channels, x.shape[2] // factor, x.shape[3] // factor)
        noise = torch.randn(shape, generator=generator(self.seed, step))
        noise = to_device(noise, self.device, self.vae.encoder.dtype)
        with torch.set_grad_enabled(not frozen):
            posterior = self.encode(x)
        decoded = self.decode(posterior.sample(noise))
        error = decoded.float() - x
        l1, l2 = error.abs().mean(), error.square().mean()
        kl = posterior.kl().mean() / x[0].numel()
        loss = l1 + l2 + self.recipe.kl * kl
        figures = {"psnr": figure(10 * torch.log10(4 / error.detach().square().mean((1, 2, 3))).mean())}
        if step >= self.recipe.refine_from:
            loss = loss + self._refinement(x, decoded, l1 + l2, figures)
        figures = {"loss": finite(loss, "loss", step), **figures}
        loss.backward()
        self.learner.update(step)
        if step >= self.recipe.refine_from and self.recipe.adversarial:
            figures["critic"] = self._update_critic(step, x, decoded.detach())
        if step % 100 == 0:
            self.shown = torch.cat([x[:8], decoded[:8].detach().float()])
        return figures

    def _view(self, step: int, batch: Batch) -> NDArray[np.uint8]:
        """Whole pictures, or crops around objects: more of what is hard to draw for the same work."""
        if step % self.recipe.whole_every == 0 or not self.recipe.crops:
            return batch.pictures[: self.recipe.batch]
        side, rng = self.recipe.crop, np.random.default_rng((self.seed, step))
        scenes, extent = batch.scenes[: self.recipe.crops], batch.pictures.shape[1]
        return crop(batch.pictures, corners(scenes, side, extent, self.vae.spec.factor, rng), side)

    def _refinement(
        self, x: Tensor, decoded: Tensor, reconstruction: Tensor, figures: dict[str, float | Tensor]
    ) -> Tensor:
        """The perceptual loss, and the adversarial one scaled to its share of the last layer's gradient."""
        total = torch.zeros((), device=x.device)
        if self.recipe.perceptual and self.features is not None:
            with torch.no_grad():
                wanted = self.features(x)
            distances = [perceptual(a, b) for a, b in zip(self.features(decoded), wanted, strict=True)]
            perceived = torch.stack(distances).mean()
            figures["perceptual"] = figure(perceived)
            total = total + self.recipe.perceptual * perceived
        if self.recipe.adversarial:
            fooled = -self.critic(decoded).float().mean()
            last = self.vae.decoder.conv_out.weight
            (wanted_gradient,) = torch.autograd.grad(reconstruction, last, retain_graph=True)
            (fooled_gradient,) = torch.autograd.grad(fooled, last, retain_graph=True)
            ratio = wanted_gradient.float().norm() / (fooled_gradient.float().norm() + 1e-4)
            total = total + self.recipe.adversarial * ratio.clamp(0, 1e4) * fooled
        return total

    def _update_critic(self, step: int, x: Tensor, decoded: Tensor) -> float | Tensor:
        """The hinge loss (Lim & Ye 2017): drawn patches above 1, reconstructed ones below -1."""
        self.critic.zero_grad(set_to_none=True)
        loss = 0.5 * (F.relu(1 - self.critic(x).float()).mean() + F.relu(1 + self.critic(decoded).float()).mean())
        loss.backward()
        self.critic_learner.update(step - self.recipe.refine_from)
        return finite(loss, "critic's loss", step)

    def state(self) -> dict[str, Tensor]:
        return {**self.learner.state("vae"), **self.critic_learner.state("critic")}

    def load(self, state: dict[str, Tensor]) -> None:
        self.learner.load(state, "vae")
        self.critic_learner.load(state, "critic")

    def show(self, step: int, folder: Path) -> None:
        if self.shown is not None:
            write_sheet(self.shown, folder / f"{step:08d}.png", columns=8)


def to_signed(pictures: object, device: torch.device = CPU) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1], channels-last, on the device."""
    x = to_device(torch.as_tensor(pictures), device).permute(0, 3, 1, 2)
    return (x.float() / 127.5 - 1.0).contiguous(memory_format=torch.channels_last)


def perceptual(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of unit-length features (Zhang et al. 2018, eq. 1, without learned weights)."""
    return (F.normalize(a.float(), dim=-1) - F.normalize(b.float(), dim=-1)).square().sum(-1).mean()
