"""Convolution whose weights take the memory layout of the pictures when they are first used.

Files keep a kernel as (out, in, height, width); a channels-last picture wants the channels last there too, or else the
weights are turned at every call. Turning all of them takes longer than everything else in opening a model, and many
(the first stage's encoder) may never be used: so a model opens with its weights as they lie in the mapped file.
"""

import torch
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """As `torch.nn.Conv2d`, for x (B, C, H, W); weights that learn or are compiled are left as they are."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.weight.requires_grad or torch.compiler.is_compiling()):
            turn(self, x)
        return super().forward(x)


def turn(layer: nn.Conv2d, x: Tensor) -> None:
    """Bring the weights to channels-last where `x` is so and they are not; their old memory is let go."""
    weight, layout = layer.weight, torch.channels_last
    if x.is_contiguous(memory_format=layout) and not weight.is_contiguous(memory_format=layout):
        with torch.inference_mode(False):
            # (O, I, H, W) -> (O, H W, I) in memory: as three dimensions this is copied faster than as four.
            turned = weight.detach().flatten(2).transpose(1, 2).contiguous()
            weight.data = turned.unflatten(1, weight.shape[2:]).permute(0, 3, 1, 2)
