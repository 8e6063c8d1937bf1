"""ControlNet (Zhang, Rao & Agrawala 2023, 2302.05543): a copy of a U-Net's encoder that reads a picture too.

What it says is added to the skips and the middle of the U-Net. Its first and last convolutions begin at zero, so that
training begins where the U-Net stood.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.models.unet import UNetEncoder, UNetSpec
from maquette.nn.conv import Conv2d
from maquette.nn.network import Network, zero


@dataclass(frozen=True, kw_only=True)
class ControlNetSpec:
    """Shape of a ControlNet; the defaults are those of SD 1.x (cldm_v15.yaml)."""

    unet: UNetSpec
    """The U-Net that it is half a copy of; of its way up nothing is used."""
    channels: int = 3
    """Of the picture that it follows."""
    hint_widths: tuple[int, ...] = (16, 32, 96, 256)
    pooled: bool = False
    """Whether the residuals are means over all places, so that the picture tells a style and no layout ("shuffle")."""

    @property
    def factor(self) -> int:
        """The side of the picture over the side of the latent."""
        return 1 << (len(self.hint_widths) - 1)


class HintNetwork(nn.Module):
    """A picture (B, channels, f H, f W) in [0, 1] -> (B, out, H, W): what is added to the latent's first features."""

    def __init__(self, channels: int, widths: tuple[int, ...], out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Conv2d(channels, widths[0], 3, padding=1)])
        for width, wider in pairwise(widths):
            self.layers.append(Conv2d(width, width, 3, padding=1))
            self.layers.append(Conv2d(width, wider, 3, padding=1, stride=2))
        self.layers.append(zero(Conv2d(widths[-1], out, 3, padding=1)))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.layers
        x = first(x)
        for layer in others:
            x = layer(F.silu(x))
        return x


class ControlNet(Network):
    """(x (B, C, h, w), t (B,) or a number, Conditioning, hint) -> residuals, one for each skip, one for the middle.

    `hint` (1 or B, widths[0], h, w) is what `read` makes of the picture, the same at every step.
    """

    def __init__(self, spec: ControlNetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = UNetEncoder(spec.unet)
        self.hint = HintNetwork(spec.channels, spec.hint_widths, spec.unet.widths[0])
        self.skips = nn.ModuleList([zero(Conv2d(width, width, 1)) for width in self.encoder.skips])
        self.middle = zero(Conv2d(self.encoder.skips[-1], self.encoder.skips[-1], 1))

    def read(self, picture: Tensor) -> Tensor:
        """The features (B, widths[0], h, w) of a picture (B, channels, f h, f w) in [0, 1]."""
        features: Tensor = self.hint(self.to_input(picture))
        return features

    def forward(self, x: Tensor, t: Tensor | float, conditioning: Conditioning, hint: Tensor) -> tuple[Tensor, ...]:
        if x.shape[1] == self.spec.unet.in_channels:  # what an inpainting U-Net reads beside the latent is not for it
            conditioning = replace(conditioning, concat=None)
        conditioning = replace(conditioning, features=())
        encoded = self.encoder.encode(x, t, conditioning, hint)
        residuals = [conv(skip) for conv, skip in zip(self.skips, encoded.skips, strict=True)]
        residuals.append(self.middle(encoded.x))
        if self.spec.pooled:
            residuals = [residual.mean(dim=(2, 3), keepdim=True) for residual in residuals]
        return tuple(residuals)
