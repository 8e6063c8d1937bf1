"""Repainting a part of a picture, or beyond its edges; outside of the mask every pixel stays as it was."""

from collections.abc import Generator
from dataclasses import replace

from PIL import Image, ImageOps

from maquette.diffusion.singlestep import Step
from maquette.engine.attention_maps import AttentionMaps
from maquette.engine.beside import read_beside
from maquette.engine.model import Model
from maquette.workflows.begun import bring_along, canvas
from maquette.workflows.canvas import bring, fit, mask_to_tensor, read_depth, to_channel, to_pixels
from maquette.workflows.loop import Painted, develop, sample, shown_size
from maquette.workflows.region import Box, latent_mask, paste, soften
from maquette.workflows.request import Resolved

_NOT_BLACK = [0] + 255 * [255]  # what becomes of each grey


def inpaint(model: Model, request: Resolved, painted: Painted) -> Generator[Step, None, Painted]:
    """Repaint where the request's mask is white, and what lies beyond the picture if it is to be extended."""
    image, mask = canvas(request)
    size, whole = (request.width, request.height), image.size
    kept = shown_size(request, model.multiple)
    padded = kept == whole
    brought = bring_along(request, whole, padded=padded)
    if padded:  # a few pixels more are painted with it, and cut off again
        mask = ImageOps.expand(mask, (0, 0, size[0] - whole[0], size[1] - whole[1]), 0)
    repainted = yield from repaint(
        model, brought, bring(image, whole, size, padded=padded), fit(mask, *size), painted.attention
    )
    return replace(repainted, images=[image.crop((0, 0, *kept)) for image in repainted.images])


def repaint(
    model: Model,
    request: Resolved,
    image: Image.Image,
    mask: Image.Image,
    attention: AttentionMaps | None = None,
    *,
    followed: Image.Image | None = None,
) -> Generator[Step, None, Painted]:
    """Repaint a picture of the request's size where `mask` is white; a model that follows one follows `followed`.

    The request's depth has that size, too.
    """
    assert request.strength is not None
    within, by_degrees = mask.point(_NOT_BLACK), request.mask_grey == "strength"
    pixels, where = to_pixels([image]).to(model.device), mask_to_tensor(within if by_degrees else mask).to(model.device)
    shown = pixels if followed is None else to_pixels([followed])
    depth = None if request.depth is None else to_channel(read_depth(request.depth.image)).to(model.device)
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
