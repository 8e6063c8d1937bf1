"""CLIP by contrast (Radford et al. 2021, figure 3): pictures and their captions find each other in a batch.

The loss is the symmetric cross-entropy over the n x n matrix of similarities; the temperature is learned.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from maquette.diffusion.transfer import to_device
from maquette.models.clip import CLIPImage, CLIPImageSpec, CLIPText, CLIPTextSpec
from maquette.text.tokenizer import CLIPTokenizer
from maquette.training.autoencoder import to_signed
from maquette.training.figures import Figures, figure, finite
from maquette.training.learner import CPU, Learner, OptimiserSpec, Precision
from maquette.training.stream import Batch

HOTTEST = 100.0  # the largest inverse temperature (Radford et al. 2021, section 2.4)


class CLIPRecipe(BaseModel):
    """How the two towers are trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(gt=0)
    batch: int = Field(128, gt=1)
    optimiser: OptimiserSpec = OptimiserSpec(rate=1e-3, betas=(0.9, 0.98), weight_decay=0.1)
    compile: bool = Field(False, description="On CUDA alone.")


class CLIP(nn.Module):
    """Both towers and the inverse temperature."""

    def __init__(self, text: CLIPTextSpec, image: CLIPImageSpec) -> None:
        super().__init__()
        self.text, self.image = CLIPText(text), CLIPImage(image)
        self.text.initialise()
        self.image.initialise()
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, ids: Tensor, pictures: Tensor) -> Tensor:
        """The similarities (n pictures, n texts), times the inverse temperature."""
        texts = self.text(ids).projected
        images = self.image(pictures).projected
        scale = self.log_scale.float().exp().clamp(max=HOTTEST)
        return scale * F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T


def contrastive_loss(similarities: Tensor) -> Tensor:
    """The mean of the cross-entropies along rows and columns: the n-th picture belongs to the n-th text."""
    own = torch.arange(len(similarities), device=similarities.device)
    return (F.cross_entropy(similarities, own) + F.cross_entropy(similarities.T, own)) / 2


class CLIPTask:
    """See the module."""

    name = "clip"

    def __init__(
        self,
        recipe: CLIPRecipe,
        text: CLIPTextSpec,
        image: CLIPImageSpec,
        tokenizer: CLIPTokenizer,
        seed: int,
        precision: Precision,
        device: torch.device = CPU,
    ) -> None:
        torch.manual_seed(seed)
        self.tokenizer, self.device = tokenizer, device
        self.clip = CLIP(text, image)
        self.learner = Learner(self.clip, recipe.optimiser, recipe.steps, precision, device)
        self.forward = torch.compile(self.clip) if recipe.compile and device.type == "cuda" else self.clip
        self.shown = ""

    def update(self, step: int, batch: Batch) -> Figures:
        ids = to_device(torch.tensor(self.tokenizer(batch.captions)), self.device)
        similarities = self.forward(ids, to_signed(batch.pictures, self.device))
        loss = contrastive_loss(similarities)
        figures = {"loss": finite(loss, "loss", step)}
        loss.backward()
        self.learner.update(step)
        found = similarities.detach().argmax(dim=1)
        figures["retrieval"] = figure((found == torch.arange(len(found), device=self.device)).float().mean())
        if step % 100 == 0:
            pairs = list(zip(batch.captions, found.tolist(), strict=True))[:16]
            self.shown = "\n".join(f"{text}  ->  {batch.captions[index]}" for text, index in pairs)
        return figures

    def state(self) -> dict[str, Tensor]:
        return self.learner.state("clip")

    def load(self, state: dict[str, Tensor]) -> None:
        self.learner.load(state, "clip")

    def show(self, step: int, folder: Path) -> None:
        """The captions of some pictures beside those that the towers took them for."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{step:08d}.txt").write_text(self.shown + "\n", "utf-8")
