"""What tests of more than one folder share: a model without weights, whose best denoiser is known in closed form."""

import hashlib
import os
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

os.environ["MAQUETTE_DTYPE"] = "float32"  # what tests find must not hang on the processor; commands inherit it


class GaussianModel:
    """Pictures of one colour, told by the words, plus Gaussian noise: E[x0 | x] is a formula.

    It has the attributes of `maquette.engine.model.Model` that workflows use. `evaluations` counts its calls.
    """

    name, hash, multiple = "gaussian", "0123456789abcdef" * 4, 8
    opened_as = "gaussian"
    spread = 0.2  # standard deviation of the latent around the colour

    def __init__(self) -> None:
        from threading import RLock

        import torch

        from maquette.diffusion.process import Discrete
        from maquette.engine.adapt import Added
        from maquette.engine.companions import Companions
        from maquette.families.family import Defaults

        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.process = Discrete.scaled_linear()
        defaults = {"steps": 4, "guidance": 2.0, "sampler": "ddim", "schedule": "trailing", "width": 32, "height": 16}
        self.family = SimpleNamespace(name="gaussian", defaults=Defaults(**defaults), beside=())
        self.family.distilled = self.family.instructed = self.family.follows_picture = False
        self.first_stage = SimpleNamespace(vae=SimpleNamespace(spec=SimpleNamespace(factor=8)))
        self.added, self.lora_folder, self.opened_with = Added(), None, {}
        self.controls, self.turn = Companions(1), RLock()
        self.evaluations = 0

    def wear(self, added: object) -> None:
        assert added == self.added

    def chunks(self, *prompts: str) -> int:
        return 1

    def condition(self, prompts: Sequence[str], **told: object):

        import torch

        from maquette.diffusion.conditioning import Conditioning

        colours = [[byte / 127.5 - 1 for byte in hashlib.sha256(words.encode()).digest()[:4]] for words in prompts]
        return Conditioning(vector=torch.tensor(colours))

    def process_for(self, width: int, height: int):
        return self.process

    def denoiser(self, x, level, conditioning):
        self.evaluations += 1
        colour = conditioning.vector[:, :, None, None]
        gain = level.alpha * self.spread**2 / ((level.alpha * self.spread) ** 2 + level.sigma**2)
        return colour + gain * (x - level.alpha * colour)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 4, height // 8, width // 8

    def encode(self, picture):
        return picture[:, [0, 1, 2, 0], ::8, ::8]

    def preview(self, x0):
        return []

    def decode(self, latent):
        return latent[:, :3].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


@pytest.fixture
def model() -> GaussianModel:
    return GaussianModel()
