"""FLUX.1 (Black Forest Labs 2024): joint blocks as in MM-DiT, then blocks of one stream over text and picture.

The single blocks run attention and perceptron side by side (Dehghani et al. 2023); positions are rotary.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.nn.attention import attend, join_heads, split_heads
from maquette.nn.embed import sinusoids
from maquette.nn.joint import JointBlock, QKNorm, needed
from maquette.nn.mlp import MLP, gelu_tanh
from maquette.nn.modulation import FinalLayer, Modulation, add_gated, modulate
from maquette.nn.network import Network
from maquette.nn.patch import grid_of
from maquette.nn.rope import Rotation, rotate, rotation

PATCH = 2  # of the latent, in each direction
TIME_WIDTH = 256  # sinusoids of time and guidance, as the published weights were trained


@dataclass(frozen=True, kw_only=True)
class FluxSpec:
    """Shape of a FLUX.1 transformer; the defaults are those of FLUX.1 dev.

    Schnell has no guidance. Fill reads 96 channels: 16 of the latent, and as `concat` 16 of the masked picture's
    latent and 64 of the mask, one for each of the 8 x 8 pixels of a latent's place.
    """

    in_channels: int = 16
    out_channels: int = 16
    width: int = 3072
    heads: int = 24
    double: int = 19
    single: int = 38
    context: int = 4096
    vector: int = 768
    guidance: bool = True
    axes: tuple[int, ...] = (16, 56, 56)
    """Features of a head that turn with each axis: of time (always 0 here), of the row, of the column."""


class SingleBlock(nn.Module):
    """x (B, L, width) of text and picture, emb (B, width) after its SiLU -> x.

    Two products only: `up` has the rows q, k, v, perceptron; `down` reads attention, perceptron.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads, self.hidden = width, heads, 4 * width
        self.modulation = Modulation(width, 3)
        self.up = nn.Linear(width, 3 * width + self.hidden)
        self.norm = QKNorm(width // heads)
        self.down = nn.Linear(width + self.hidden, width)
        self.attend = attend

    def forward(self, x: Tensor, emb: Tensor, turn: Rotation) -> Tensor:
        shift, scale, gate = self.modulation(emb)
        *qkv, hidden = self.up(modulate(x, shift, scale)).split([self.width] * 3 + [self.hidden], dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in qkv)
        q, k = self.norm(q, k)
        attended = join_heads(self.attend(rotate(q, turn), rotate(k, turn), v))
        return add_gated(x, gate, self.down(torch.cat([attended, gelu_tanh(hidden)], dim=-1)))


class Entered(NamedTuple):
    """What the blocks begin with: tokens of text and picture, embedding, rotation, the patches' rows and columns."""

    text: Tensor
    image: Tensor
    emb: Tensor
    turn: Rotation
    rows: int
    columns: int


class FluxBody(Network):
    """A FLUX.1 transformer without its final layer: a ControlNet is a shorter one."""

    def __init__(self, spec: FluxSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width
        self.patch_embed = nn.Linear(PATCH**2 * spec.in_channels, width)
        self.time_embed = MLP(TIME_WIDTH, width, "silu", out=width)
        self.vector_embed = MLP(spec.vector, width, "silu", out=width)
        self.guidance_embed = MLP(TIME_WIDTH, width, "silu", out=width) if spec.guidance else None
        self.context_embed = nn.Linear(spec.context, width)
        joint = [JointBlock(width, spec.heads, qk_norm=True) for _ in range(spec.double)]
        self.double_blocks = nn.ModuleList(joint)
        self.single_blocks = nn.ModuleList([SingleBlock(width, spec.heads) for _ in range(spec.single)])

    def embed(self, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The embedding (B, width) of time, guidance and vector, after its SiLU: what every block is modulated by."""
        emb = self.time_embed(sinusoids(1000.0 * t.float(), TIME_WIDTH).to(self.dtype))
        if self.guidance_embed is not None:
            guidance = 1000.0 * needed(conditioning.guidance, "guidance", "FLUX").to(t.device).float()
            emb = emb + self.guidance_embed(sinusoids(guidance, TIME_WIDTH).to(emb))
        vector = needed(conditioning.vector, "vector", "FLUX")
        return F.silu(emb + self.vector_embed(vector.to(emb)))

    def rotation(self, text: int, rows: int, columns: int) -> Rotation:
        """The rotation of all tokens: the text stands at the origin, patches at (0, row, column)."""
        positions = torch.zeros(text + rows * columns, 3, device=self.device)
        positions[text:, 1] = torch.arange(rows, device=self.device).repeat_interleave(columns)
        positions[text:, 2] = torch.arange(columns, device=self.device).repeat(rows)
        return rotation(positions, self.spec.axes)

    def enter(self, x: Tensor, t: Tensor | float, conditioning: Conditioning, before: Tensor | None = None) -> Entered:
        """Everything that comes before the blocks; `before` (B, n, width) are tokens put before the text."""
        if conditioning.concat is not None:
            x = torch.cat([x, conditioning.concat.to(x)], dim=1)
        x = self.to_input(x)
        emb = self.embed(torch.as_tensor(t, device=x.device).expand(len(x)), conditioning)
        rows, columns = grid_of(x, PATCH)
        text = self.context_embed(needed(conditioning.tokens, "tokens", "FLUX").to(emb))
        if before is not None:
            text = torch.cat([before, text], dim=1)
        turn = self.rotation(text.shape[1], rows, columns)
        return Entered(text, self.patch_embed(packed(x)), emb, turn, rows, columns)


def packed(x: Tensor) -> Tensor:
    """Latents (B, C, 2 h, 2 w) -> patches (B, h w, 4 C), channels outermost."""
    return F.pixel_unshuffle(x, PATCH).flatten(2).transpose(1, 2)


def spread(residuals: tuple[Tensor, ...], index: int, blocks: int) -> Tensor:
    """What is added behind a block: each of the residuals serves as many blocks, but for the last."""
    return residuals[index // math.ceil(blocks / len(residuals))]


class Flux(FluxBody):
    """(x (B, C, h, w), t (B,) or a number in [0, 1], Conditioning) -> the velocity (B, C_out, h, w).

    Of the conditioning it reads `tokens` (B, L, context), `vector` (B, vector), `concat`, and `guidance` (B,) where
    the model was distilled for it; of a ControlNet, residuals (B, patches, width) for the double blocks as `control`
    and for the single ones as `features`. `h` and `w` are multiples of 2.
    """

    def __init__(self, spec: FluxSpec) -> None:
        super().__init__(spec)
        self.final = FinalLayer(spec.width, PATCH**2 * spec.out_channels)

    def forward(self, x: Tensor, t: Tensor | float, conditioning: Conditioning) -> Tensor:
        text, image, emb, turn, rows, columns = self.enter(x, t, conditioning)
        for index, block in enumerate(self.double_blocks):
            text, image = self.run(block, text, image, emb, turn)
            if conditioning.control:
                image = image + spread(conditioning.control, index, len(self.double_blocks)).to(image)
        both, first = torch.cat([text, image], dim=1), text.shape[1]
        for index, block in enumerate(self.single_blocks):
            both = self.run(block, both, emb, turn)
            if conditioning.features:
                image = both[:, first:] + spread(conditioning.features, index, len(self.single_blocks)).to(both)
                both = torch.cat([both[:, :first], image], dim=1)
        patches = self.final(both[:, first:], emb).transpose(1, 2).unflatten(2, (rows, columns))
        return F.pixel_shuffle(patches, PATCH)
