"""The one loop: every workflow is a generator of steps, and closing it cancels the work.

A workflow yields each `Step` of its samplers and returns a `Result`; one workflow uses another by `yield from`.
"""

import math
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from maquette.diffusion.compose import release
from maquette.diffusion.emulation import ALONG_PATHS, EMULATIONS
from maquette.diffusion.noise import StartingNoise, VariedNoise
from maquette.diffusion.samplers import sampler, walk
from maquette.diffusion.schedules import Schedule, schedule
from maquette.diffusion.singlestep import Step
from maquette.engine.attention_maps import AttentionMaps
from maquette.engine.image import to_images
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.families.few_steps import of_loras
from maquette.workflows.canvas import read_mask
from maquette.workflows.guide import Guide
from maquette.workflows.loras import resolve_added
from maquette.workflows.overlay import sheet
from maquette.workflows.picture import Origin, checked_names, encode_png, hash_latent, write_files
from maquette.workflows.region import Box, Size, extended_size
from maquette.workflows.request import MAX_PIXELS, MAX_SIDE, SIZE_MULTIPLE, Request, Resolved, nearest_multiple
from maquette.workflows.settings import Picture

SMALLEST = 32  # pixels: a smaller picture is painted enlarged, or with its edges repeated
BATCH_PIXELS = 2**20  # painted at once on an accelerator: 64 pictures of 128 x 128, 4 of 512 x 512, 1 that is larger
ON_CPU = 1  # pictures painted at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Pictures, and what is needed to paint them again; image k has the seed `seeds[k]`."""

    images: list[Image.Image]
    request: Resolved
    model_hash: str
    latent_hashes: list[str]
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Of what was added to the model: "lora NAME", "embedding WORD"."""
    opened_with: Mapping[str, Any] = field(default_factory=dict)
    """What the model was opened with (`Model.opened_with`)."""
    attention: AttentionMaps | None = None
    """Where the model looked for each word, if the request asked for it: `attention["apple"]` is a heat map."""

    @property
    def seeds(self) -> list[int]:
        return self.request.seeds

    @property
    def approximate(self) -> bool:
        """Whether work was left out, so that these are not quite the pictures of their seeds."""
        return self.request.speed is not None

    def save(self, out: Path | str) -> list[Path]:
        """Write all pictures with their settings, or none: to `out` (a .png), or to out-1, out-2, ... for several.

        Raises MaquetteError if a file cannot be written.
        """
        paths = checked_names(Path(out), len(self.images))
        write_files([(path, encode_png(self.images[k], self._origin(k))) for k, path in enumerate(paths)])
        return paths

    def save_attention(self, out: Path | str) -> list[Path]:
        """Write a sheet for each picture: where the model looked for each word. Raises as `save`."""
        if self.attention is None:
            raise MaquetteError("no attention was recorded; ask for it with attention=True")
        paths, files = checked_names(Path(out), len(self.images)), []
        for k, path in enumerate(paths):
            buffer = BytesIO()
            sheet(self.images[k], self.attention.of(k)).save(buffer, "PNG")
            files.append((path, buffer.getvalue()))
        write_files(files)
        return paths

    def _origin(self, k: int) -> Origin:
        together = self.request.count > 1 and EMULATIONS[self.request.noise].together
        return Origin(
            request=self.request if together else self.request.part(k, 1),
            place=k if together else None,
            model_hash=self.model_hash,
            latent_hash=self.latent_hashes[k],
            hashes=self.hashes,
            opened_with=self.opened_with,
        )


Workflow = Generator[Step, None, Result]


def run(workflow: Workflow, see: Callable[[Step], object] | None = None) -> Result:
    """Run a workflow to its end, showing each step to `see`; an exception from `see` cancels it."""
    with closing(workflow):
        while True:
            try:
                step = next(workflow)
            except StopIteration as end:
                return end.value
            if see is not None:
                see(step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """The pictures of one batch so far, and the hash of the last latent that each was developed from."""

    images: list[Image.Image]
    hashes: list[str]
    latents: Tensor | None = None
    """What they were developed from; None once the pictures were changed."""
    attention: AttentionMaps | None = None
    """Where the model looked for each word, if that was asked for."""


Pass = Callable[[Model, Resolved, Painted], Generator[Step, None, Painted]]
"""One thing that is done to a batch of pictures: painting them, enlarging them, ..."""


def whole_size(request: Request) -> Size:
    """Of the picture that a request begins with, extended if it says so."""
    assert request.image is not None
    size, edges = request.image.image.size, request.extend
    return size if edges is None else extended_size(size, (edges.left, edges.top, edges.right, edges.bottom))


def canvas_size(request: Request, multiple: int) -> tuple[int, int]:
    """(width, height) of what is painted on, multiples of `multiple` and not tiny, by default.

    A picture that keeps some of its pixels is extended to it, any other is resized.
    """
    width, height = whole_size(request)
    if not request.keeps_pixels:
        scale = max(SMALLEST / min(width, height), 1)
        width, height = round(width * scale), round(height * scale)
    if request.only_detailed:  # a photo may be larger than what can be painted
        scale = min(1.0, math.sqrt(MAX_PIXELS / (width * height)), MAX_SIDE / max(width, height))
        width, height = (int(side * scale) // multiple * multiple for side in (width, height))
    width, height = (-(-max(side, SMALLEST) // multiple) * multiple for side in (width, height))
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise MaquetteError(f"a picture of {width}x{height} is too large to be painted; give the size to paint it at")
    return width, height


def shown_size(request: Resolved, multiple: int) -> Size:
    """Of the pictures of the first pass; a few pixels that were painted beyond a kept picture are cut off again."""
    size = request.width, request.height
    multiple = math.lcm(multiple, SIZE_MULTIPLE)
    return whole_size(request) if request.keeps_pixels and size == canvas_size(request, multiple) else size


def resolve(request: Request, model: Model) -> Resolved:
    """Fill in the model's name, its family's defaults and what is added to it; sizes must suit the model."""
    added = resolve_added(request, model)
    defaults = of_loras(model.family.defaults, [lora.file for lora in added["loras"]])
    if request.image is not None:
        width, height = canvas_size(request, math.lcm(model.multiple, SIZE_MULTIPLE))
        defaults = replace(defaults, width=width, height=height)
    resolved = request.resolved(defaults).model_copy(update={"model": model.opened_as, **added})
    if resolved.depth is not None and "depth" not in model.family.beside:
        raise MaquetteError(f"{model.name} reads no depth; leave it out, or give it to a control that follows depth")
    if resolved.image_guidance is not None and not model.family.instructed:  # A1111 once wrote it for every model
        warnings.warn(f"{model.name} is not told how to change a picture; image_guidance is not used", stacklevel=2)
        resolved = resolved.model_copy(update={"image_guidance": None})
    if model.family.instructed and (resolved.apg is not None or resolved.cfg_zero):
        raise MaquetteError(f"{model.name} is guided by words and by a picture at once; leave out apg and cfg_zero")
    if resolved.true_guidance != 1.0 and not model.family.distilled:
        raise MaquetteError(f"{model.name} was not distilled for its guidance; give guidance instead of true_guidance")
    for region in resolved.regions:
        if region.box is not None:
            Box(*region.box).within((resolved.width, resolved.height))
        if region.mask is not None:
            _check_region(region.mask, resolved)
    for name, side in _sides(resolved):
        if side % model.multiple:
            near = nearest_multiple(side, model.multiple)
            raise MaquetteError(
                f"{name} {side} is not a multiple of {model.multiple}, as {model.name} needs; try {near}"
            )
    return resolved


def _sides(request: Resolved) -> Iterator[tuple[str, int]]:
    """Of all that is told to be painted by itself, but for a second pass, whose sides are rounded."""
    yield "width", request.width
    yield "height", request.height
    if request.tiles is not None:
        yield "tiles.size", request.tiles.size
    if request.detail is not None and request.detail.size is not None:
        yield "detail.size", request.detail.size


def _check_region(mask: Picture, request: Resolved) -> None:
    """Refuse a region's mask that is empty, or has neither the shape of what is painted nor of its picture."""
    size = request.width, request.height
    try:
        read_mask(mask.image, size)
    except MaquetteError:
        if request.image is None:
            raise
        read_mask(mask.image, whole_size(request))


def batches(model: Model, request: Resolved) -> list[Resolved]:
    """The request in parts that are painted together.

    On a CPU that is one picture, since the last bits of a sum depend on the size of a batch, and it gains little there.
    """
    size = max(BATCH_PIXELS // (request.width * request.height), 1)
    if model.device.type == "cpu":
        size = ON_CPU
    if request.speed is not None and request.speed.cache:
        size = 1  # what is computed anew is decided for a whole batch
    if EMULATIONS[request.noise].together:
        size = request.count
    return [request.part(k, min(size, request.count - k)) for k in range(0, request.count, size)]


@torch.no_grad()
def sample(
    model: Model,
    request: Resolved,
    *,
    source: Tensor | None = None,
    strength: float = 1.0,
    mask: Tensor | None = None,
    concat: Tensor | None = None,
    attention: AttentionMaps | None = None,
) -> Generator[Step, None, Tensor]:
    """Walk from noise to clean latents (B, C, h, w), one for each picture, in float32.

    With a clean `source` (B or 1, C, h, w) only the last part of the way is walked, as long as `strength` says; where
    the `mask` (1, 1, h, w) is 0, the source stays, and where it is m, until the last m of the steps. `concat` is what
    the network reads beside the latent, and in `attention` is recorded where it looks.
    """
    whole = schedule(request.schedule, model.process_for(request.width, request.height), request.steps)
    levels = whole if source is None else whole.strength(strength)
    guided = Guide(model, request, whole, walked=levels, concat=concat, attention=attention).guided()
    if source is not None and mask is not None:
        guided = release(guided, source, mask, list(levels)[:-1])
    noise = draw_from(request, levels)
    shape = model.latent_shape(request.width, request.height)
    for step in walk(sampler(request.sampler), guided, levels, noise, shape, model.device, source):
        x = step.x
        yield step
    if not bool(x.isfinite().all()):
        raise MaquetteError(f"{model.name} gave numbers that are not finite in {model.dtype}; open it in float32")
    return x


def draw_from(request: Resolved, levels: Schedule) -> StartingNoise:
    """The noise of the pictures' seeds, and of those of their variations, along the levels that are walked."""
    kind = EMULATIONS[request.noise]
    noise = kind.build(request.seeds, request.noise_delta, levels if request.sampler in ALONG_PATHS else None)
    if request.variation is None or request.variation.seed is None:
        return noise
    first = request.variation.seed
    return VariedNoise(noise, kind.build(range(first, first + request.count)), request.variation.amount, kind.between)


def develop(model: Model, latents: Tensor) -> Painted:
    """Decode latents (B, C, h, w) to pictures, one at a time: the memory of one, and the same pixels in any batch."""
    images = [image for latent in latents.split(1) for image in to_images(model.decode(latent))]
    return Painted(images=images, latents=latents, hashes=[hash_latent(latent) for latent in latents])
