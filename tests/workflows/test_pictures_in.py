"""Workflows that begin with a picture: what stays, what is new, and what is said of bad input."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from maquette.cli import main as command
from maquette.diffusion.samplers import SAMPLERS
from maquette.errors import MaquetteError
from maquette.workflows import loop
from maquette.workflows.paint import count_steps, paint, passes
from maquette.workflows.picture import read_request
from maquette.workflows.request import Request

SIZE = (64, 48)


def painted(model, **fields) -> loop.Result:
    return loop.run(paint(model, Request.read({"prompt": "a red apple", "seed": 7, **fields})))


def scene(seed: int = 1, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


def drawn(shape: str, size: tuple[int, int] = SIZE) -> Image.Image:
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    match shape:
        case "box":
            pen.rectangle((11, 7, 40, 30), fill=255)
        case "disc":
            pen.ellipse((5, 5, 39, 44), fill=255)
        case "line":
            pen.line((0, 0, 63, 47), fill=255, width=1)
        case "pixel":
            mask.putpixel((63, 47), 255)
        case "noise":
            mask = Image.fromarray(np.random.default_rng(3).integers(0, 2, size[::-1], np.uint8) * 255)
        case "soft":
            mask = Image.linear_gradient("L").resize(size).point(lambda level: max(level - 100, 0))
    return mask


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("shape", ["box", "disc", "line", "pixel", "noise", "soft"])
def test_every_pixel_outside_of_the_mask_stays(model, sampler: str, shape: str) -> None:
    image, mask = scene(), drawn(shape)
    new = np.asarray(painted(model, image=image, mask=mask, sampler=sampler, steps=3).images[0])
    kept = np.asarray(mask) == 0
    assert np.array_equal(new[kept], np.asarray(image)[kept])
    assert not np.array_equal(new, image)


@pytest.mark.parametrize("size", [(61, 43), (64, 48), (200, 33)])
def test_any_size_is_repainted_as_it_is(model, size: tuple[int, int]) -> None:
    image, mask = scene(size=size), drawn("box", size)
    new = painted(model, image=image, mask=mask).images[0]
    assert new.size == size
    kept = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(new)[kept], np.asarray(image)[kept])


def test_strength_is_how_much_is_new(model) -> None:
    image = Image.new("RGB", SIZE, (200, 30, 90))
    errors = []
    for strength in (0.1, 0.5, 1.0):
        result = painted(model, image=image, strength=strength, steps=10)
        errors.append(np.abs(np.asarray(result.images[0], np.float32) - np.asarray(image, np.float32)).mean())
    assert errors[0] < errors[1] < errors[2]
    assert [count_steps(Request(image=image, strength=s).resolved(model.family.defaults)) for s in (0.1, 1.0)] == [1, 4]


def test_grey_in_a_mask_is_the_strength_of_what_it_covers(model) -> None:
    image, mask = Image.new("RGB", SIZE, (200, 30, 90)), Image.new("L", SIZE)
    whole, half = (8, 0, 16, SIZE[1]), (16, 0, 24, SIZE[1])
    mask.paste(255, whole)
    mask.paste(128, half)
    asked = {"image": image, "strength": 1.0, "steps": 8, "mask": mask, "mask_blur": 0}
    new = painted(model, **asked, mask_grey="strength").images[0]
    kept = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(new)[kept], np.asarray(image)[kept])
    for box, strength in ((whole, 1.0), (half, 0.5)):
        other = painted(model, image=image, strength=strength, steps=8).images[0]
        differences = np.asarray(new.crop(box), int) - np.asarray(other.crop(box), int)
        assert np.abs(differences).max() <= 1
    mixed = painted(model, **asked).images[0]
    assert np.array_equal(np.asarray(mixed.crop(whole)), np.asarray(new.crop(whole)))
    assert not np.array_equal(np.asarray(mixed.crop(half)), np.asarray(new.crop(half)))


def test_what_lies_beyond_is_painted_and_the_rest_stays(model) -> None:
    image = scene()
    new = painted(model, image=image, extend={"left": 10, "bottom": 20}).images[0]
    assert new.size == (SIZE[0] + 10, SIZE[1] + 20)
    assert np.array_equal(np.asarray(new)[: SIZE[1] - 12, 20:], np.asarray(image)[: SIZE[1] - 12, 10:])


def test_passes_follow_each_other(model) -> None:
    request = Request.read({"hires": {"scale": 2.0}, "detail": {"boxes": ("4,4,20,20",), "size": 64}})
    assert [work.__name__ for work in passes(request)] == ["txt2img", "hires", "detail"]
    result = loop.run(paint(model, request.model_copy(update={"seed": 1})))
    assert result.images[0].size == (64, 32)
    only = Request.read({"image": scene(), "detail": {"boxes": ((4, 4, 20, 20),)}})
    assert [work.__name__ for work in passes(only)] == ["detail"]


def test_variations_of_a_picture_share_its_seed(model) -> None:
    plain = painted(model)
    near, far = (painted(model, variation={"seed": 40, "amount": amount}) for amount in (0.2, 1.0))
    several = painted(model, variation={"seed": 39, "amount": 1.0}, count=2)
    assert several.latent_hashes[1] == far.latent_hashes[0] == painted(model, seed=40).latent_hashes[0]
    assert several.seeds == [7, 7]
    assert painted(model, variation={"seed": 40, "amount": 0.0}).latent_hashes == plain.latent_hashes
    differences = [
        np.abs(np.asarray(each.images[0], int) - np.asarray(plain.images[0], int)).mean() for each in (near, far)
    ]
    assert 0 < differences[0] < differences[1]


def test_a_picture_tells_which_picture_it_began_with(model, tmp_path: Path) -> None:
    source = tmp_path / "source.png"
    scene().save(source)
    (out,) = painted(model, image=str(source), strength=0.5, controls=()).save(tmp_path / "new.png")
    request = read_request(out)
    assert request.image is not None and request.image.path == str(source)
    assert loop.run(paint(model, request)).latent_hashes == painted(model, image=scene(), strength=0.5).latent_hashes
    scene(2).save(source)
    with pytest.raises(MaquetteError, match="another picture than the one that was used"):
        read_request(out)


def saved(image: Image.Image, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


GIVEN = {
    "grey": saved(scene().convert("L"), "PNG"),
    "alpha": saved(scene().convert("RGBA"), "PNG"),
    "CMYK": saved(scene().convert("CMYK"), "JPEG"),
    "16 bit": saved(Image.fromarray(np.random.default_rng(2).integers(0, 65536, SIZE[::-1]).astype(np.uint16)), "PNG"),
    "one pixel": saved(Image.new("RGB", (1, 1), "red"), "PNG"),
    "palette": saved(scene().convert("P"), "GIF"),
}


@pytest.mark.parametrize("name", GIVEN)
def test_any_picture_is_begun_with(model, name: str) -> None:
    result = painted(model, image=GIVEN[name], strength=0.5)
    assert result.images[0].size == ((32, 32) if name == "one pixel" else SIZE)


BAD = [
    (["img2img", "none.png"], "image there is no file none.png"),
    (["img2img", "text.png"], "cannot read text.png as a picture"),
    (["img2img", "image.png", "--strength", "0"], "strength must be more than 0, got 0"),
    (["img2img", "image.png", "--strength", "1.5"], "strength must be at most 1, got 1.5"),
    (["img2img", "large.png"], "too large to be painted; give the size"),
    (["inpaint", "image.png", "square.png"], "64x48"),
    (["inpaint", "image.png", "black.png"], "is empty (all black)"),
    (["outpaint", "image.png"], "extends nothing; give left, top, right or bottom"),
    (["detail", "image.png", "90,0,99,9"], "outside of the picture, 64x48"),
    (["detail", "image.png", "hands"], "hands"),
    (["detail", "image.png", "9,9,9,9"], "is no box"),
    (["txt2img", "x", "--hires", "big"], "--hires: 'big' is no number"),
    (["txt2img", "x", "--hires", "100"], "hires.scale must be at most 8, got 100.0"),
    (["txt2img", "x", "--vary", "5:2"], "variation.amount must be at most 1"),
    (["txt2img", "x", "--interval", "0.5-0.2"], "interval (0.5, 0.2) is empty"),
    (["txt2img", "x", "--region", "0,0,9,9"], "give BOX=WORDS"),
    (["txt2img", "x", "--tiles", "60"], "tiles.size must be a multiple of 8"),
    (["txt2img", "x", "--noise", "a1111"], "'a1111' does not exist; did you mean a1111"),
    (["txt2img", "x", "--tiles", "64", "--attention", "map.png"], "attention is not recorded in tiles"),
    (["txt2img", "x", "--attention", "map.jpg"], "give a name that ends in .png"),
    (["grid", "x", "--x", "steps=0"], "steps cannot be '0'"),
]


@pytest.mark.parametrize(("arguments", "complaint"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_leaves_no_file(
    arguments: list[str], complaint: str, model, monkeypatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("maquette.open", lambda name, **how: model, raising=False)
    scene().save("image.png")
    drawn("box", (50, 50)).save("square.png")
    Image.new("L", SIZE).save("black.png")
    Image.new("1", (8000, 5000)).save("large.png")
    Path("text.png").write_text("no picture")
    before = sorted(Path().rglob("*"))
    assert command.run(arguments) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
