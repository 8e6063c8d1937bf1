"""The finished parts beside which a later stage learns."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maquette.diffusion.transfer import to_device
from maquette.models.clip import CLIPText
from maquette.models.vae import VAE
from maquette.text.tokenizer import CLIPTokenizer
from maquette.training.learner import CPU


@dataclass(frozen=True)
class Parts:
    """Text tower, vocabulary and first stage; `scale` brings its latents to unit variance."""

    text: CLIPText
    tokenizer: CLIPTokenizer
    vae: VAE
    scale: float
    device: torch.device = CPU

    def states(self, captions: Sequence[str]) -> Tensor:
        """The text tower's last states after the final norm, (B, L, width)."""
        ids = to_device(torch.tensor(self.tokenizer(captions)), self.device)
        return self.text(ids).last
