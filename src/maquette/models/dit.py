"""DiT, the diffusion transformer conditioned on a class (Peebles & Xie 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.nn.attention import SelfAttention
from maquette.nn.embed import sinusoids
from maquette.nn.mlp import MLP
from maquette.nn.modulation import FinalLayer, Modulation, add_gated, modulate
from maquette.nn.network import Network, zero
from maquette.nn.patch import grid_of, grid_positions, unpatchify

TIME_WIDTH = 256  # sinusoids of the time, as the published weights were trained


@dataclass(frozen=True, kw_only=True)
class DiTSpec:
    """Shape of a DiT; the defaults are those of DiT-XL/2."""

    channels: int = 4
    size: int = 32
    """Side of the latents it was trained on: 32 for pictures of 256, 64 for 512."""
    patch: int = 2
    width: int = 1152
    layers: int = 28
    heads: int = 16
    classes: int = 1000
    learned_sigma: bool = True
    """Whether the network also predicts the variance of the reverse step (Nichol & Dhariwal 2021, section 3.1)."""


def class_vector(ids: Sequence[int | None], classes: int) -> Tensor:
    """What a DiT reads as `vector`, (B, classes + 1): 1 at the class, or at the end for None, the null class.

    A row may also hold a mixture of classes. Unlike the ids, it outlives a cast to half precision.
    """
    for index in ids:
        if index is not None and not 0 <= index < classes:
            raise MaquetteError(f"DiT: got class {index}; the model knows 0 to {classes - 1}, and None for no class")
    places = torch.tensor([classes if index is None else index for index in ids])
    return F.one_hot(places, classes + 1).float()


class DiTBlock(nn.Module):
    """x (B, L, width), emb (B, width) after its SiLU -> x: attention, then perceptron, each modulated and gated."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulation = Modulation(width, 6)
        self.attention = SelfAttention(width, heads, bias=True)
        self.mlp = MLP(width, 4 * width, "gelu_tanh")

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(emb)
        x = add_gated(x, gate, self.attention(modulate(x, shift, scale)))
        return add_gated(x, mlp_gate, self.mlp(modulate(x, mlp_shift, mlp_scale)))


class DiT(Network):
    """(x (B, C, h, w), t (B,) or a number, Conditioning) -> epsilon (B, C, h, w).

    Of the conditioning it reads `vector` (B, classes + 1), see `class_vector`; without it, the null class. A network
    with learned sigma gives the variance too, by `epsilon_and_variance`. `h` and `w` are multiples of the patch.
    """

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width
        self.patch_embed = nn.Conv2d(spec.channels, width, spec.patch, stride=spec.patch)
        self.time_embed = MLP(TIME_WIDTH, width, "silu", out=width)
        self.class_embed = nn.Embedding(spec.classes + 1, width)
        self.blocks = nn.ModuleList([DiTBlock(width, spec.heads) for _ in range(spec.layers)])
        out = spec.channels * (2 if spec.learned_sigma else 1)
        self.final = FinalLayer(width, spec.patch**2 * out)

    def initialise(self) -> None:
        """The initial weights of the paper's code; the gates and the final layer are zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embedding in (self.class_embed, self.time_embed.up, self.time_embed.down):
            nn.init.normal_(embedding.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, Modulation | FinalLayer):
                zero(module)

    def embed(self, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The embedding (B, width) of time and class, after its SiLU: what every block is modulated by."""
        emb = self.time_embed(sinusoids(t, TIME_WIDTH).to(self.dtype))
        table = self.class_embed.weight
        classes = table[-1] if conditioning.vector is None else conditioning.vector.to(table) @ table
        return F.silu(emb + classes)

    def epsilon_and_variance(
        self, x: Tensor, t: Tensor | float, conditioning: Conditioning
    ) -> tuple[Tensor, Tensor | None]:
        """epsilon (B, C, h, w), and v (B, C, h, w) if learned.

        v in [-1, 1] lies between the two bounds of the step's log variance, beta~ at -1 and beta at 1 (Nichol &
        Dhariwal 2021, equation 15).
        """
        x = self.to_input(x)
        emb = self.embed(torch.as_tensor(t, device=x.device).expand(len(x)), conditioning)
        rows, columns = grid_of(x, self.spec.patch)
        positions = grid_positions(rows, columns, self.spec.width, x.device).to(x.dtype)
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2) + positions
        for block in self.blocks:
            tokens = self.run(block, tokens, emb)
        out = unpatchify(self.final(tokens, emb), rows, columns, self.spec.patch)
        if not self.spec.learned_sigma:
            return out, None
        epsilon, variance = out.chunk(2, dim=1)
        return epsilon, variance

    def forward(self, x: Tensor, t: Tensor | float, conditioning: Conditioning) -> Tensor:
        return self.epsilon_and_variance(x, t, conditioning)[0]
