"""The patch critic (Isola et al. 2017, "pix2pix"), which tells drawn patches from reconstructed ones in stage one."""

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.network import Network
from maquette.nn.norm import GroupNorm


@dataclass(frozen=True, kw_only=True)
class CriticSpec:
    """Shape of the critic; three layers of stride 2 see patches of 70 pixels."""

    width: int = 64
    layers: int = 3


class Critic(Network):
    """Pictures (B, 3, H, W) in [-1, 1] -> logits (B, 1, h, w), one for each patch, high where drawn."""

    def __init__(self, spec: CriticSpec) -> None:
        super().__init__()
        widths = [spec.width * min(2**i, 8) for i in range(spec.layers + 1)]
        self.blocks = nn.ModuleList([nn.Conv2d(3, widths[0], 4, stride=2, padding=1)])
        self.norms = nn.ModuleList([nn.Identity()])
        for index, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if index + 1 < spec.layers else 1
            self.blocks.append(nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False))
            self.norms.append(GroupNorm(min(32, after), after))
        self.conv_out = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.to_input(x)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = F.leaky_relu(norm(self.run(block, x)), 0.2)
        return self.conv_out(x)
