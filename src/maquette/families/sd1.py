"""Stable Diffusion 1.x (Rombach et al. 2022): CLIP ViT-L's last states steer a U-Net that predicts the noise."""

from collections.abc import Sequence

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.prediction import EPSILON
from maquette.diffusion.process import Discrete
from maquette.families.family import Defaults, Family
from maquette.models.clip import TextStates


def last_states(states: Sequence[TextStates]) -> Conditioning:
    """The one encoder's last states, after its final norm."""
    return Conditioning(tokens=states[0].last)


SD1 = Family(
    name="sd1",
    pipeline="StableDiffusionPipeline",
    process=Discrete.scaled_linear(),
    prediction=EPSILON,
    encoders=("text_encoder",),
    condition=last_states,
    defaults=Defaults(steps=30, guidance=7.5, sampler="dpmpp_2m", schedule="karras", width=512, height=512),
)
