"""Reading pictures as people have them: every kind of pixel, every damage, and what a mask may look like."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from made_pictures import (
    BLACK,
    BLUE,
    RED,
    WHITE,
    complaint,
    deep,
    encoded,
    grey,
    noisy,
    palette,
    pixels,
    png,
    row,
    same,
    with_clear,
)
from PIL import Image, ImageOps

from maquette.engine.image import to_images
from maquette.errors import MaquetteError
from maquette.workflows.canvas import (
    bring,
    fit,
    from_text,
    hash_image,
    mask_to_tensor,
    open_image,
    read_depth,
    read_image,
    read_mask,
    to_channel,
    to_pixels,
)


def test_a_picture_may_be_given_in_any_way(tmp_path: Path) -> None:
    image, file = noisy(), tmp_path / "图 片"
    data = encoded(image)
    file.write_bytes(data)
    text = base64.b64encode(data).decode()
    wrapped = "\n".join(text[k : k + 76] for k in range(0, len(text), 76))
    urlsafe = base64.urlsafe_b64encode(data).decode().rstrip("=")
    for source in (file, str(file), data, image, text, wrapped, urlsafe, f"data:image/png;base64,{text}"):
        assert same(read_image(source), image)
    assert from_text(text) == data


def test_a_file_whose_name_looks_like_base64_is_a_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("A" * 44).write_bytes(encoded(noisy()))
    assert same(read_image("A" * 44), noisy())


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "PPM"])
def test_formats_without_loss_give_the_pixels(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert same(read_image(encoded(noisy(), kind, **options)), noisy())


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "GIF"])
def test_formats_with_loss_give_the_colours(kind: str) -> None:
    image = Image.new("RGB", (32, 32), (200, 40, 90))
    if kind not in Image.registered_extensions().values():
        pytest.skip(f"this Pillow does not write {kind}")
    assert np.abs(pixels(read_image(encoded(image, kind))).astype(int) - (200, 40, 90)).max() <= 6


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(row("1", 0, 255), [BLACK, WHITE], id="one bit"),
        pytest.param(row("L", 7, 200), [grey(7), grey(200)], id="grey"),
        pytest.param(palette(), [RED, BLUE], id="palette"),
        pytest.param(with_clear(palette(), 1), [RED, WHITE], id="palette, one colour clear"),
        pytest.param(with_clear(palette(), bytes([255, 128])), [RED, (127, 127, 255)], id="palette, half clear"),
        pytest.param(with_clear(row("L", 0, 9), 0), [WHITE, grey(9)], id="grey, black clear"),
        pytest.param(with_clear(row("RGB", RED, BLUE), RED), [WHITE, BLUE], id="rgb, red clear"),
        pytest.param(row("LA", (10, 255), (10, 0)), [grey(10), WHITE], id="grey with alpha"),
        pytest.param(row("RGBA", (*RED, 255), (*RED, 51)), [RED, (255, 204, 204)], id="rgb with alpha"),
        pytest.param(row("RGBa", (255, 0, 0, 255), (51, 0, 0, 51)), [RED, (255, 204, 204)], id="premultiplied"),
        pytest.param(row("La", (10, 255), (0, 0)), [grey(10), WHITE], id="premultiplied grey"),
        pytest.param(row("CMYK", (0, 255, 255, 0), (0, 0, 0, 255)), [RED, BLACK], id="cmyk"),
        pytest.param(row("HSV", (0, 255, 255), (0, 0, 255)), [RED, WHITE], id="hsv"),
        pytest.param(deep(0, 128, 129, 32896, 65535), [grey(v) for v in (0, 0, 1, 128, 255)], id="16 bits"),
        pytest.param(encoded(deep(0, 257, 65535)), [grey(v) for v in (0, 1, 255)], id="16 bits in a png"),
        pytest.param(with_clear(deep(0, 257 * 9), 0), [WHITE, grey(9)], id="16 bits, black clear"),
        pytest.param(encoded(deep(0, 257 * 9), "TIFF"), [BLACK, grey(9)], id="16 bits in a tiff"),
        pytest.param(b"P5 2 1 65535\n\x01\x01\xff\xff", [grey(1), WHITE], id="16 bits in a pgm"),
        pytest.param(row("I", 0, 65535), [BLACK, WHITE], id="32 bits that use 16"),
        pytest.param(row("F", 0.0, 0.2, 1.0), [BLACK, grey(51), WHITE], id="floating point"),
        pytest.param(encoded(row("F", 0.0, 0.2, 1.0), "TIFF"), [BLACK, grey(51), WHITE], id="floating point in a tiff"),
        pytest.param(encoded(row("CMYK", (0, 255, 255, 0)), "TIFF"), [RED], id="cmyk in a tiff"),
    ],
)
def test_every_kind_of_pixel_becomes_the_right_colour(source, expected) -> None:
    assert pixels(read_image(source))[0].tolist() == [list(colour) for colour in expected]


@pytest.mark.parametrize("sixteen", [b"\0\0\xff\xff\x80\x80", b"\xff\xff\0\0\x01\x01"])
def test_png_of_16_bit_colours(sixteen: bytes) -> None:
    data = png(1, 1, bits=16, colour=2, body=b"\0" + sixteen)
    assert pixels(read_image(data))[0, 0].tolist() == [sixteen[0], sixteen[2], sixteen[4]]


def test_a_cmyk_jpeg_of_a_printer_is_not_inverted() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(pixels(read_image(encoded(image, "JPEG"))).astype(int) - RED).max() <= 6


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(BytesIO(data)).n_frames == 2
    assert same(read_image(data), frames[0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation: int, kind: str) -> None:
    stored = Image.new("RGB", (32, 16), BLUE)
    stored.paste(RED, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    assert np.array_equal(pixels(read_image(data)), np.asarray(upright))
    assert upright.size == ((32, 16) if orientation < 5 else (16, 32))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_opened_once_is_read_as_its_file_is(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(noisy(), kind, exif=exif)
    opened = open_image(data)
    assert opened.size == (16, 24)
    assert same(read_image(opened), read_image(data))
    assert same(read_mask(opened, (16, 24)), read_mask(data, (16, 24)))


def test_an_opened_picture_keeps_what_a_mask_or_a_map_of_depth_needs() -> None:
    clear = with_clear(palette(), 1)
    assert read_mask(open_image(clear), (2, 1)).tobytes() == read_mask(clear, (2, 1)).tobytes() == b"\0\xff"
    assert same(read_depth(open_image(deep(3, 40_000))), row("F", 3.0, 40_000.0))
    given = noisy()
    open_image(given).paste(0, (0, 0, 24, 16))
    assert same(given, noisy())


def test_masks_are_turned_upright_too() -> None:
    stored, exif = Image.new("L", (32, 16)), Image.Exif()
    stored.paste(255, (0, 0, 32, 4))
    exif[0x0112] = 6  # the first row is the right side
    assert read_mask(encoded(stored, exif=exif), (16, 32)).getbbox() == (12, 0, 16, 32)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF|Truncated")
def test_a_damaged_exif_block_does_not_cost_the_picture() -> None:
    data = encoded(noisy(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    assert same(read_image(data), noisy())


def test_what_a_file_says_beside_its_pixels_is_not_passed_on() -> None:
    data = encoded(row("RGB", RED, BLUE), icc_profile=b"not a profile", transparency=RED)
    saved = Image.open(BytesIO(encoded(read_image(data))))
    assert "icc_profile" not in saved.info and "transparency" not in saved.info


def test_the_picture_given_stays_as_it_is() -> None:
    given = noisy()
    given.info["note"] = "kept"
    read_image(given).paste(0, (0, 0, 24, 16))
    assert same(given, noisy()) and given.info == {"note": "kept"}


# masks


def test_a_mask_is_its_luminance() -> None:
    size = (24, 16)
    assert same(read_mask(encoded(noisy(mode="L")), size), noisy(mode="L"))
    assert same(read_mask(noisy(), size), noisy().convert("L"))
    assert read_mask(row("1", 0, 255), (2, 1)).tobytes() == b"\0\xff"
    assert read_mask(deep(0, 257 * 7), (2, 1)).tobytes() == b"\0\x07"
    assert read_mask(row("RGBA", (*BLACK, 255), (*WHITE, 255)), (2, 1)).tobytes() == b"\0\xff"


def test_what_is_transparent_in_a_mask_is_repainted() -> None:
    assert read_mask(row("RGBA", (*WHITE, 255), (*BLACK, 0), (*RED, 55)), (3, 1)).tobytes() == b"\0\xff\xc8"
    assert read_mask(row("LA", (255, 255), (255, 0)), (2, 1)).tobytes() == b"\0\xff"
    assert read_mask(with_clear(palette(), 1), (2, 1)).tobytes() == b"\0\xff"


def test_a_mask_of_another_scale_is_resized() -> None:
    mask = Image.new("L", (12, 8))
    mask.paste(255, (3, 2, 6, 7))
    doubled = np.asarray(mask).repeat(2, 0).repeat(2, 1)
    assert np.array_equal(np.asarray(read_mask(mask, (24, 16))), doubled)
    assert same(read_mask(Image.fromarray(doubled), (12, 8)), mask)
    assert read_mask(Image.new("1", (512, 384), 1), (1023, 767)).size == (1023, 767)  # halves, rounded


@pytest.mark.parametrize("size", [(24, 20), (16, 24), (26, 16)])
def test_a_mask_of_another_shape_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    noisy(240, 160, "L").save(file)
    message = complaint(file, lambda source: read_mask(source, size))
    assert str(file) in message and "240x160" in message and f"{size[0]}x{size[1]}" in message


@pytest.mark.parametrize(
    "mask", [Image.new("1", (4, 4)), Image.new("L", (4, 4)), Image.new("RGBA", (4, 4), (0, 0, 0, 255))]
)
def test_an_empty_mask_is_refused(mask: Image.Image) -> None:
    assert "empty (all black)" in complaint(mask, lambda source: read_mask(source, (8, 8)))


def test_depth_keeps_all_its_bits() -> None:
    assert to_channel(read_depth(deep(3, 40_000))).tolist() == [[[[3.0, 40_000.0]]]]
    assert to_channel(read_depth(row("F", -2.5, 1e6))).tolist() == [[[[-2.5, 1e6]]]]
    assert to_channel(read_depth(row("RGB", WHITE, BLACK))).tolist() == [[[[255.0, 0.0]]]]
    assert "not finite" in complaint(row("F", float("inf")), read_depth)


# tensors and sizes


def test_pixels_and_pictures_are_inverse() -> None:
    every = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    images = [every, noisy(16, 16)]
    there = to_pixels(images)
    assert there.shape == (2, 3, 16, 16) and there.min() == -1 and there.max() == 1
    assert all(same(*pair) for pair in zip(to_images(there), images, strict=True))
    assert torch.equal(to_pixels(to_images(there)), there)


def test_pictures_of_two_sizes_make_no_batch() -> None:
    with pytest.raises(MaquetteError, match=r"2 sizes \[\(2, 1\), \(24, 16\)\]"):
        to_pixels([noisy(), palette()])


def test_a_mask_becomes_shares() -> None:
    assert mask_to_tensor(row("L", 0, 51, 255)).tolist() == [[[[0.0, pytest.approx(0.2), 1.0]]]]


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_of_the_size_is_not_changed(how, mode: str) -> None:
    assert same(fit(noisy(mode=mode), 24, 16, how), noisy(mode=mode))


def test_fitting_crops_pads_or_stretches() -> None:
    image = Image.new("RGB", (40, 20), BLUE)
    image.paste(RED, (0, 0, 10, 20))  # the left quarter
    crop, pad, stretch = (fit(image, 20, 20, how) for how in ("crop", "pad", "stretch"))
    assert same(crop, image.crop((10, 0, 30, 20)))
    assert same(stretch, image.resize((20, 20), Image.Resampling.LANCZOS))
    assert same(pad.crop((0, 5, 20, 15)), image.resize((20, 10), Image.Resampling.LANCZOS))
    assert all(same(pad.crop((0, y, 20, y + 1)), pad.crop((0, 5, 20, 6))) for y in range(5))
    assert all(same(pad.crop((0, y, 20, y + 1)), pad.crop((0, 14, 20, 15))) for y in range(15, 20))
    with pytest.raises(MaquetteError, match="'squeeze' is no way to fit a picture; known are crop, pad, stretch"):
        fit(image, 8, 8, "squeeze")  # type: ignore[arg-type]


def line(mode: str, size: tuple[int, int], first: int, last: int) -> Image.Image:
    """White in these columns, black elsewhere."""
    image = Image.new("L", size)
    image.paste(255, (first, 0, last + 1, size[1]))
    return image.convert(mode)


def white_columns(image: Image.Image) -> list[int]:
    levels = np.asarray(image.convert("L"), float)
    assert (levels == levels[:1]).all()
    return np.flatnonzero(levels[0] > 127).tolist()


@pytest.mark.parametrize("mode", ["RGB", "L", "F"])
def test_what_lies_over_a_picture_is_brought_along_with_it(mode: str) -> None:
    padded = bring(line(mode, (121, 121), 110, 113), (121, 121), (128, 128), padded=True)
    assert padded.size == (128, 128) and white_columns(padded) == [110, 111, 112, 113]
    twice = bring(line(mode, (242, 242), 220, 227), (121, 121), (128, 128), padded=True)
    assert white_columns(twice) == [110, 111, 112, 113]
    whole, painted = (128, 64), (64, 64)
    for size in (whole, (256, 128), (256, 192)):  # the last shows all of it in another shape
        first = 44 * size[0] // 128
        cropped = bring(line(mode, size, first, first + size[0] // 32 - 1), whole, painted)
        assert cropped.size == painted and white_columns(cropped) == [12, 13, 14, 15], size
    made_for_it = line(mode, (96, 64), 10, 12)
    assert same(bring(made_for_it, whole, (96, 64)), made_for_it)


def test_masks_stay_hard_when_they_are_fitted() -> None:
    mask = Image.new("L", (10, 10))
    mask.paste(255, (2, 2, 7, 5))
    assert set(fit(mask, 40, 40, "stretch").tobytes()) == {0, 255}


def test_the_hash_tells_pixels_and_shape() -> None:
    image, other = noisy(), noisy()
    other.putpixel((3, 3), (1, 2, 3))
    turned = Image.frombytes("RGB", (16, 24), image.tobytes())
    assert hash_image(image) == hash_image(read_image(encoded(image)))
    assert len({hash_image(each) for each in (image, other, turned)}) == 3
