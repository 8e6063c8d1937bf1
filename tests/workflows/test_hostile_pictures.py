"""Pictures that are too large, too small, damaged or none at all: read right, or refused in a line with their name."""

import os
import random
import struct
from pathlib import Path

import pytest
from made_pictures import WHITE, complaint, encoded, noisy, png, row, same
from PIL import Image

from maquette.errors import MaquetteError
from maquette.workflows.canvas import FORMATS, MAX_PIXELS, fit, from_text, read_image


@pytest.mark.parametrize("side", [8193, 9600, 13000, 20000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_size(side: int, tmp_path: Path) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(png(side, side))
    message = complaint(file)
    assert str(file) in message and ("limit" in message or side == 2**31 - 1)
    assert MAX_PIXELS < 8193**2


def test_a_gif_whose_frame_is_larger_than_its_screen_is_refused() -> None:
    data = bytearray(encoded(Image.new("P", (4, 4)), "GIF"))
    frame = data.index(b",")
    data[frame + 5 : frame + 9] = struct.pack("<HH", 60000, 60000)
    assert "60000" in complaint(bytes(data)) or "exceeds limit" in complaint(bytes(data))


def test_forty_megapixels_are_read() -> None:
    image = read_image(png(8000, 5000, bits=1, colour=0, body=(b"\0" + b"\xff" * 1000) * 5000))
    assert (image.size, image.getpixel((7999, 4999))) == ((8000, 5000), WHITE)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_thin_pictures_are_read_and_fitted(size: tuple[int, int]) -> None:
    image = read_image(encoded(noisy(*size)))
    assert same(image, noisy(*size))
    for how in ("crop", "pad", "stretch"):
        assert fit(image, 64, 40, how).size == (64, 40)


def test_a_picture_without_pixels_is_refused() -> None:
    assert "0x5" in complaint(Image.new("RGB", (0, 5)))
    assert "-1" in complaint(row("F", -1.0, 0.5))
    assert "65536" in complaint(row("I", 0, 65536))
    assert "nan" in complaint(row("F", float("nan")))


SAMPLES = {
    "PNG": encoded(noisy(64, 48)),
    "JPEG": encoded(noisy(64, 48), "JPEG"),
    "WEBP": encoded(noisy(64, 48), "WEBP"),
    "GIF": encoded(noisy(64, 48).quantize(), "GIF"),
    "TIFF": encoded(noisy(64, 48), "TIFF", compression="raw"),
    "TIFF lzw": encoded(noisy(64, 48), "TIFF", compression="tiff_lzw"),
    "BMP": encoded(noisy(64, 48), "BMP"),
    "PPM": encoded(noisy(64, 48), "PPM"),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_truncated_file_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    data, file = SAMPLES[kind], tmp_path / "cut.img"
    whole, refused = read_image(data), 0
    for length in [*range(0, len(data), len(data) // 16), len(data) - 1]:
        file.write_bytes(data[:length])
        try:
            assert same(read_image(file), whole), "other pixels than the file held"
        except MaquetteError as error:
            refused += 1
            assert str(file) in str(error) and "\n" not in str(error)
    assert refused >= 16  # only the last byte may be no loss


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_damaged_file_is_read_or_refused(kind: str) -> None:
    chance = random.Random(kind)
    for _ in range(60):
        data = bytearray(SAMPLES[kind])
        for _ in range(chance.choice((1, 4, 16))):
            data[chance.randrange(chance.choice((64, len(data))))] = chance.randrange(256)
        try:
            assert read_image(bytes(data)).mode == "RGB"
        except MaquetteError as error:
            assert "\n" not in str(error)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    text, empty, pipe, post = (tmp_path / name for name in ("notes.png", "empty.png", "pipe.png", "post.eps"))
    text.write_text("a red apple\n" * 20)
    empty.touch()
    os.mkfifo(pipe)
    post.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for file in (text, empty, post):
        assert complaint(file) == f"cannot read {file} as a picture; give a {', '.join(FORMATS)} file"
    for missing in (tmp_path, pipe, tmp_path / "none.png", tmp_path / ("x" * 300)):
        assert complaint(missing) == f"there is no file {missing!s:.300}; check the name"
    assert complaint("a\0b.png") == "there is no file 'a\\x00b.png'; check the name"
    assert complaint("a\nb.png") == "there is no file 'a\\nb.png'; check the name"
    assert "the picture that was given" in complaint(b"")
    assert "the picture given as text" in complaint("A" * 80)
    for text in ("data:image/png,abc", "data:image/png;base64,a*b", "data:"):
        assert text in complaint(text)
    for text in ("../x.png", "not base64!"):
        assert text in complaint(text, from_text)


def test_long_texts_that_are_no_base64_are_told_at_once() -> None:
    assert "there is no file" in complaint("A" * 100_000 + " " * 100_000 + ".")
