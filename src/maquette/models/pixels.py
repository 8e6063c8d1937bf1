"""The first stage of models that paint pixels: none (f = 1)."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class PixelSpec:
    """Shape of pictures as they are."""

    channels: int = 3
    factor: int = 1


class Pixels(nn.Module):
    """x (B, channels, H, W) in [-1, 1] -> x."""

    def __init__(self, spec: PixelSpec) -> None:
        super().__init__()
        self.spec = spec

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z
