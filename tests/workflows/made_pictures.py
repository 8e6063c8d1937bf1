"""Small pictures of every kind, for the tests of what reads them."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from maquette.errors import MaquetteError
from maquette.workflows.canvas import read_image

WHITE, BLACK, RED, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)


def noisy(width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    levels = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    return Image.frombytes(mode, (width, height), levels.tobytes())


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB" and image.info == {}
    return np.asarray(image)


def same(left: Image.Image, right: Image.Image) -> bool:
    return left.mode == right.mode and left.size == right.size and left.tobytes() == right.tobytes()


def complaint(source, read=read_image) -> str:
    with pytest.raises(MaquetteError) as caught:
        read(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_clear(image: Image.Image, clear: object) -> bytes:
    return encoded(image, transparency=clear)


def palette() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    return image


def deep(*levels: int) -> Image.Image:
    return Image.fromarray(np.array([levels], np.uint16))


def row(mode: str, *values) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    for k, value in enumerate(values):
        image.putpixel((k, 0), value)
    return image


def grey(level: int) -> tuple[int, int, int]:
    return level, level, level


def png(width: int, height: int, bits: int = 8, colour: int = 2, body: bytes = b"") -> bytes:
    """A PNG that says it is so large, whatever its body holds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
