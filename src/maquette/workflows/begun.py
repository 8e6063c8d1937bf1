"""The picture that a request begins with, and what lies over it: extended, padded or cropped as it is."""

from collections.abc import Callable
from functools import partial

from PIL import Image, ImageChops

from maquette.workflows.canvas import bring, fit, pad_edges, read_depth, read_mask, same_shape
from maquette.workflows.region import Size, extend, extended_size
from maquette.workflows.request import Resolved
from maquette.workflows.settings import Control, Picture, Region


def canvas(request: Resolved) -> tuple[Image.Image, Image.Image]:
    """The picture to repaint, extended if the request says so, and its mask."""
    assert request.image is not None
    image = request.image.rgb
    mask = None if request.mask is None else read_mask(request.mask.image, image.size)
    if request.extend is None:
        assert mask is not None
        return image, mask
    edges = request.extend
    image, beyond = extend(image, edges.left, edges.top, edges.right, edges.bottom)
    if mask is not None:
        own = Image.new("L", beyond.size)
        own.paste(mask, (edges.left, edges.top))
        beyond = ImageChops.lighter(beyond, own)
    return image, beyond


def begun_with(request: Resolved) -> Image.Image:
    """The picture that the request begins with, extended if it says so."""
    assert request.image is not None
    return canvas(request)[0] if request.keeps_pixels else request.image.rgb


def depth_at(request: Resolved, painted: Size, *, padded: bool = False) -> Image.Image:
    """The request's map of depth ("F") at the size `painted`, brought there as its picture is.

    A map that shows the picture alone is continued where the picture is extended; other maps show the extended one.
    """
    assert request.depth is not None and request.image is not None
    depth, own, edges = read_depth(request.depth.image), request.image.image.size, request.extend
    if edges is None:
        return bring(depth, own, painted, padded=padded)
    sides = edges.left, edges.top, edges.right, edges.bottom
    whole = extended_size(own, sides)
    if depth.size == own or not (same_shape(depth.size, whole) or same_shape(depth.size, painted)):
        depth = pad_edges(fit(depth, *own, "stretch"), *sides)
    return bring(depth, whole, painted, padded=padded)


def bring_along(request: Resolved, whole: Size, *, padded: bool) -> Resolved:
    """The request with what lies over its picture brought to the painted size with it: regions, controls, depth."""
    size, changes = (request.width, request.height), dict[str, object]()
    if padded:  # else regions and controls are cropped where they are read
        over = partial(bring, size=whole, painted=size, padded=True)
        changes["regions"] = tuple(_region_along(region, over) for region in request.regions)
        changes["controls"] = tuple(_control_along(control, whole, over) for control in request.controls)
    if request.depth is not None:
        changes["depth"] = Picture(depth_at(request, size, padded=padded))
    return request.model_copy(update=changes)


def _region_along(region: Region, over: Callable[[Image.Image], Image.Image]) -> Region:
    if region.mask is None:
        return region
    white = read_mask(region.mask.image, region.mask.image.size)
    return region.model_copy(update={"mask": Picture(over(white))})


def _control_along(control: Control, whole: Size, over: Callable[[Image.Image], Image.Image]) -> Control:
    """A control's picture of the size of the one that is kept lies over it, unless another `resize` is asked for."""
    if control.image is None or control.image.image.size != whole or control.resize != "crop":
        return control
    return control.model_copy(update={"image": Picture(over(control.image.rgb))})
