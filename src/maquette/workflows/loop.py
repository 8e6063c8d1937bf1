"""The one loop: every workflow is a generator of steps, and closing it cancels the work.

A workflow yields each `Step` of its samplers and returns a `Result`; one workflow uses another by `yield from`.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from maquette.diffusion.guidance import Pair, cfg
from maquette.diffusion.noise import SeededNoise
from maquette.diffusion.samplers import sampler, walk
from maquette.diffusion.schedules import schedule
from maquette.diffusion.singlestep import Step
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.workflows.picture import Origin, encode_png, hash_latent, name_files, to_images, write_files
from maquette.workflows.request import Request, Resolved, nearest_multiple

BATCH_PIXELS = 2**20  # painted at once: 64 pictures of 128 x 128, 4 of 512 x 512, 1 that is larger


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Pictures, and what is needed to paint them again; image k has the seed `seeds[k]`."""

    images: list[Image.Image]
    request: Resolved
    model_hash: str
    latent_hashes: list[str]

    @property
    def seeds(self) -> list[int]:
        return list(self.request.seeds)

    def save(self, out: Path | str) -> list[Path]:
        """Write all pictures with their settings, or none: to `out` (a .png), or to out-1, out-2, ... for several.

        Raises MaquetteError if a file cannot be written.
        """
        paths = name_files(Path(out), len(self.images))
        write_files([(path, encode_png(self.images[k], self._origin(k))) for k, path in enumerate(paths)])
        return paths

    def _origin(self, k: int) -> Origin:
        return Origin(request=self.request.alone(k), model_hash=self.model_hash, latent_hash=self.latent_hashes[k])


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


def resolve(request: Request, model: Model) -> Resolved:
    """Fill in the model's name and its family's defaults; the size must suit the model."""
    resolved = request.resolved(model.family.defaults).model_copy(update={"model": model.name})
    for name, side in (("width", resolved.width), ("height", resolved.height)):
        if side % model.multiple:
            near = nearest_multiple(side, model.multiple)
            raise MaquetteError(
                f"{name} {side} is not a multiple of {model.multiple}, as {model.name} needs; try {near}"
            )
    return resolved


def batches(request: Resolved) -> list[Sequence[int]]:
    """The seeds in groups that are painted together."""
    size = max(BATCH_PIXELS // (request.width * request.height), 1)
    return [request.seeds[k : k + size] for k in range(0, request.count, size)]


@torch.no_grad()
def sample(model: Model, request: Resolved, seeds: Sequence[int]) -> Generator[Step, None, Tensor]:
    """Walk from noise to clean latents (B, C, h, w), one for each seed, in float32."""
    told = {"width": request.width, "height": request.height, "guidance": request.guidance}
    positive, negative = (each.repeat(len(seeds)) for each in model.contrast(request.prompt, request.negative, **told))
    scale = 1.0 if model.family.distilled else request.guidance
    guided = cfg(Pair(model.denoiser, positive, negative), scale)
    levels = schedule(request.schedule, model.process_for(request.width, request.height), request.steps)
    shape = model.latent_shape(request.width, request.height)
    for step in walk(sampler(request.sampler), guided, levels, SeededNoise(seeds), shape, model.device):
        x = step.x
        yield step
    if not bool(x.isfinite().all()):
        raise MaquetteError(f"{model.name} gave numbers that are not finite in {model.dtype}; open it in float32")
    return x


def develop(model: Model, latents: Tensor) -> list[Image.Image]:
    """Decode latents (B, C, h, w) to pictures, one at a time: the memory of one, and the same pixels in any batch."""
    return [image for latent in latents.split(1) for image in to_images(model.decode(latent))]


def fingerprints(latents: Tensor) -> list[str]:
    """The hash of each latent."""
    return [hash_latent(latent) for latent in latents]
