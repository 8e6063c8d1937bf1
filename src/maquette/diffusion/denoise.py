"""The one question a sampler asks, *what is x0?*, answered by a network."""

from collections.abc import Callable

import torch
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.prediction import Prediction
from maquette.diffusion.process import Level, Process

Network = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""``(x, t, conditioning) -> output``: x (B, C, H, W), t (B,) in the network's own time."""

Denoiser = Callable[[Tensor, Level, Conditioning], Tensor]
"""``(x, level, conditioning) -> x0``: the estimate of the clean data, in float32 (float64 if x is)."""

Guided = Callable[[Tensor, Level], Tensor]
"""``(x, level) -> x0``: what a sampler sees."""


def denoiser(network: Network, prediction: Prediction, dtype: torch.dtype | None = None) -> Denoiser:
    """Read a network as a `Denoiser`.

    ``dtype`` is the type the network computes in; by default that of ``x``. Outside of it everything is float32, or
    float64 where ``x`` is. Time stays float32 at least: bfloat16 cannot tell 999 from 1000.
    """

    def denoise(x: Tensor, level: Level, conditioning: Conditioning) -> Tensor:
        outer = torch.promote_types(x.dtype, torch.float32)
        inner = x.dtype if dtype is None else dtype
        output = network(x.to(inner), _time(level, x, outer), conditioning.to(x.device, inner))
        return prediction.x0(output.to(outer), x.to(outer), level)

    return denoise


def translated(denoise: Denoiser, process: Process) -> Denoiser:
    """Ask a denoiser that knows noise by ``process`` along the levels of any other: where the ratio is the same.

    Only the time's name and the scale of ``x`` change: a refiner of another process can go on from what was painted.
    """

    def ask(x: Tensor, level: Level, conditioning: Conditioning) -> Tensor:
        own = process.at(process.time(float(level.lam)))
        return denoise(x * (own.sigma / level.sigma), own, conditioning)

    return ask


def _time(level: Level, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The time of each row, (B,); a float is filled in on the device, for a copy there would wait for it."""
    if isinstance(level.t, Tensor):
        return level.t.to(x.device, dtype).expand(x.shape[0])
    return torch.full(x.shape[:1], level.t, device=x.device, dtype=dtype)


def bind(denoise: Denoiser, conditioning: Conditioning) -> Guided:
    """Fix what the network is told: the plain guided denoiser."""
    return lambda x, level: denoise(x, level, conditioning)
