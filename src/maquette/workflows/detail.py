"""The detailer: a hand or a face is enlarged, repainted at the size that the model paints well, and pasted back."""

import hashlib
import warnings
from collections.abc import Generator, Iterator

from PIL import Image

from maquette.diffusion.singlestep import Step
from maquette.engine.model import Model
from maquette.workflows.begun import begun_with, depth_at
from maquette.workflows.canvas import fit
from maquette.workflows.finders import Found, finder
from maquette.workflows.inpaint import repaint
from maquette.workflows.loop import Painted
from maquette.workflows.region import Box, around, feather, paste
from maquette.workflows.request import Request, Resolved
from maquette.workflows.settings import Detail, Picture


def detail(model: Model, request: Resolved, painted: Painted) -> Generator[Step, None, Painted]:
    """Repaint what is found in each picture, one thing after the other."""
    assert request.detail is not None
    images, hashes = [], []
    for k, (image, hashed) in enumerate(zip(painted.images, painted.hashes, strict=True)):
        alone = request.part(k, 1)
        things = list(find(request.detail, image))
        if not things:
            warnings.warn(
                f"the finder {request.detail.finder} found nothing to repaint in picture {k + 1}", stacklevel=2
            )
        for found in things:
            image, latent = yield from _repaint_enlarged(model, alone, image, found)
            hashed = hashlib.sha256(f"{hashed} {latent}".encode()).hexdigest()
        images.append(image)
        hashes.append(hashed)
    return Painted(images=images, hashes=hashes)


def find(detail: Detail, image: Image.Image) -> Iterator[Found]:
    """The request's boxes, and what its finder finds."""
    for box in detail.boxes:
        yield Found(box=Box(*box).within(image.size), mask=None, label="", score=1.0)
    if detail.finder is not None:
        yield from finder(detail.finder)(image)


def _repaint_enlarged(
    model: Model, request: Resolved, image: Image.Image, found: Found
) -> Generator[Step, None, tuple[Image.Image, str]]:
    """The picture with one thing repainted, and the hash of the latent that it was developed from."""
    assert request.detail is not None
    told, defaults = request.detail, model.family.defaults
    width, height = (told.size or side for side in (defaults.width, defaults.height))
    mask = feather(found.covering(image.size), told.feather)
    edge = told.feather + 1  # all of the soft edge, and what is kept
    padding = max(round(told.padding * max(found.box.size)), edge)
    crop = around(found.box, padding, width / height, image.size, edge)
    changes: dict[str, object] = {"width": width, "height": height, "strength": told.strength}
    changes |= {name: Request.model_fields[name].default for name in ("mask_blur", "mask_grey")}  # of another mask
    changes |= {name: getattr(told, name) for name in ("prompt", "negative") if getattr(told, name) is not None}
    if request.depth is not None:
        changes["depth"] = Picture(fit(depth_at(request, image.size).crop(crop), width, height, "stretch"))
    local = request.model_copy(update={"regions": (), "controls": (), "hires": None, "tiles": None, **changes})
    enlarged, where = (fit(each.crop(crop), width, height, "stretch") for each in (image, mask))
    followed = None
    if model.family.follows_picture and request.image is not None:
        followed = fit(fit(begun_with(request), *image.size).crop(crop), width, height, "stretch")
    new = yield from repaint(model, local, enlarged, where, followed=followed)
    return paste(image, new.images[0], crop, mask), new.hashes[0]
