"""ControlNet (Zhang et al. 2023) for the transformers SD3 and FLUX.1: their first blocks, copied, read a picture too.

The picture is told as its latent, cut into patches, and added to those of the noisy one. What each block then says is
added behind the blocks of the whole network; each residual serves several.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.models.flux import PATCH, FluxBody, FluxSpec, packed
from maquette.models.mmdit import MMDiTBody, MMDiTSpec
from maquette.nn.conv import Conv2d
from maquette.nn.network import Network, zero


@dataclass(frozen=True, kw_only=True)
class MMDiTControlNetSpec:
    """Shape of a ControlNet for SD3."""

    body: MMDiTSpec
    channels: int = 16
    """Of the latent that it follows."""
    unpooled: bool = True
    """Whether it was trained with zeros for the pooled text, and for the shift of latents (InstantX's were)."""


class MMDiTControlNet(Network):
    """(x (B, C, h, w), t, Conditioning, hint) -> residuals (B, patches, width), one for each of its blocks.

    `hint` (1 or B, patches, width) is what `read` makes of a latent.
    """

    def __init__(self, spec: MMDiTControlNetSpec) -> None:
        super().__init__()
        self.spec = spec
        width, patch = spec.body.width, spec.body.patch
        self.body = MMDiTBody(spec.body)
        self.hint = zero(Conv2d(spec.channels, width, patch, stride=patch))
        self.residuals = nn.ModuleList([zero(nn.Linear(width, width)) for _ in range(spec.body.layers)])

    def read(self, latent: Tensor) -> Tensor:
        """The patches (B, patches, width) of a latent (B, channels, h, w)."""
        patches: Tensor = self.hint(self.to_input(latent)).flatten(2).transpose(1, 2)
        return patches

    def forward(self, x: Tensor, t: Tensor | float, conditioning: Conditioning, hint: Tensor) -> tuple[Tensor, ...]:
        vector = conditioning.vector
        if self.spec.unpooled and vector is not None:
            vector = vector.new_zeros(()).expand_as(vector)
        told = replace(conditioning, vector=vector, concat=None)
        text, image, emb, _, _ = self.body.enter(x, t, told)
        image, said = image + hint, []
        for block, residual in zip(self.body.blocks, self.residuals, strict=True):
            text, image = self.run(block, text, image, emb)
            said.append(residual(image))
        return tuple(said)


@dataclass(frozen=True, kw_only=True)
class FluxControlNetSpec:
    """Shape of a ControlNet for FLUX.1."""

    body: FluxSpec
    modes: int | None = None
    """Of one that follows several kinds of pictures ("union"): how many; it is told which."""


class FluxControlNet(Network):
    """(x, t, Conditioning, hint) -> residuals (B, patches, width) of the double blocks, and of the single ones.

    `hint` (1 or B, patches, width) is what `read` makes of a latent.
    """

    def __init__(self, spec: FluxControlNetSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.body.width
        self.body = FluxBody(spec.body)
        self.hint = zero(nn.Linear(PATCH**2 * spec.body.in_channels, width))
        self.modes = nn.Embedding(spec.modes, width) if spec.modes is not None else None
        self.double_residuals = nn.ModuleList([zero(nn.Linear(width, width)) for _ in range(spec.body.double)])
        self.single_residuals = nn.ModuleList([zero(nn.Linear(width, width)) for _ in range(spec.body.single)])

    def read(self, latent: Tensor) -> Tensor:
        """The patches (B, patches, width) of a latent (B, C, h, w)."""
        patches: Tensor = self.hint(packed(self.to_input(latent)))
        return patches

    def forward(
        self, x: Tensor, t: Tensor | float, conditioning: Conditioning, hint: Tensor, mode: int | None = None
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """`mode` is the number of the kind of picture, for a network that follows several."""
        before = self._mode(mode, len(x))
        text, image, emb, turn, _, _ = self.body.enter(x, t, replace(conditioning, concat=None), before)
        image, of_double, of_single = image + hint, [], []
        for block, residual in zip(self.body.double_blocks, self.double_residuals, strict=True):
            text, image = self.run(block, text, image, emb, turn)
            of_double.append(residual(image))
        both, first = torch.cat([text, image], dim=1), text.shape[1]
        for block, residual in zip(self.body.single_blocks, self.single_residuals, strict=True):
            both = self.run(block, both, emb, turn)
            of_single.append(residual(both[:, first:]))
        return tuple(of_double), tuple(of_single)

    def _mode(self, mode: int | None, rows: int) -> Tensor | None:
        """The token (B, 1, width) that says which kind of picture is followed."""
        if self.modes is None:
            return None
        if mode is None or not 0 <= mode < self.modes.num_embeddings:
            raise MaquetteError(
                f"this ControlNet follows {self.modes.num_embeddings} kinds of pictures: got kind {mode}; give the "
                "number of one from 0 on, as its page lists them"
            )
        return self.modes.weight[mode].expand(rows, 1, -1)
