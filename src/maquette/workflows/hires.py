"""A second pass at a larger size: what was painted is enlarged and painted again, for its details."""

from collections.abc import Generator
from dataclasses import replace

import torch.nn.functional as F

from maquette.diffusion.schedules import kept_steps
from maquette.diffusion.singlestep import Step
from maquette.engine.model import Model
from maquette.engine.upscale import upscaler_beside
from maquette.text.script import second_pass
from maquette.workflows.img2img import img2img
from maquette.workflows.loop import Painted, develop, sample, shown_size
from maquette.workflows.region import Box, Size
from maquette.workflows.request import Resolved, enlarged_side
from maquette.workflows.settings import Region
from maquette.workflows.upscale import enlarge


def enlarged(request: Resolved, multiple: int) -> Resolved:
    """The request of the second pass."""
    assert request.hires is not None
    told = request.hires
    shown = shown_size(request, multiple)
    width, height = (enlarged_side(side, told.scale, multiple) for side in shown)
    changes: dict[str, object] = {"width": width, "height": height, "hires": None, "strength": told.strength}
    steps = told.steps or request.steps
    walked = kept_steps(steps, told.strength)
    changes |= {"steps": steps}
    changes |= {name: second_pass(getattr(request, name), request.steps, walked) for name in ("prompt", "negative")}
    if request.variation is not None and request.variation.prompt is not None:
        words = second_pass(request.variation.prompt, request.steps, walked)
        changes["variation"] = request.variation.model_copy(update={"prompt": words})
    regions = (_enlarged(region, shown, (width, height), (request.steps, walked)) for region in request.regions)
    changes["regions"] = tuple(region for region in regions if region is not None)
    return request.model_copy(update=changes)


def _enlarged(region: Region, shown: Size, size: Size, steps: tuple[int, int]) -> Region | None:
    """The same part of the larger picture; None of what was painted beyond a kept picture, and is cut off."""
    box, scales = region.box, (size[0] / shown[0], size[1] / shown[1])
    if box is not None:
        if box[0] >= shown[0] or box[1] >= shown[1]:
            return None
        inside = Box(*box).within(shown)
        box = Box(*(round(side * scale) for side, scale in zip(inside, scales * 2, strict=True)))
    words, feather = second_pass(region.prompt, *steps), round(region.feather * max(scales))
    return region.model_copy(update={"box": box, "prompt": words, "feather": feather})


def hires(model: Model, request: Resolved, painted: Painted) -> Generator[Step, None, Painted]:
    """Enlarge the latents, or the pictures, and paint them again."""
    assert request.hires is not None
    larger = enlarged(request, model.multiple)
    if request.hires.upscaler is not None:
        upscaler = upscaler_beside(model, request.hires.upscaler)
        painted = replace(painted, images=enlarge(upscaler, painted.images))
    if request.hires.by == "pixel" or painted.latents is None or model.family.beside:
        return (yield from img2img(model, larger, painted))
    size = model.latent_shape(larger.width, larger.height)[1:]
    source = F.interpolate(painted.latents, size, mode="bilinear", antialias=False)
    return develop(model, (yield from sample(model, larger, source=source, strength=request.hires.strength)))
