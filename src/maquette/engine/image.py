"""Decoded pictures as bytes and as PIL has them: the one place that rounds to 256 levels."""

from PIL import Image
from torch import Tensor


def to_bytes(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, H, W) in [-1, 1] as files have them: (B, H, W, 3) in bytes; what lies outside is clipped."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu()


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Pixels (B, 3, H, W) in [-1, 1] as pictures of 8 bits."""
    return [Image.fromarray(picture.contiguous().numpy()) for picture in to_bytes(pixels)]
