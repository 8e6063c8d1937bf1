"""What is shown of an update: numbers, or tensors as long as an accelerator computes them.

To ask an accelerator for a number is to wait until it has done all that it was given; nothing new is prepared
meanwhile. So only the loop asks, when it logs.
"""

import math
from collections.abc import Mapping

from torch import Tensor

from maquette.errors import MaquetteError

Figures = Mapping[str, float | Tensor]


class NonFinite(MaquetteError):
    """A loss or gradient became NaN or infinite."""


def figure(value: Tensor) -> float | Tensor:
    """A number of the CPU's, or a tensor of an accelerator's."""
    value = value.detach()
    return float(value) if value.device.type == "cpu" else value


def finite(value: Tensor, what: str, step: int) -> float | Tensor:
    """The same of a loss; NonFinite if it is known to be NaN or infinite."""
    number = figure(value)
    if isinstance(number, float):
        _check(number, what, step)
    return number


def numbers(figures: Figures, step: int) -> dict[str, float]:
    """The figures of an update, once they are there; NonFinite if its loss is NaN or infinite."""
    known = {name: float(value) for name, value in figures.items()}
    _check(known["loss"], "loss", step)
    return known


def _check(number: float, what: str, step: int) -> None:
    if not math.isfinite(number):
        raise NonFinite(f"the {what} became {number} at step {step}")
