"""Joint attention of text and picture (Esser et al. 2024, section 4, MM-DiT; Black Forest Labs 2024, FLUX.1).

Each modality has its own weights, a `Stream`; their tokens meet in one attention, text first.
"""

import torch
from torch import Tensor, nn

from maquette.errors import MaquetteError
from maquette.nn.attention import attend, join_heads, split_heads
from maquette.nn.mlp import MLP
from maquette.nn.modulation import EPS, Modulation, add_gated, modulate
from maquette.nn.rope import Rotation, rotate


class QKNorm(nn.Module):
    """RMS norm of queries and keys over each head's features (Dehghani et al. 2023): scores stay bounded."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q = nn.RMSNorm(width, eps=EPS)
        self.k = nn.RMSNorm(width, eps=EPS)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.q(q), self.k(k)


class QKV(nn.Module):
    """Tokens (B, L, width) -> queries, keys and values (B, heads, L, d), in one product (rows q, k, v)."""

    def __init__(self, width: int, heads: int, *, norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(width, 3 * width)
        self.norm = QKNorm(width // heads) if norm else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split_heads(part, self.heads) for part in self.linear(x).chunk(3, dim=-1))
        if self.norm is not None:
            q, k = self.norm(q, k)
        return q, k, v


class DualAttention(nn.Module):
    """The second attention of SD3.5 medium's first blocks, of the picture to itself alone."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.qkv = QKV(width, heads, norm=qk_norm)
        self.out = nn.Linear(width, width)
        self.attend = attend

    def forward(self, x: Tensor) -> Tensor:
        return self.out(join_heads(self.attend(*self.qkv(x))))


class Stream(nn.Module):
    """The weights of one modality in a `JointBlock`.

    Its modulation gives shift, scale, gate of the attention, then of the perceptron, then of the dual attention. A
    `last` stream is read and not written any more: shift and scale alone.
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool, dual: bool = False, last: bool = False) -> None:
        super().__init__()
        self.modulation = Modulation(width, 2 if last else 9 if dual else 6)
        self.qkv = QKV(width, heads, norm=qk_norm)
        self.out = None if last else nn.Linear(width, width)
        self.mlp = None if last else MLP(width, 4 * width, "gelu_tanh")
        self.dual = DualAttention(width, heads, qk_norm=qk_norm) if dual else None

    def read(self, x: Tensor, modulation: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """What the stream brings to the joint attention: q, k, v (B, heads, L, d)."""
        shift, scale, *_ = modulation
        return self.qkv(modulate(x, shift, scale))

    def write(self, x: Tensor, attended: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        """Add what the joint attention gave, (B, L, width), and what the perceptron makes of it."""
        if self.out is None or self.mlp is None:
            return x
        _, _, gate, mlp_shift, mlp_scale, mlp_gate, *dual = modulation
        y = add_gated(x, gate, self.out(attended))
        if self.dual is not None:
            dual_shift, dual_scale, dual_gate = dual
            y = add_gated(y, dual_gate, self.dual(modulate(x, dual_shift, dual_scale)))  # of x, not of y
        return add_gated(y, mlp_gate, self.mlp(modulate(y, mlp_shift, mlp_scale)))


class JointBlock(nn.Module):
    """text (B, L, width), image (B, M, width), emb (B, width) after its SiLU -> text, image.

    One call of `attend` sees all tokens, the text's before the picture's.
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool, dual: bool = False, last: bool = False) -> None:
        super().__init__()
        self.text = Stream(width, heads, qk_norm=qk_norm, last=last)
        self.image = Stream(width, heads, qk_norm=qk_norm, dual=dual)
        self.attend = attend

    def forward(self, text: Tensor, image: Tensor, emb: Tensor, turn: Rotation | None = None) -> tuple[Tensor, Tensor]:
        of_text, of_image = self.text.modulation(emb), self.image.modulation(emb)
        both = zip(self.text.read(text, of_text), self.image.read(image, of_image), strict=True)
        q, k, v = (torch.cat(parts, dim=2) for parts in both)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        attended = join_heads(self.attend(q, k, v))
        to_text, to_image = attended.split([text.shape[1], image.shape[1]], dim=1)
        return self.text.write(text, to_text, of_text), self.image.write(image, to_image, of_image)


def needed(part: Tensor | None, name: str, network: str) -> Tensor:
    """A part of the conditioning without which a network cannot run; an error if it is missing."""
    if part is None:
        raise MaquetteError(f"{network}: the conditioning has no `{name}`, which this network reads; give it")
    return part
