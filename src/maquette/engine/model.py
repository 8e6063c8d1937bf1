"""An opened model: everything a workflow needs, whatever the family."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Denoiser, denoiser
from maquette.diffusion.prediction import Prediction
from maquette.diffusion.process import Process
from maquette.families.family import Family
from maquette.models.clip import CLIPText, TextStates
from maquette.models.unet import UNet
from maquette.models.vae import VAE
from maquette.text.tokenizer import CLIPTokenizer

if TYPE_CHECKING:
    from maquette.workflows.loop import Result


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer and the tower that reads its ids."""

    tokenizer: CLIPTokenizer
    tower: CLIPText

    def __call__(self, prompts: Sequence[str]) -> TextStates:
        ids = torch.tensor(self.tokenizer(prompts), device=self.tower.device)
        states: TextStates = self.tower(ids)
        return states


@dataclass(frozen=True)
class FirstStage:
    """The autoencoder and how its latents are brought to unit variance: (z - shift) * scale."""

    vae: VAE
    scale: float
    shift: float = 0.0


class Model:
    """A model that paints. Latents are scaled and float32; pictures are (B, 3, H, W) in [-1, 1]."""

    def __init__(
        self,
        name: str,
        family: Family,
        *,
        process: Process,
        prediction: Prediction,
        encoders: Sequence[TextEncoder],
        network: UNet,
        first_stage: FirstStage,
        weights_path: Path,
    ) -> None:
        self.name, self.family = name, family
        self.process, self.prediction = process, prediction
        self.encoders, self.network, self.first_stage = tuple(encoders), network, first_stage
        self._weights_path = weights_path

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @property
    def multiple(self) -> int:
        """Sides of pictures must be multiples of this many pixels."""
        return self.first_stage.vae.spec.factor

    @cached_property
    def hash(self) -> str:
        """The first ten digits of the denoiser file's SHA-256, as A1111 names models."""
        with self._weights_path.open("rb") as file:
            digest = sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()[:10]

    @cached_property
    def denoiser(self) -> Denoiser:
        """The network as the answer to a sampler's question."""
        return denoiser(self.network, self.prediction, self.dtype)

    @torch.no_grad()
    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """What the network is told for these prompts, one row for each."""
        return self.family.condition([encoder(prompts) for encoder in self.encoders])

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of the latent of a picture."""
        factor = self.first_stage.vae.spec.factor
        return self.first_stage.vae.spec.channels, height // factor, width // factor

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """The scaled latents (the posterior's means) of pictures."""
        mean = self.first_stage.vae.encode(image).mean.float()
        return (mean - self.first_stage.shift) * self.first_stage.scale

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """The pictures of scaled latents."""
        stage = self.first_stage
        return stage.vae.decode(latent / stage.scale + stage.shift).float().clamp(-1, 1)

    def txt2img(self, prompt: str, **fields: Any) -> "Result":
        """Paint words; `fields` are those of `maquette.workflows.request.Request`."""
        from maquette.workflows.loop import run
        from maquette.workflows.request import Request
        from maquette.workflows.txt2img import txt2img

        return run(txt2img(self, Request.read({"prompt": prompt, "model": self.name, **fields})))
