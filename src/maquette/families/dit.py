"""DiT (Peebles & Xie 2023): pictures of a class of ImageNet; a prompt is the number of the class, empty for none."""

from collections.abc import Sequence
from dataclasses import replace

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.prediction import EPSILON
from maquette.diffusion.process import Discrete
from maquette.families.family import Defaults, Encoding, Family, Told
from maquette.models.dit import DiTSpec, class_vector
from maquette.models.published import DIT
from maquette.text.classes import class_number


def condition(texts: Sequence[Encoding | None], told: Told) -> Conditioning:
    """The classes that the prompts number."""
    return Conditioning(vector=class_vector([class_number(prompt) for prompt in told.prompts], told.spec.classes))


DIT_256 = Family(
    name="dit",
    pipeline="DiTPipeline",
    process=Discrete.linear(),
    prediction=EPSILON,
    matches=lambda spec: isinstance(spec, DiTSpec) and spec.size * 8 <= 256,
    published=DIT,
    readings=(),
    condition=condition,
    defaults=Defaults(steps=50, guidance=4.0, sampler="ddim", schedule="trailing", width=256, height=256),
    emphasis=False,
)
DIT_512 = replace(
    DIT_256,
    name="dit-512",
    matches=lambda spec: isinstance(spec, DiTSpec) and spec.size * 8 > 256,
    published={"DiT-XL/2 512": replace(DIT["DiT-XL/2"], size=64)},
    defaults=replace(DIT_256.defaults, width=512, height=512),
)
