"""A second pass at a larger size: what was painted is enlarged and painted again, for its details."""

from collections.abc import Generator

import torch.nn.functional as F

from maquette.diffusion.singlestep import Step
from maquette.engine.model import Model
from maquette.workflows.img2img import img2img
from maquette.workflows.loop import Painted, develop, sample
from maquette.workflows.request import Resolved, nearest_multiple


def enlarged(request: Resolved, multiple: int) -> Resolved:
    """The request of the second pass."""
    assert request.hires is not None
    told = request.hires
    width, height = (nearest_multiple(round(side * told.scale), multiple) for side in (request.width, request.height))
    changes = {"width": width, "height": height, "steps": told.steps or request.steps, "strength": told.strength}
    return request.model_copy(update={**changes, "hires": None})


def hires(model: Model, request: Resolved, painted: Painted) -> Generator[Step, None, Painted]:
    """Enlarge the latents, or the pictures, and paint them again."""
    assert request.hires is not None
    larger = enlarged(request, model.multiple)
    if request.hires.by == "pixel" or painted.latents is None or model.family.beside:
        return (yield from img2img(model, larger, painted))
    size = model.latent_shape(larger.width, larger.height)[1:]
    source = F.interpolate(painted.latents, size, mode="bilinear", antialias=False)
    return develop(model, (yield from sample(model, larger, source=source, strength=request.hires.strength)))
