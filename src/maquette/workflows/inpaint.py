"""Repainting a part of a picture, or beyond its edges; outside of the mask every pixel stays as it was."""

import math
from collections.abc import Generator
from dataclasses import replace

from PIL import Image, ImageChops, ImageOps

from maquette.diffusion.singlestep import Step
from maquette.engine.attention_maps import AttentionMaps
from maquette.engine.beside import read_beside
from maquette.engine.model import Model
from maquette.workflows.canvas import fit, mask_to_tensor, pad_edges, read_depth, read_mask, to_pixels
from maquette.workflows.loop import Painted, canvas_size, develop, sample
from maquette.workflows.region import Box, extend, latent_mask, paste, soften
from maquette.workflows.request import SIZE_MULTIPLE, Resolved

_NOT_BLACK = [0] + 255 * [255]  # what becomes of each grey


def inpaint(model: Model, request: Resolved, painted: Painted) -> Generator[Step, None, Painted]:
    """Repaint where the request's mask is white, and what lies beyond the picture if it is to be extended."""
    image, mask = canvas(request)
    whole = image.size
    beyond = request.width - image.width, request.height - image.height
    if (request.width, request.height) == canvas_size(request, math.lcm(model.multiple, SIZE_MULTIPLE)):
        # A few pixels more are painted with it, and cut off again.
        padded, mask = pad_edges(image, 0, 0, *beyond), ImageOps.expand(mask, (0, 0, *beyond), 0)
    else:
        padded = fit(image, request.width, request.height)
        mask, whole = fit(mask, *padded.size), padded.size
    repainted = yield from repaint(model, request, padded, mask, painted.attention)
    return replace(repainted, images=[image.crop((0, 0, *whole)) for image in repainted.images])


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


def repaint(
    model: Model,
    request: Resolved,
    image: Image.Image,
    mask: Image.Image,
    attention: AttentionMaps | None = None,
    *,
    followed: Image.Image | None = None,
) -> Generator[Step, None, Painted]:
    """Repaint a picture of the request's size where `mask` is white; a model that follows one follows `followed`."""
    assert request.strength is not None
    within, by_degrees = mask.point(_NOT_BLACK), request.mask_grey == "strength"
    pixels, where = to_pixels([image]).to(model.device), mask_to_tensor(within if by_degrees else mask).to(model.device)
    shown = pixels if followed is None else to_pixels([followed])
    depth = None if request.depth is None else read_depth(request.depth.image, image.size).to(model.device)
    latents = yield from sample(
        model,
        request,
        source=model.encode(pixels),
        strength=request.strength,
        mask=latent_mask(mask if by_degrees else within, model.first_stage.vae.spec.factor).to(model.device),
        concat=read_beside(model, shown, where, depth),
        attention=attention,
    )
    developed = develop(model, latents)
    pasted = soften(within if by_degrees else mask, request.mask_blur)
    images = [paste(image, new, Box(0, 0, *image.size), pasted) for new in developed.images]
    return Painted(images=images, hashes=developed.hashes)
