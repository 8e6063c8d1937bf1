"""What would fail, or be left out, only after much was painted: refused before anything is."""

from PIL import Image

from maquette.engine.model import Model
from maquette.engine.upscale import upscaler_beside
from maquette.errors import MaquetteError
from maquette.workflows.finders import finder, only_looks
from maquette.workflows.hires import enlarged
from maquette.workflows.loop import shown_size
from maquette.workflows.region import Box, Size
from maquette.workflows.request import Resolved
from maquette.workflows.upscale import check_size


def check(model: Model, request: Resolved) -> None:
    """Refuse maps of attention that nothing would record, a finder or upscaler that is none, a box outside the picture.

    Finders of ours, detectors aside, must be able to look at a picture of that size.

    Raises:
        MaquetteError: which of them, and what to do.
    """
    if request.attention and request.only_detailed:
        raise MaquetteError("attention is recorded in the first pass, not where details are repainted; leave it out")
    unused = [name for name in ("regions", "controls", "tiles") if getattr(request, name)]
    if request.only_detailed and unused:
        raise MaquetteError(
            f"{' and '.join(unused)} act on whole pictures, and details alone are repainted here; leave them out"
        )
    if request.attention and request.guidance == 0 and not model.family.distilled:
        raise MaquetteError("with guidance 0 the words are not read; leave out attention, or give another guidance")
    if request.hires is not None and request.hires.upscaler is not None:
        upscaler = upscaler_beside(model, request.hires.upscaler)
        given = request.image is not None and not request.repainted
        check_size(
            request.image.rgb.size if given and request.image else (request.width, request.height), upscaler.scale
        )
    if request.detail is not None:
        size = _final_size(model, request)
        if request.detail.finder is not None:
            find = finder(request.detail.finder)
            if only_looks(request.detail.finder):
                find(Image.new("RGB", size))
        for box in request.detail.boxes:
            Box(*box).within(size)


def _final_size(model: Model, request: Resolved) -> Size:
    """Of the pictures when their details are repainted."""
    if request.hires is not None:
        larger = enlarged(request, model.multiple)
        return larger.width, larger.height
    if request.only_detailed and request.image is not None:
        return request.image.rgb.size
    return shown_size(request, model.multiple)
