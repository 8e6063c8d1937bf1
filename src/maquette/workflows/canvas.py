"""Pictures and masks that people give: any common format, upright, as 8-bit RGB or one channel.

What is transparent is laid on white paper. Sixteen bits are scaled to eight, not cut off. Of an animation the first
frame is read. Colour profiles are not applied. A picture is measured before its pixels are unpacked.
"""

import base64
import binascii
import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError
from torch import Tensor

from maquette.errors import MaquetteError

Source = str | Path | bytes | Image.Image
"""A file's name, its bytes, a picture of PIL, or text: a data URI or base64."""

Fit = Literal["crop", "pad", "stretch"]

MAX_PIXELS = 2**26  # 67 megapixels, 200 MB as RGB
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM")
"""Only these readers of Pillow meet a stranger's file; AVIF where Pillow was built with it."""

_RESAMPLING = {"L": Image.Resampling.BOX, "F": Image.Resampling.BILINEAR}  # Lanczos would ring in a mask, or in depth
_OPENING = Lock()  # filters of warnings belong to the whole process
_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]{40,}+[=\s]*+")
_ORIENTATION = 0x0112  # the tag of EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source: Source) -> Image.Image:
    """A picture as RGB, upright, on white where it is transparent.

    Raises:
        MaquetteError: it is missing, damaged, no picture, or larger than `MAX_PIXELS`.
    """
    with _opened(source) as image:
        colours, alpha = _separate(image)
        if alpha is not None:
            colours = Image.composite(colours, Image.new("RGB", image.size, "white"), alpha)
    colours.info = {}  # Pillow would write a profile or a transparent colour from here into the files saved later
    return colours


def open_image(source: Source) -> Image.Image:
    """A picture as its file has it, with all its channels and bits, unpacked and upright; what the others here read.

    Raises:
        MaquetteError: it is missing, damaged, no picture, or larger than `MAX_PIXELS`.
    """
    with _opened(source) as image:
        kept = image.copy()
    kept.info = {key: value for key, value in image.info.items() if key == "transparency"}  # EXIF would turn it again
    return kept


def read_mask(source: Source, size: tuple[int, int]) -> Image.Image:
    """A mask ("L") of a picture of `size` (width, height): white is repainted, black kept, grey mixed.

    A mask that is transparent somewhere is read as editors write it: what is transparent is repainted. One of another
    size but the same shape is resized.

    Raises:
        MaquetteError: it cannot be read, has another shape than the picture, or is black everywhere.
    """
    with _opened(source) as image:
        colours, alpha = _separate(image)
    is_opaque = alpha is None or alpha.getextrema() == (255, 255)
    mask = colours.convert("L") if alpha is None or is_opaque else ImageChops.invert(alpha)
    mask.info = {}
    if not same_shape(mask.size, size):
        sizes = f"{mask.width}x{mask.height} and its picture {size[0]}x{size[1]}"
        raise MaquetteError(f"{_mask(source)} is {sizes}: their shapes differ; crop one of them")
    mask = mask.resize(size, Image.Resampling.BOX)
    if mask.getbbox() is None:
        raise MaquetteError(f"{_mask(source)} is empty (all black); make white what is to be repainted")
    return mask


def _mask(source: Source) -> str:
    is_file = isinstance(source, Path) or (isinstance(source, str) and not _is_text(source))
    return f"the mask {_name(source)}" if is_file else "the mask"


def read_depth(source: Source) -> Image.Image:
    """A map of depth ("F"), in the file's own unit and all its bits.

    Raises:
        MaquetteError: it cannot be read, or holds numbers that are not finite.
    """
    with _opened(source) as image:
        grey = image if _is_deep(image) else _separate(image)[0].convert("L")
        depth = Image.fromarray(np.asarray(grey, np.float32))
        if not np.isfinite(np.asarray(depth)).all():
            raise ValueError("it holds numbers that are not finite")
    return depth


def from_text(text: str) -> bytes:
    """The bytes of a picture in a data URI or in base64; never opens a file.

    Raises:
        MaquetteError: it is neither.
    """
    head, _, body = text.partition(",") if text.startswith("data:") else ("", "", text)
    letters = "".join(body.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        if head and not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise MaquetteError(f"the text {text!r:.60} holds no picture; give a data URI in base64") from None


def to_pixels(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as pixels (B, 3, H, W) in [-1, 1]; the inverse of `engine.image.to_images`."""
    sizes = sorted({image.size for image in images})
    if len(sizes) != 1:
        raise MaquetteError(f"pictures of {len(sizes)} sizes {sizes} make no batch; give some of one size")
    levels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    return levels.permute(0, 3, 1, 2).float() / 127.5 - 1


def mask_to_tensor(mask: Image.Image) -> Tensor:
    """A mask as (1, 1, H, W) in [0, 1]."""
    return to_channel(mask.convert("L")) / 255


def to_channel(image: Image.Image) -> Tensor:
    """A picture of one channel, such as a map of depth, as (1, 1, H, W) in float32, its levels as they are."""
    return torch.from_numpy(np.array(image, np.float32))[None, None]


def fit(image: Image.Image, width: int, height: int, how: Fit = "crop") -> Image.Image:
    """A picture, a mask or a map of depth ("F") at another size; one that has it already is not changed.

    "crop" keeps the middle, "pad" keeps all and repeats the edges around it, "stretch" keeps all and bends the shape.
    """
    kind = _RESAMPLING.get(image.mode, Image.Resampling.LANCZOS)
    if how == "stretch":
        return image.resize((width, height), kind)
    if how == "crop":
        return ImageOps.fit(image, (width, height), kind)
    if how != "pad":
        raise MaquetteError(f"{how!r} is no way to fit a picture; known are {', '.join(get_args(Fit))}")
    scale = min(width / image.width, height / image.height)
    inner = [min(max(round(side * scale), 1), limit) for side, limit in zip(image.size, (width, height), strict=True)]
    across, down = width - inner[0], height - inner[1]
    resized = image.resize((inner[0], inner[1]), kind)
    return pad_edges(resized, across // 2, down // 2, across - across // 2, down - down // 2)


def bring(image: Image.Image, size: tuple[int, int], painted: tuple[int, int], *, padded: bool = False) -> Image.Image:
    """A picture of `size`, or what lies over all of it (a mask, its depth), at the size that is painted.

    A picture is cropped to its middle and scaled, or `padded`: its edges are repeated on the right and below. What has
    the shape of what is painted, and not the picture's, was made for that.
    """
    of_picture = same_shape(image.size, size)
    if not of_picture and same_shape(image.size, painted):
        return fit(image, *painted, "stretch")
    if padded or not of_picture:
        image = fit(image, *size, "stretch")
    return pad_edges(image, 0, 0, painted[0] - size[0], painted[1] - size[1]) if padded else fit(image, *painted)


def pad_edges(image: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    """A picture with its outermost pixels repeated so many times on each side."""
    pixels = np.asarray(image)
    sides = ((top, bottom), (left, right), (0, 0))[: pixels.ndim]
    return Image.fromarray(np.pad(pixels, sides, mode="edge"))


def same_shape(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether one is the other at another scale, up to the rounding of both sides."""
    (width, height), (other_width, other_height) = first, second
    rounding = max(width + height, other_width + other_height) / 2
    return first == second or abs(width * other_height - height * other_width) <= rounding


def hash_image(image: Image.Image, *, whole: bool = True) -> str:
    """SHA-256 of a picture's size and its pixels: all that they hold, or, as it once was, their RGB bytes alone."""
    if whole and not (image.mode in ("1", "L", "RGB") or (image.mode == "P" and "transparency" not in image.info)):
        told = image.convert("RGBA") if image.mode == "P" else image
        return hashlib.sha256(f"{told.mode} {image.width}x{image.height}:".encode() + told.tobytes()).hexdigest()
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.convert("RGB").tobytes()).hexdigest()


@contextmanager
def _opened(source: Source) -> Iterator[Image.Image]:
    """The picture, unpacked and upright; whatever goes wrong with it is said in a MaquetteError with its name."""
    try:
        with _open(source) as image:
            if not 0 < image.width * image.height <= MAX_PIXELS:
                limit = f"the limit is 1 to {MAX_PIXELS:,} pixels"
                raise ValueError(f"{image.width}x{image.height} is no size that can be worked with, {limit}")
            image.load()
            yield _upright(image)
    except MaquetteError:
        raise
    except UnidentifiedImageError:
        raise MaquetteError(f"cannot read {_name(source)} as a picture; give a {', '.join(FORMATS)} file") from None
    except Exception as error:  # Pillow raises errors of every kind where a file is damaged
        reason = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
        raise MaquetteError(f"cannot read {_name(source)}: {reason:.200}; give another file") from None


def _open(source: Source) -> AbstractContextManager[Image.Image]:
    """Open a picture up to its size."""
    if isinstance(source, Image.Image):
        return nullcontext(source)
    if isinstance(source, str) and _is_text(source):
        source = from_text(source)
    if not isinstance(source, bytes) and not _is_file(Path(source)):
        raise MaquetteError(f"there is no file {_name(source)}; check the name")
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower, and an error
        return Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=known)


def _is_text(source: str) -> bool:
    """Whether it is a picture as text, not a name: base64 has no full stop."""
    encoded = _BASE64.fullmatch(source) is not None and not _is_file(Path(source))
    return encoded or source.startswith("data:")


def _is_file(path: Path) -> bool:
    """Whether it is a regular file: a pipe would be waited for, a device read without end."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds NUL
        return False


def _name(source: Source) -> str:
    if isinstance(source, bytes | Image.Image):
        return "the picture that was given"
    if isinstance(source, str) and _is_text(source):
        return "the picture given as text"
    return f"{source!s:.300}" if str(source).isprintable() else f"{str(source)!r:.300}"


def _upright(image: Image.Image) -> Image.Image:
    orientation = None
    with suppress(Exception):  # a damaged EXIF block costs the rotation, not the picture
        orientation = image.getexif().get(_ORIENTATION)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _separate(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Its colours (RGB), and how opaque it is (L) if the file says so."""
    if _is_deep(image):
        clear = image.info.get("transparency")  # the one level that is transparent, in a PNG
        alpha = (
            Image.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8))
            if clear is not None
            else None
        )
        return Image.fromarray(_eight_bits(image)).convert("RGB"), alpha
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB"), None
    image = image.convert("RGBA")
    return image.convert("RGB"), image.getchannel("A")


def _is_deep(image: Image.Image) -> bool:
    """Whether it has one channel of more than eight bits."""
    return image.mode[0] in "IF"


def _eight_bits(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Levels of 0 to 65535 (for floating point 0 to 1) as the nearest of 0 to 255."""
    values = np.asarray(image)
    largest = 1.0 if image.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= largest):
        raise ValueError(f"its levels run from {values.min():g} to {values.max():g}, not from 0 to {largest:g}")
    return np.rint(values.astype(np.float32) * np.float32(255 / largest)).astype(np.uint8)
