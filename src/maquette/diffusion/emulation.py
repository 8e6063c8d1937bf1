"""The noise of other programs, by name: the same seed starts from the same noise as there.

What is equal is the noise and the order in which it is drawn; the same picture also takes the same sampler, schedule,
model and arithmetic. The SDE samplers of A1111 and ComfyUI take the noise of their steps from a Brownian path: give
`levels` for those of `ALONG_PATHS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from maquette.diffusion.brownian import BrownianNoise
from maquette.diffusion.noise import Between, SeededNoise, Source, slerp, torch_source
from maquette.diffusion.philox import Philox
from maquette.diffusion.schedules import Schedule
from maquette.errors import MaquetteError


@dataclass(frozen=True)
class Emulation:
    """A way to draw noise: the streams it draws from, and how a variation's noise lies between two."""

    name: str
    equals: str
    source: Callable[[int], Source] = torch_source
    later: Callable[[int], Source] | None = None
    together: bool = False
    between: Between = slerp
    along: Callable[[int], Source] | None = None  # what Brownian paths are drawn from, where there are any

    def build(
        self, seeds: Sequence[int], delta: int = 0, levels: Schedule | None = None
    ) -> SeededNoise | BrownianNoise:
        """The noise of a batch.

        `delta` is A1111's ENSD: steps draw from the stream of another seed, that much away. With `levels` the steps'
        noise comes from Brownian paths over them, in programs that have those.
        """
        later = partial(_shifted, self.source, delta) if delta else self.later
        made = SeededNoise(seeds, self.source, later, together=self.together)
        if levels is None or self.along is None:
            return made
        return BrownianNoise(made, seeds, levels, self.along, together=self.together)


ALONG_PATHS = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")
"""The samplers whose steps A1111 and ComfyUI take from Brownian paths."""

FLIPPED = "the steps' noise comes from the GPU, and from the seed with its lower 32 bits flipped"


def _flipped(seed: int) -> Source:
    return Philox(seed ^ 0xFFFFFFFF)


def _shifted(source: Callable[[int], Source], delta: int, seed: int) -> Source:
    return source(seed + delta)


def slerp_rows(first: Tensor, second: Tensor, amount: float) -> Tensor:
    """A1111's variation: between two noises (B, C, h, w), turning each column (C, w) of numbers along h by itself.

    Where the columns of a picture are on average nearly parallel it is linear and, as there, the wrong way round.
    """
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=2)  # (B, C, w)
    angle = cosine.acos()
    weights = [((part * angle).sin() / angle.sin()).unsqueeze(2) for part in (1.0 - amount, amount)]
    turned = weights[0] * first + weights[1] * second
    parallel = (cosine.mean((1, 2)) > 0.9995)[:, None, None, None]
    return torch.where(parallel, amount * first + (1.0 - amount) * second, turned)


EMULATIONS = {
    entry.name: entry
    for entry in (
        Emulation("cpu", "diffusers with a list of CPU generators, one a picture, or with one for a single picture"),
        Emulation(
            "a1111-cpu",
            "A1111 with RNG: CPU; picture k of its batch has the seed + k",
            between=slerp_rows,
            along=torch_source,
        ),
        Emulation(
            "a1111-nv",
            "A1111 with RNG: NV, bit for bit, and RNG: GPU on NVIDIA",
            Philox,
            between=slerp_rows,
            along=Philox,
        ),
        Emulation(
            "comfyui",
            "ComfyUI on NVIDIA: the start of a whole batch drawn at once on the CPU, the steps' noise on the GPU",
            later=Philox,
            together=True,
            along=torch_source,
        ),
        Emulation(
            "comfyui-cpu",
            "ComfyUI with --cpu: the start of a whole batch drawn at once, the steps' noise from the seed + 1",
            later=partial(_shifted, torch_source, 1),
            together=True,
            along=torch_source,
        ),
        Emulation("diffusers", "diffusers with one CPU generator for a whole batch", together=True),
        Emulation("diffusers-cuda", "diffusers with one CUDA generator for a whole batch", Philox, together=True),
        Emulation("invokeai", f"InvokeAI on NVIDIA with rand_device cpu; {FLIPPED}", later=_flipped),
        Emulation("invokeai-cuda", f"InvokeAI with rand_device cuda; {FLIPPED}", Philox, _flipped),
    )
}
"""Every emulation by name: ``EMULATIONS[name].build(seeds)``. ComfyUI's samplers named ..._gpu draw paths by Philox."""


def noise(
    name: str, seeds: Sequence[int], delta: int = 0, levels: Schedule | None = None
) -> SeededNoise | BrownianNoise:
    """The noise `name` for a batch; an unknown name is an error that lists the known ones."""
    if name not in EMULATIONS:
        raise MaquetteError(f"got the noise {name!r}, which does not exist; give one of {', '.join(EMULATIONS)}")
    return EMULATIONS[name].build(seeds, delta, levels)
