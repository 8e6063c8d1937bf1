"""What some denoisers read beside the latent: a mask, the picture around it, its depth (Rombach et al. 2022, 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.engine.model import Model
from maquette.errors import MaquetteError


@torch.no_grad()
def read_beside(
    model: Model,
    picture: Tensor | tuple[int, int],
    mask: Tensor | None = None,
    depth: Tensor | None = None,
) -> Tensor | None:
    """The channels (B, C, h, w) that the model reads beside the latent; None where it reads none.

    `picture` (B, 3, H, W) lies in [-1, 1]; `mask` (1, 1, H, W) is 1 where is to be painted, by default everywhere;
    `depth` (1, 1, H, W) is large where things are near, in any unit. Where there is no picture, its (width, height)
    is given, and all of it is to be painted.

    Raises:
        MaquetteError: the model reads depth, or follows a picture, and none was given.
    """
    wanted = model.family.beside
    if not wanted:
        return None
    if isinstance(picture, tuple):
        if model.family.follows_picture or "depth" in wanted:
            raise MaquetteError(f"{model.name} follows a picture ({', '.join(wanted)}); give one")
        picture = torch.zeros(1, 3, *picture[::-1], device=model.device)
    picture = picture.to(model.device)
    size = model.latent_shape(picture.shape[-1], picture.shape[-2])[1:]
    mask = torch.ones_like(picture[:1, :1]) if mask is None else (mask >= 0.5).to(picture)
    parts = []
    for what in wanted:
        if what == "mask":
            parts.append(F.interpolate(mask, size))
        elif what == "folded mask":
            parts.append(F.pixel_unshuffle(mask, picture.shape[-1] // size[1]))
        elif what == "depth":
            parts.append(_read_depth(model, depth, size))
        else:
            kept = picture * (mask < 0.5) if what == "masked picture" else picture
            latent = model.encode(kept.to(model.dtype))
            parts.append(model.family.latent.unscaled(latent) if what == "unscaled picture" else latent)
    count = max(len(part) for part in parts)
    return torch.cat([part.to(model.device).expand(count, -1, -1, -1) for part in parts], dim=1)


def _read_depth(model: Model, depth: Tensor | None, size: tuple[int, ...]) -> Tensor:
    """Depth at the latent's size, from -1 to 1, as SD 2's was trained to read it."""
    if depth is None:
        raise MaquetteError(f"{model.name} reads how far things are; give a depth picture, bright where they are near")
    small = F.interpolate(depth.float(), size, mode="bicubic", align_corners=False)
    low, high = small.amin(), small.amax()
    return 2 * (small - low) / (high - low).clamp(min=1e-6) - 1
