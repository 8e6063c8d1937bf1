"""The training loss: draw a time, mix in noise, regress on the prediction's target, weight by the noise level.

Weights are functions of the signal-to-noise ratio on the error *in x0*; the prediction turns them into weights on its
own error, so that each is right for every prediction and process. Times are drawn on the CPU, so that a seed gives the
same ones on every device.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Network
from maquette.diffusion.prediction import EPSILON, Prediction
from maquette.diffusion.process import Level, Process, shifted
from maquette.diffusion.transfer import to_device
from maquette.errors import MaquetteError

Density = Callable[[int, Generator | None], Tensor]
"""``(count, generator) -> u`` in [0, 1), float64 (count,) on the CPU: the fraction of the way to pure noise."""

Weight = Callable[[Tensor], Tensor]
"""The weight on the squared error in x0 as a function of the signal-to-noise ratio ``alpha² / sigma²``."""


def uniform(count: int, generator: Generator | None = None) -> Tensor:
    """Every time equally often."""
    return torch.rand(count, generator=generator, dtype=torch.float64)


def stratified(count: int, generator: Generator | None = None) -> Tensor:
    """Uniform, but spread evenly within the batch: less variance (variational diffusion, 2107.00630, appendix I.1)."""
    return (torch.rand(1, generator=generator, dtype=torch.float64) + torch.arange(count) / count) % 1.0


def towards_noise(density: Density, shift: float) -> Density:
    """More of a density's times where there is more noise, as flows shift theirs (SD3, 2403.03206, equation 23)."""

    def draw(count: int, generator: Generator | None = None) -> Tensor:
        return shifted(density(count, generator), shift).clamp(max=1.0 - 2**-53)

    return draw


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Density:
    """Mostly the middle: ``sigmoid(mean + std * normal)`` (SD3, 2403.03206, equation 19)."""

    def draw(count: int, generator: Generator | None = None) -> Tensor:
        return torch.sigmoid(mean + std * torch.randn(count, generator=generator, dtype=torch.float64))

    return draw


def mode(scale: float = 1.29) -> Density:
    """Denser in the middle for a positive scale, at the ends for a negative one (SD3, 2403.03206, equation 20)."""

    def draw(count: int, generator: Generator | None = None) -> Tensor:
        u = uniform(count, generator)
        return (1.0 - u - scale * (torch.cos(torch.pi / 2 * u) ** 2 - 1.0 + u)).clamp(0.0, 1.0 - 2**-53)

    return draw


def min_snr(gamma: float = 5.0) -> Weight:
    """Min-SNR-gamma: ``min(SNR, gamma)`` (2303.09556, section 3.4)."""
    return lambda snr: snr.clamp(max=gamma)


def capped_snr(gamma: float = 5.0) -> Weight:
    """``min(SNR + 1, gamma)``: the plain error of v, capped where little noise is left.

    Unlike min-SNR-gamma it does not vanish at pure noise, which a process with zero terminal SNR must learn to leave.
    """
    return lambda snr: (snr + 1.0).clamp(max=gamma)


def p2(gamma: float = 1.0, k: float = 1.0) -> Weight:
    """Perception-prioritised weighting: ``SNR / (k + SNR)^gamma`` (2204.00227, equation 8)."""
    return lambda snr: snr / (k + snr) ** gamma


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a diffusion network is trained to do.

    ``weight`` None is the plain mean squared error of the prediction. ``continuous`` draws any time instead of one of
    the process's training steps.
    """

    process: Process
    prediction: Prediction
    density: Density = uniform
    weight: Weight | None = None
    continuous: bool = False

    def __post_init__(self) -> None:
        if self.prediction is EPSILON and self.process.at(self.process.start).alpha == 0.0:
            raise MaquetteError(
                "Objective: got the prediction 'epsilon' for a process that ends in pure noise, "
                "where the noise is the input itself; use 'v', 'sample' or 'velocity'"
            )

    def draw_times(self, count: int, generator: Generator | None = None) -> Tensor:
        """Times (count,) to train at, float32 on the CPU."""
        steps = self.density(count, generator) * self.process.steps
        return self.process.trained(steps - 1.0 if self.continuous else steps.floor()).to(torch.float32)

    def losses(self, network: Network, x0: Tensor, conditioning: Conditioning, t: Tensor, noise: Tensor) -> Tensor:
        """The weighted squared error of each sample, (B,) in float32 at least.

        ``x0`` and ``noise`` (B, C, H, W), ``t`` (B,) as from `draw_times`, on any device.
        """
        outer = torch.promote_types(x0.dtype, torch.float32)
        level = Level(*(to_device(part, x0.device, outer) for part in _tensors(self.process.at(t))))
        x0, noise = x0.to(outer), noise.to(outer)
        output = network(level.mix(x0, noise), _tensors(level)[0], conditioning)
        error = output.to(outer) - self.prediction.target(x0, noise, level)
        return error.square().flatten(1).mean(1) * self.weights(level)

    def weights(self, level: Level) -> Tensor:
        """The weight (B,) on the squared error of the prediction at each sample's level."""
        alpha = _tensors(level)[1]
        if self.weight is None:
            return torch.ones_like(alpha).flatten()
        # x0 is affine in the output, so its error is the output's times the slope d x0 / d output.
        slope = self.prediction.x0(torch.ones_like(alpha), torch.zeros_like(alpha), level)
        return (self.weight(torch.as_tensor(level.snr)) * slope.square()).flatten()


def losses_by_time(losses: Tensor, t: Tensor, process: Process, bins: int = 10) -> tuple[Tensor, Tensor]:
    """Mean loss and count in each of ``bins`` equal ranges of time, both (bins,), where ``t`` is.

    The mean of an empty bin is NaN.
    """
    place = ((t.to(torch.float64) - process.end) / (process.start - process.end) * bins).long().clamp(0, bins - 1)
    count = torch.bincount(place, minlength=bins)
    total = torch.zeros(bins, dtype=torch.float64, device=t.device)
    return total.index_add_(0, place, losses.detach().to(t.device).to(torch.float64)) / count, count


def _tensors(level: Level) -> tuple[Tensor, Tensor, Tensor]:
    t, alpha, sigma = (torch.as_tensor(part) for part in level)
    return t, alpha, sigma
