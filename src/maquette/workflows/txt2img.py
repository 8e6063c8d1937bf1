"""Words to pictures."""

import torch
from PIL import Image

from maquette.engine.model import Model
from maquette.workflows.loop import Result, Workflow, batches, develop, fingerprints, resolve, sample
from maquette.workflows.request import Request


@torch.no_grad()
def txt2img(model: Model, request: Request) -> Workflow:
    """Paint the pictures of a request: latents from noise, then developed, one batch of seeds after the other."""
    resolved = resolve(request, model)
    images: list[Image.Image] = []
    hashes: list[str] = []
    for seeds in batches(resolved):
        latents = yield from sample(model, resolved, seeds)
        images += develop(model, latents)
        hashes += fingerprints(latents)
    return Result(images=images, request=resolved, model_hash=model.hash, latent_hashes=hashes)
