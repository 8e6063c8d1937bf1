"""Parts of a picture: boxes, crops, masks with soft edges, pasting back, larger canvases.

Masks are PIL's "L": 255 is repainted, 0 kept. Distances are pixels, the larger of those along rows and columns.
"""

import re
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.workflows.canvas import MAX_PIXELS, pad_edges

Size = tuple[int, int]
"""Width and height."""

_CORNERS = re.compile(r"\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*")
_GEOMETRY = re.compile(r"\s*([0-9]{1,9})x([0-9]{1,9})\+([0-9]{1,9})\+([0-9]{1,9})\s*")


class _Corners(NamedTuple):
    left: int
    top: int
    right: int
    bottom: int


class Box(_Corners):
    """A rectangle of pixels: `left` and `top` are in it, `right` and `bottom` are not. Pillow takes it as it is."""

    __slots__ = ()

    def __new__(cls, left: int, top: int, right: int, bottom: int) -> Self:
        if not (0 <= left < right and 0 <= top < bottom):
            raise MaquetteError(
                f"{left},{top},{right},{bottom} is no box; left must be less than right, top less than bottom"
            )
        return super().__new__(cls, left, top, right, bottom)

    @classmethod
    def read(cls, text: str) -> Self:
        """From "left,top,right,bottom" or, as X11 writes it, "WIDTHxHEIGHT+LEFT+TOP"."""
        if corners := _CORNERS.fullmatch(text):
            left, top, right, bottom = map(int, corners.groups())
            return cls(left, top, right, bottom)
        if geometry := _GEOMETRY.fullmatch(text):
            width, height, left, top = map(int, geometry.groups())
            return cls(left, top, left + width, top + height)
        raise MaquetteError(f"{text!r:.60} is no box; write left,top,right,bottom or WIDTHxHEIGHT+LEFT+TOP")

    @classmethod
    def bounding(cls, mask: Image.Image) -> Self:
        """The smallest box around what a mask covers."""
        corners = mask.getbbox()
        if corners is None:
            raise MaquetteError("the mask is empty (all black); make white what is to be repainted")
        return cls(*corners)

    def __str__(self) -> str:
        return ",".join(map(str, self))

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def size(self) -> Size:
        return self.width, self.height

    def within(self, bounds: Size) -> Self:
        """The part of it that lies in a picture of this size; some must."""
        if self.left >= bounds[0] or self.top >= bounds[1]:
            raise MaquetteError(f"the box {self} lies outside of the picture, {_by(bounds)}")
        return type(self)(self.left, self.top, min(self.right, bounds[0]), min(self.bottom, bounds[1]))


def around(region: Box | Image.Image, padding: int, aspect: float | None, bounds: Size, least: int = 0) -> Box:
    """The crop to repaint a region in: `padding` on each side, of shape `aspect` (width / height), within `bounds`.

    It always holds the whole region, a box or what a mask covers, and the `least` pixels around it that the picture
    has. Where the picture is too small for all that, it is smaller, of the same shape; where even the region and those
    pixels do not fit into that shape, as near to it as can be.
    """
    inner = (Box.bounding(region) if isinstance(region, Image.Image) else region).within(bounds)
    width, height = inner.width + 2.0 * padding, inner.height + 2.0 * padding
    if aspect is not None:
        width, height = max(width, height * aspect), max(height, width / aspect)
        smaller = min(bounds[0] / width, bounds[1] / height, 1.0)
        width, height = width * smaller, height * smaller
    left, right = _centred(inner.left, inner.right, width, bounds[0], least)
    top, bottom = _centred(inner.top, inner.bottom, height, bounds[1], least)
    return Box(left, top, right, bottom)


def _centred(start: int, stop: int, length: float, limit: int, least: int) -> tuple[int, int]:
    """An interval of about this length that holds another one, in its middle unless the limits 0 and `limit` forbid.

    It also holds `least` more on both sides, as far as the limits allow.
    """
    low, high = max(start - least, 0), min(stop + least, limit)
    whole = min(max(round(length), high - low), limit)
    first = min(max((start + stop - whole) // 2, 0), limit - whole)
    first = min(max(first, high - whole), low)
    return first, first + whole


def grow(mask: Image.Image, pixels: int) -> Image.Image:
    """The mask spread by so many pixels; fewer than none shrink it, though not from the picture's own border."""
    if pixels < 0:
        return ImageChops.invert(grow(ImageChops.invert(mask), -pixels))
    return Image.fromarray(_spread(np.asarray(mask.convert("L")), pixels))


def feather(mask: Image.Image, pixels: int) -> Image.Image:
    """The mask with a soft edge around it: unchanged or more inside, exactly 0 from `pixels` + 1 away on."""
    soft = grow(mask, pixels - pixels // 2)
    for reach in ((pixels // 2 + 1) // 2, pixels // 4):  # two averages give a ramp without corners
        soft = soft.filter(ImageFilter.BoxBlur(reach))
    return soft


def soften(mask: Image.Image, pixels: int) -> Image.Image:
    """The mask with a soft edge within it: exactly 0 wherever it was 0, unchanged from `pixels` inside on.

    What is thinner than two edges has a thinner edge: no part of a mask is lost.
    """
    values = np.asarray(mask.convert("L"))
    outside = Image.fromarray(np.where(values > 0, 0, 255).astype(np.uint8))
    depth = np.maximum(255 - np.asarray(feather(outside, pixels)), values > 0)
    deepest = np.maximum(_spread(depth, pixels), 1).astype(np.float32)
    return Image.fromarray(np.rint(values * (depth / deepest)).astype(np.uint8))


def _spread(values: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """The maximum over the square of side 2 `pixels` + 1 around each; the windows double, so large ones are cheap."""
    for _ in range(2):
        side = 2 * min(pixels, len(values)) + 1
        values = np.pad(values, ((side // 2, side // 2), (0, 0)))
        window = 1
        while window < side:
            step = min(window, side - window)
            values = np.maximum(values[:-step], values[step:])
            window += step
        values = values.T
    return values


def latent_mask(mask: Image.Image, factor: int) -> Tensor:
    """The mask for latents, (1, 1, h, w): the whitest of each place's `factor` x `factor` pixels, from 0 to 1."""
    if mask.width % factor or mask.height % factor:
        raise MaquetteError(
            f"the mask is {_by(mask.size)}, no multiple of {factor}; fit it to the painting's size first"
        )
    cells = np.asarray(mask.convert("L")).reshape(mask.height // factor, factor, mask.width // factor, factor)
    return torch.from_numpy(cells.max((1, 3)).astype(np.float32) / 255)[None, None]


def paste(original: Image.Image, patch: Image.Image, box: Box, mask: Image.Image) -> Image.Image:
    """The original with the patch laid into `box` as far as the mask says; where it is 0 every pixel stays as it was.

    The patch is resized to the box, which lies in the original; the mask has the original's size.
    """
    if mask.size != original.size:
        raise MaquetteError(f"the mask is {_by(mask.size)} and its picture {_by(original.size)}; they must be one size")
    if box.within(original.size) != box:
        raise MaquetteError(f"the box {box} reaches out of the picture, {_by(original.size)}; give a box within it")
    result = original.convert("RGB")
    fitting = patch.convert("RGB").resize(box.size, Image.Resampling.LANCZOS)
    result.paste(fitting, box, mask.convert("L").crop(box))
    return result


def extended_size(size: Size, sides: tuple[int, int, int, int]) -> Size:
    """Of a picture with so many pixels more on the left, at the top, on the right and below."""
    left, top, right, bottom = sides
    return left + size[0] + right, top + size[1] + bottom


def extend(
    image: Image.Image, left: int, top: int, right: int, bottom: int, multiple: int = 1, overlap: int = 8
) -> tuple[Image.Image, Image.Image]:
    """A larger canvas around a picture, which stays as it is at (`left`, `top`), and the mask of what is to be painted.

    What is new is filled with the picture's edges, blurred; the mask reaches `overlap` pixels into the picture, at most
    a quarter of it. Right and bottom grow further until both sides are multiples of `multiple`.
    """
    right += -(left + image.width + right) % multiple
    bottom += -(top + image.height + bottom) % multiple
    sides = left, top, right, bottom
    size = extended_size(image.size, sides)
    if min(sides) < 0 or max(sides) == 0:
        raise MaquetteError(f"a picture cannot be extended by {left},{top},{right},{bottom}; give pixels for some side")
    if size[0] * size[1] > MAX_PIXELS:
        raise MaquetteError(
            f"the extended picture, {_by(size)}, has more than {MAX_PIXELS:,} pixels; extend it by less"
        )
    canvas = pad_edges(image, *sides).filter(ImageFilter.GaussianBlur(max(sides) / 8))
    canvas.paste(image, (left, top))
    across, down = min(overlap, image.width // 4), min(overlap, image.height // 4)
    kept = Box(
        left + across * (left > 0),
        top + down * (top > 0),
        left + image.width - across * (right > 0),
        top + image.height - down * (bottom > 0),
    )
    mask = Image.new("L", size, 255)
    mask.paste(0, kept)
    return canvas, mask


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
