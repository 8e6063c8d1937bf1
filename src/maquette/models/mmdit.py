"""MM-DiT, the transformer of SD3 and SD3.5 (Esser et al. 2024, section 4 and figure 2)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.nn.embed import sinusoids
from maquette.nn.joint import JointBlock, needed
from maquette.nn.mlp import MLP
from maquette.nn.modulation import FinalLayer
from maquette.nn.network import Network
from maquette.nn.patch import grid_of, grid_positions, unpatchify

TIME_WIDTH = 256  # sinusoids of the time, as the published weights were trained


@dataclass(frozen=True, kw_only=True)
class MMDiTSpec:
    """Shape of an MM-DiT; the defaults are those of SD3 medium.

    SD3.5 medium norms queries and keys, has dual attention in blocks 0 to 12 and a grid of 384; SD3.5 large norms
    queries and keys and has 38 blocks of 38 heads. Heads are 64 wide in all of them.
    """

    in_channels: int = 16
    out_channels: int = 16
    patch: int = 2
    width: int = 1536
    layers: int = 24
    heads: int = 24
    context: int = 4096
    vector: int = 2048
    grid: int = 192
    """Rows, and columns, of the stored positions; a picture of any size up to it uses the middle."""
    qk_norm: bool = False
    dual: tuple[int, ...] = ()
    """The blocks in which the picture also attends to itself alone."""


class Entered(NamedTuple):
    """What the blocks begin with: tokens of text and picture, the embedding, the patches' rows and columns."""

    text: Tensor
    image: Tensor
    emb: Tensor
    rows: int
    columns: int


class MMDiTBody(Network):
    """An MM-DiT without its final layer: a ControlNet is a shorter one. In a whole one the last block ends the text."""

    positions: Tensor

    def __init__(self, spec: MMDiTSpec, *, whole: bool = False) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width
        self.patch_embed = nn.Conv2d(spec.in_channels, width, spec.patch, stride=spec.patch)
        self.register_buffer("positions", grid_positions(spec.grid, spec.grid, width)[None])
        self.time_embed = MLP(TIME_WIDTH, width, "silu", out=width)
        self.vector_embed = MLP(spec.vector, width, "silu", out=width)
        self.context_embed = nn.Linear(spec.context, width)
        self.blocks = nn.ModuleList()
        for index in range(spec.layers):
            dual, last = index in spec.dual, whole and index + 1 == spec.layers
            self.blocks.append(JointBlock(width, spec.heads, qk_norm=spec.qk_norm, dual=dual, last=last))

    def middle_positions(self, rows: int, columns: int) -> Tensor:
        """The middle of the stored grid, (1, rows * columns, width)."""
        grid = self.spec.grid
        if max(rows, columns) > grid:
            raise MaquetteError(
                f"MMDiT: the picture has {rows} x {columns} patches (rows x columns), the model has positions for "
                f"{grid} x {grid}; choose a smaller size"
            )
        top, left = (grid - rows) // 2, (grid - columns) // 2
        return self.positions.unflatten(1, (grid, grid))[:, top : top + rows, left : left + columns].flatten(1, 2)

    def embed(self, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The embedding (B, width) of time and vector, after its SiLU: what every block is modulated by."""
        emb = self.time_embed(sinusoids(1000.0 * t.float(), TIME_WIDTH).to(self.dtype))
        vector = needed(conditioning.vector, "vector", "MMDiT")
        return F.silu(emb + self.vector_embed(vector.to(emb)))

    def enter(self, x: Tensor, t: Tensor | float, conditioning: Conditioning) -> Entered:
        """Everything that comes before the blocks."""
        if conditioning.concat is not None:
            x = torch.cat([x, conditioning.concat.to(x)], dim=1)
        x = self.to_input(x)
        emb = self.embed(torch.as_tensor(t, device=x.device).expand(len(x)), conditioning)
        rows, columns = grid_of(x, self.spec.patch)
        text = self.context_embed(needed(conditioning.tokens, "tokens", "MMDiT").to(emb))
        image = self.patch_embed(x).flatten(2).transpose(1, 2) + self.middle_positions(rows, columns)
        return Entered(text, image, emb, rows, columns)


class MMDiT(MMDiTBody):
    """(x (B, C, h, w), t (B,) or a number in [0, 1], Conditioning) -> the velocity (B, C_out, h, w).

    Of the conditioning it reads `tokens` (B, L, context), `vector` (B, vector), `concat`, and `control`: residuals
    (B, patches, width) of a ControlNet, spread evenly over the blocks. `h` and `w` are multiples of the patch.
    """

    def __init__(self, spec: MMDiTSpec) -> None:
        super().__init__(spec, whole=True)
        self.final = FinalLayer(spec.width, spec.patch**2 * spec.out_channels)

    def forward(self, x: Tensor, t: Tensor | float, conditioning: Conditioning) -> Tensor:
        text, image, emb, rows, columns = self.enter(x, t, conditioning)
        control = [residual.to(image) for residual in conditioning.control]
        for index, block in enumerate(self.blocks):
            text, image = self.run(block, text, image, emb)
            if control and index + 1 < len(self.blocks):
                image = image + control[index * len(control) // len(self.blocks)]
        return unpatchify(self.final(image, emb), rows, columns, self.spec.patch)
