"""A model that paints what it is told by drawing it."""

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.process import Discrete, Level
from maquette.families.family import Defaults
from maquette.training.autoencoder import to_signed
from maquette.training.evaluate import LANGUAGES, drawn, examples


class Painter:
    """Draws what a caption was made for, and grey for no words; its latents are the pictures themselves."""

    name, whole_hash = "painter", "0123456789"
    device, dtype = torch.device("cpu"), torch.float32
    process = Discrete.scaled_linear()
    family = SimpleNamespace(
        defaults=Defaults(steps=3, guidance=2.0, sampler="dpmpp_2m", schedule="trailing", width=128, height=128)
    )

    def __init__(self, count: int = 8) -> None:
        told = [example for language in (None, *LANGUAGES) for example in examples(count, language=language)]
        self.scenes = {example.caption: example.scene for example in told}
        self.painted = 0

    def chunks(self, *captions: str) -> int:
        return 1

    def condition(self, captions: Sequence[str], *, chunks: int, negative: bool = False) -> Conditioning:
        pictures = [
            to_signed(drawn([self.scenes[words]])) if words else torch.zeros(1, 3, 128, 128) for words in captions
        ]
        return Conditioning(vector=torch.cat(pictures).flatten(1))

    def denoiser(self, x: Tensor, level: Level, conditioning: Conditioning) -> Tensor:
        assert conditioning.vector is not None
        return conditioning.vector.unflatten(1, (3, 128, 128))

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 3, height, width

    def decode(self, latent: Tensor) -> Tensor:
        self.painted += len(latent)
        return latent

    def encode(self, x: Tensor) -> Tensor:
        return x
