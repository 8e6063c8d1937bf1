"""What a family of models is: a declaration of everything that its files do not say or that all of them share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.prediction import Prediction
from maquette.diffusion.process import Process
from maquette.models.clip import TextStates


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """The settings of a request that leaves them open; sizes in pixels."""

    steps: int
    guidance: float
    sampler: str
    schedule: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    `encoders` names the text encoders as the folders of a diffusers model do; `condition` turns their states, in that
    order, into what the denoiser is told.
    """

    name: str
    pipeline: str
    """The class that a diffusers folder's model_index.json names."""
    process: Process
    prediction: Prediction
    encoders: tuple[str, ...]
    condition: Callable[[Sequence[TextStates]], Conditioning]
    defaults: Defaults
