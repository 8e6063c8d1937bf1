"""Every workflow: what a request asks for is done pass after pass, one batch of its pictures after the other."""

from collections.abc import Mapping

import torch

from maquette.diffusion.schedules import kept_steps
from maquette.engine.attention_maps import AttentionMaps
from maquette.engine.model import Model
from maquette.workflows.begun import begun_with
from maquette.workflows.checks import check
from maquette.workflows.detail import detail
from maquette.workflows.hires import hires
from maquette.workflows.img2img import img2img
from maquette.workflows.inpaint import inpaint
from maquette.workflows.loop import Painted, Pass, Result, Workflow, batches, resolve
from maquette.workflows.loras import added, wearing
from maquette.workflows.loras import hashes as hashes_of
from maquette.workflows.request import Request, Resolved
from maquette.workflows.settings import Picture
from maquette.workflows.txt2img import txt2img


def passes(request: Request) -> list[Pass]:
    """What is done for a request, in order."""
    wanted: tuple[tuple[Pass, bool], ...] = (
        (txt2img, request.image is None),
        (inpaint, request.keeps_pixels),
        (img2img, request.repainted and not request.keeps_pixels),
        (hires, request.hires is not None),
        (detail, request.detail is not None),
    )
    return [work for work, is_wanted in wanted if is_wanted]


def count_steps(request: Resolved) -> int:
    """How many steps are walked for each batch of a request; things that a finder will find are not counted."""
    repainted, larger, details = request.strength or 0.0, request.hires, request.detail
    counts: dict[Pass, int] = {
        txt2img: request.steps,
        inpaint: kept_steps(request.steps, repainted),
        img2img: kept_steps(request.steps, repainted),
        hires: 0 if larger is None else kept_steps(larger.steps or request.steps, larger.strength),
        detail: 0 if details is None else kept_steps(request.steps, details.strength) * len(details.boxes),
    }
    return sum(counts[work] for work in passes(request))


def with_pictures(request: Resolved) -> Resolved:
    """The request whose controls all have pictures: those without follow the one that it begins with, extended."""
    if request.image is None or all(control.image is not None for control in request.controls):
        return request
    own = Picture(begun_with(request)) if request.keeps_pixels else request.image
    controls = (each if each.image else each.model_copy(update={"image": own}) for each in request.controls)
    return request.model_copy(update={"controls": tuple(controls)})


@torch.no_grad()
def paint(model: Model, request: Request) -> Workflow:
    """Paint the pictures of a request, with the LoRAs and words that it adds."""
    resolved = resolve(request, model)
    with model.turn:  # an upscaler may be opened beside the model
        check(model, resolved)
    wanted = added(resolved)
    told = hashes_of(resolved)  # of the files that are meant: they may be replaced before the pictures are painted
    return (yield from wearing(model, wanted, _paint(model, resolved, told)))


def _paint(model: Model, resolved: Resolved, added_hashes: Mapping[str, str]) -> Workflow:
    images, hashes, looked = [], [], []
    for part in map(with_pictures, batches(model, resolved)):
        given = [] if part.image is None else [part.image.rgb] * part.count
        attention = AttentionMaps(part.count) if part.attention else None
        painted = Painted(images=given, hashes=[""] * part.count, attention=attention)
        for work in passes(part):  # the first one is watched
            painted = yield from work(model, part, painted)
        images += painted.images
        hashes += painted.hashes
        looked += [] if attention is None else [attention]
    maps = AttentionMaps.join(looked) if looked else None
    return Result(
        images=images,
        request=resolved,
        model_hash=model.hash,
        latent_hashes=hashes,
        hashes=added_hashes,
        opened_with=model.opened_with,
        attention=maps,
    )
