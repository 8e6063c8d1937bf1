"""Words to pictures."""

from collections.abc import Generator

from maquette.diffusion.singlestep import Step
from maquette.engine.beside import read_beside
from maquette.engine.model import Model
from maquette.workflows.loop import Painted, develop, sample
from maquette.workflows.request import Resolved


def txt2img(model: Model, request: Resolved, painted: Painted) -> Generator[Step, None, Painted]:
    """Paint from noise alone."""
    concat = read_beside(model, (request.width, request.height))
    return develop(model, (yield from sample(model, request, concat=concat, attention=painted.attention)))
