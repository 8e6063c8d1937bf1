"""What a network predicts, and how it is read as an estimate of the clean data.

Each `Prediction` is affine in the network's output. All are written for any ``(alpha, sigma)``, so that they hold for
variance-preserving processes and for rectified flow alike.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from maquette.diffusion.process import Level
from maquette.errors import MaquetteError


class Prediction(NamedTuple):
    """What a network regresses on, and the estimate of x0 that its output means."""

    target: Callable[[Tensor, Tensor, Level], Tensor]  # (x0, noise, level) -> what to regress on
    x0: Callable[[Tensor, Tensor, Level], Tensor]  # (output, x, level) -> the clean estimate


def _x0_from_epsilon(output: Tensor, x: Tensor, level: Level) -> Tensor:
    if isinstance(level.alpha, float) and level.alpha == 0.0:
        raise MaquetteError(
            f"a network that predicts noise knows nothing of the picture at pure noise (time {level.t:g}, alpha 0); "
            "use the prediction 'v', or a schedule that starts at a lower time"
        )
    return (x - level.sigma * output) / level.alpha


def _x0_from_v(output: Tensor, x: Tensor, level: Level) -> Tensor:
    alpha, sigma = level.alpha, level.sigma
    return (alpha * x - sigma * output) / (alpha**2 + sigma**2)


def _x0_from_velocity(output: Tensor, x: Tensor, level: Level) -> Tensor:
    return (x - level.sigma * output) / (level.alpha + level.sigma)


EPSILON = Prediction(lambda x0, noise, level: noise, _x0_from_epsilon)
"""The noise (DDPM, 2006.11239)."""

SAMPLE = Prediction(lambda x0, noise, level: x0, lambda output, x, level: output)
"""The clean data itself."""

V = Prediction(lambda x0, noise, level: level.alpha * noise - level.sigma * x0, _x0_from_v)
"""``alpha * noise - sigma * x0`` (progressive distillation, 2202.00512, section 4)."""

VELOCITY = Prediction(lambda x0, noise, level: noise - x0, _x0_from_velocity)
"""``noise - x0``, the time derivative of a rectified flow (2209.03003)."""

PRECONDITIONED = Prediction(
    lambda x0, noise, level: -V.target(x0, noise, level), lambda output, x, level: V.x0(-output, x, level)
)
"""What EDM's network gives, ``-v`` (2206.00364, equation 7: c_skip, c_out and c_in with data of unit spread)."""

PREDICTIONS = {"epsilon": EPSILON, "sample": SAMPLE, "v": V, "velocity": VELOCITY, "edm": PRECONDITIONED}
