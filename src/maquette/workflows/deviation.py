"""How far approximate pictures are from the exact ones, which are painted as well."""

from collections.abc import Callable

from maquette.diffusion.singlestep import Step
from maquette.engine.model import Model
from maquette.workflows.loop import Result, run
from maquette.workflows.paint import paint
from maquette.workflows.reproduce import Comparison, compare_images


def deviation(model: Model, result: Result, see: Callable[[Step], object] | None = None) -> list[Comparison]:
    """Paint the pictures of a result with all of the work, guidance at every step too, and compare each of them."""
    exact = run(paint(model, result.request.model_copy(update={"speed": None, "interval": None})), see)
    return [compare_images(*pair) for pair in zip(result.images, exact.images, strict=True)]
