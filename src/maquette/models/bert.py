"""The text transformer of latent diffusion (Rombach et al. 2022, section 3.3): BERT's words, trained with the U-Net."""

from dataclasses import dataclass

from torch import Tensor, nn

from maquette.nn.attention import SelfAttention
from maquette.nn.mlp import MLP
from maquette.nn.network import Network


@dataclass(frozen=True, kw_only=True)
class BertSpec:
    """Shape of the transformer; the defaults are those of latent diffusion's 1.45 billion parameters."""

    vocabulary: int = 30522
    positions: int = 77
    width: int = 1280
    layers: int = 32
    heads: int = 8
    head_width: int = 64
    hidden: int = 5120


class BertLayer(nn.Module):
    """Pre-norm transformer layer: attention narrower than the tokens, then perceptron."""

    def __init__(self, spec: BertSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width)
        self.attention = SelfAttention(spec.width, spec.heads, inner=spec.heads * spec.head_width)
        self.norm2 = nn.LayerNorm(spec.width)
        self.mlp = MLP(spec.width, spec.hidden, "gelu")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Bert(Network):
    """ids (B, L) int64, L at most `positions` -> states (B, L, width); no mask, neither causal nor for the padding."""

    def __init__(self, spec: BertSpec) -> None:
        super().__init__()
        self.spec = spec
        self.token_embedding = nn.Embedding(spec.vocabulary, spec.width)
        self.position_embedding = nn.Embedding(spec.positions, spec.width)
        self.layers = nn.ModuleList([BertLayer(spec) for _ in range(spec.layers)])
        self.final_norm = nn.LayerNorm(spec.width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        for layer in self.layers:
            x = self.run(layer, x)
        return self.final_norm(x)
