"""Every sampler by its usual name.

====================  ===========================================  ======================================
name                  is                                           from
====================  ===========================================  ======================================
ddim                  `euler`, eta 0 unless told                   2010.02502
ddpm                  `euler` with eta 1                           2006.11239
euler                 `euler`, the same as ddim                    2206.00364, rectified flow
euler_a               `euler` with eta 1, the same as ddpm         k-diffusion
lcm                   `euler` with eta infinite                    2310.04378
heun                  `heun`                                       2206.00364
dpm2, dpm2_a          `midpoint` of the noise                      2206.00927
dpmpp_2s_a            `midpoint` of x0 with eta 1                  2211.01095
dpmpp_sde             `dpmpp_sde`                                  2211.01095
dpmpp_2m              `dpmpp` of order 2                           2211.01095
dpmpp_2m_sde          the same with eta 1                          2211.01095
dpmpp_3m_sde          `dpmpp` of order 3 with eta 1                k-diffusion
lms                   `adams` in the ratio, order 4                k-diffusion
deis                  `adams` in lam, order 3                      2204.13902
plms                  `plms`                                       2202.09778, latent diffusion
unipc                 `unipc`                                      2302.04867
====================  ===========================================  ======================================
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from maquette.diffusion.denoise import Guided
from maquette.diffusion.multistep import adams, dpmpp, plms, unipc
from maquette.diffusion.noise import StartingNoise
from maquette.diffusion.schedules import Schedule
from maquette.diffusion.singlestep import Sampler, Step, dpmpp_sde, euler, heun, midpoint
from maquette.errors import MaquetteError


@dataclass(frozen=True)
class Between:
    """The numbers from ``low`` to ``high``, or only the whole ones."""

    low: float
    high: float
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int if self.whole else int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g}"


OPTIONS: dict[str, Between | tuple[str, ...]] = {
    "eta": Between(0.0, math.inf),  # how much of the noise is replaced by fresh noise: 0 none, 1 as in the forward SDE
    "s_noise": Between(0.0, math.inf),  # scales fresh noise
    "r": Between(0.01, 1.0),  # where in a step the network is asked a second time
    "order": Between(1, 4, whole=True),  # how many answers are interpolated
    "solver": ("midpoint", "heun"),
    "variant": ("bh1", "bh2"),
}
"""What an option may be."""


@dataclass(frozen=True)
class SamplerEntry:
    """A sampler, what a step of it costs, and whether it asks for noise when its options are left alone."""

    name: str
    run: Callable[..., Iterator[Step]]
    evaluations: int  # of the network in a step; one of infinite length takes one, the first of PLMS two
    stochastic: bool
    options: tuple[str, ...] = ()

    def build(self, **options: float | str) -> Sampler:
        """The sampler with ``options`` fixed; an unknown one is an error that lists the known ones."""
        for option, value in options.items():
            if option not in self.options:
                known = ", ".join(self.options) or "no options"
                raise MaquetteError(f"sampler {self.name!r}: got the option {option!r}; it takes {known}")
            if value not in OPTIONS[option]:
                allowed = OPTIONS[option]
                told = " or ".join(allowed) if isinstance(allowed, tuple) else allowed
                raise MaquetteError(f"sampler {self.name!r}: got {option} {value!r}; give {told}")
        return partial(self.run, **options)


FRESH = ("eta", "s_noise")  # the options of fresh noise

SAMPLERS = {
    entry.name: entry
    for entry in (
        SamplerEntry("ddim", euler, 1, False, ("eta",)),
        SamplerEntry("ddpm", partial(euler, eta=1.0), 1, True),
        SamplerEntry("euler", euler, 1, False),
        SamplerEntry("euler_a", partial(euler, eta=1.0), 1, True, FRESH),
        SamplerEntry("lcm", partial(euler, eta=math.inf), 1, True),
        SamplerEntry("heun", heun, 2, False),
        SamplerEntry("dpm2", partial(midpoint, hold="noise"), 2, False),
        SamplerEntry("dpm2_a", partial(midpoint, hold="noise", eta=1.0), 2, True, FRESH),
        SamplerEntry("dpmpp_2s_a", partial(midpoint, hold="x0", eta=1.0), 2, True, FRESH),
        SamplerEntry("dpmpp_sde", dpmpp_sde, 2, True, (*FRESH, "r")),
        SamplerEntry("dpmpp_2m", dpmpp, 1, False, ("solver",)),
        SamplerEntry("dpmpp_2m_sde", partial(dpmpp, eta=1.0), 1, True, (*FRESH, "solver")),
        SamplerEntry("dpmpp_3m_sde", partial(dpmpp, order=3, solver="heun", eta=1.0), 1, True, (*FRESH, "solver")),
        SamplerEntry("lms", adams, 1, False, ("order",)),
        SamplerEntry("deis", partial(adams, coordinate="lam", order=3), 1, False, ("order",)),
        SamplerEntry("plms", plms, 1, False),
        SamplerEntry("unipc", unipc, 1, False, ("order", "variant")),
    )
}
"""Every sampler by name: ``SAMPLERS[name].build(**options)(guided, x, schedule, noise)``."""


def sampler(name: str, **options: float | str) -> Sampler:
    """The sampler ``name`` with ``options`` fixed; unknown names and options are an error that lists the known ones."""
    if name not in SAMPLERS:
        raise MaquetteError(f"got the sampler {name!r}, which does not exist; give one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name].build(**options)


def walk(
    take: Sampler,
    guided: Guided,
    levels: Schedule,
    noise: StartingNoise,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    source: Tensor | None = None,
) -> Iterator[Step]:
    """Walk the whole way from noise, (B, *shape) with one of ``noise``'s seeds each, in float32.

    With a clean ``source`` (B, *shape) or (1, *shape), the way begins at that picture brought to the first level.
    Without one and at a first level with alpha > 0 the unknown picture is taken for unit normal too, so that x keeps
    the spread that the network was trained with: 1 for variance-preserving processes, as published Stable Diffusion
    starts.
    """
    start = noise.start(shape, device)
    if source is not None:
        start = levels[0].mix(source.to(start).expand_as(start), start)
    else:
        start = start * math.hypot(float(levels[0].alpha), float(levels[0].sigma))
    yield from take(guided, start, levels, noise)
