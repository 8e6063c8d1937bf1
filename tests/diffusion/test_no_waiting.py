"""A step never waits for the accelerator: on PyTorch's meta device, whose tensors have no numbers to wait for.

Whoever asks one of them for a number (`.item()`, `float()`, `if`, a copy to the CPU) gets an error.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Guided, denoiser
from maquette.diffusion.guidance import Pair, apg, cfg
from maquette.diffusion.prediction import EPSILON
from maquette.diffusion.process import Discrete, Level
from maquette.diffusion.samplers import SAMPLERS, sampler
from maquette.diffusion.schedules import schedule
from maquette.models.unet import UNet, UNetSpec

SPEC = UNetSpec(widths=(32,), down=((1,),), middle=None, up=((1, 1),), context=8, heads=2)
STEPS = 4


def pair() -> tuple[Pair, list[int]]:
    """What is wanted and what is not, of a small network, and how many rows it was given each time."""
    with torch.device("meta"):
        network, told = UNet(SPEC).requires_grad_(False), [Conditioning(tokens=torch.zeros(1, 7, 8)) for _ in range(2)]
    rows: list[int] = []

    def counted(x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        rows.append(len(x))
        return network(x, t, conditioning)

    return Pair(denoiser(counted, EPSILON, torch.float32), *told), rows


def steps(name: str, guided: Guided) -> list[torch.device]:
    """Sample with it; where each estimate is."""
    x = torch.empty(1, 4, 8, 8, device="meta")
    levels = schedule("karras", Discrete.scaled_linear(), STEPS)
    taken = sampler(name)(guided, x, levels, lambda *_: torch.empty_like(x))
    return [step.x0.device for step in taken]


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_sampler_asks_for_a_number(name: str) -> None:
    asked, rows = pair()
    assert {device.type for device in steps(name, cfg(asked, 5.0))} == {"meta"}
    assert len(rows) <= SAMPLERS[name].evaluations * STEPS + (name == "plms") and set(rows) == {2}


def test_no_guidance_asks_for_a_number() -> None:
    asked, _ = pair()
    assert {device.type for device in steps("euler", apg(asked, 5.0))} == {"meta"}


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("guide", [cfg, apg])
def test_without_guidance_half_the_rows_are_computed(guide: Callable[..., Guided], scale: float) -> None:
    asked, rows = pair()
    steps("euler", guide(asked, scale))
    assert rows == [1] * STEPS


def test_who_asks_is_caught() -> None:
    asked, _ = pair()

    def waiting(x: Tensor, level: Level) -> Tensor:
        return asked.positive(x, level) * float(x.std())

    with pytest.raises(RuntimeError, match="meta"):
        steps("euler", waiting)
