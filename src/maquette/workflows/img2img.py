"""A picture to another one (Meng et al. 2022, "SDEdit"): noised as far as the strength says, and painted again."""

from collections.abc import Generator

from maquette.diffusion.singlestep import Step
from maquette.engine.beside import read_beside
from maquette.engine.model import Model
from maquette.workflows.begun import begun_with, depth_at
from maquette.workflows.canvas import fit, to_channel, to_pixels
from maquette.workflows.loop import Painted, develop, sample
from maquette.workflows.request import Resolved


def img2img(model: Model, request: Resolved, painted: Painted) -> Generator[Step, None, Painted]:
    """Repaint whole pictures: those painted so far, or the request's."""
    size = request.width, request.height
    pixels = to_pixels([fit(image, *size) for image in painted.images]).to(model.device)
    depth = None if request.depth is None else to_channel(depth_at(request, size)).to(model.device)
    shown = pixels
    if model.family.follows_picture and request.image is not None:  # in a second pass, too
        shown = to_pixels([fit(begun_with(request), *size)])
    concat = read_beside(model, shown, depth=depth)
    assert request.strength is not None
    only_followed = model.family.follows_picture and request.strength == 1.0
    source = None if only_followed else model.encode(pixels)
    latents = yield from sample(
        model, request, source=source, strength=request.strength, concat=concat, attention=painted.attention
    )
    return develop(model, latents)
