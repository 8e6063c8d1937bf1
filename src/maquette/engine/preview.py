"""A small picture of a latent, by one matrix: latents are nearly linear in the mean colour of what they stand for.

The matrix is the least-squares answer to what the model's own decoder makes of some pictures, found once for a model.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from maquette.engine.model import Model

PICTURES, SIDE = 8, 16  # what the matrix is fitted to; the side in places of the latent
SEED = 0


def approximate(matrix: Tensor, x0: Tensor) -> Tensor:
    """About what the decoder makes of latents (B, C, h, w), at their size: (B, 3, h, w) in [-1, 1].

    `matrix` (C + 1, 3) is that of `fit`.
    """
    matrix = matrix.to(x0)
    return (torch.einsum("bchw,cd->bdhw", x0, matrix[:-1]) + matrix[-1, :, None, None]).clamp(-1, 1)


@torch.no_grad()
def fit(model: "Model") -> Tensor:
    """The matrix (C + 1, 3), its last row a constant, that takes the model's latents to mean colours; float32."""
    latents = model.encode(two_colours(SIDE * model.first_stage.vae.spec.factor).to(model.device))
    colours = F.adaptive_avg_pool2d(model.decode(latents), (SIDE, SIDE))
    rows, targets = (each.permute(0, 2, 3, 1).flatten(0, 2).cpu().double() for each in (latents, colours))
    return torch.linalg.lstsq(F.pad(rows, (0, 1), value=1.0), targets).solution.float()


def two_colours(side: int) -> Tensor:
    """Pictures (B, 3, side, side) in [-1, 1], always the same: shapes of one strong colour on another.

    Plain colours and edges of every direction, which is what latents are most nearly linear in.
    """
    generator = torch.Generator().manual_seed(SEED)
    back, front = (2.0 * torch.randn(PICTURES, 3, 1, 1, generator=generator) for _ in range(2))
    hills = torch.randn(PICTURES, 1, 4, 4, generator=generator)
    return torch.where(F.interpolate(hills, (side, side), mode="bicubic") > 0, front, back).clamp(-1, 1)
