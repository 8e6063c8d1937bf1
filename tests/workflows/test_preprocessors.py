"""What control networks read of a picture, against edges that are known and OpenCV's arithmetic written out."""

import numpy as np
import pytest
from PIL import Image

from maquette.errors import MaquetteError
from maquette.workflows.preprocessors import PREPROCESSORS, canny, preprocess
from maquette.workflows.request import Request


def picture(size: tuple[int, int] = (20, 16), colour: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    return Image.new("RGB", size, colour)


def white(image: Image.Image) -> set[tuple[int, int]]:
    """The places (x, y) that are white; all others must be black."""
    values = np.asarray(image)
    assert set(np.unique(values)) <= {0, 255}
    assert (values == values[..., :1]).all()
    rows, columns = np.nonzero(values[..., 0])
    return set(zip(columns.tolist(), rows.tolist(), strict=True))


def test_an_upright_edge_is_one_pixel_wide() -> None:
    image = picture()
    image.paste((255, 255, 255), (10, 0, 20, 16))
    assert white(canny(image)) == {(9, y) for y in range(16)}
    assert white(canny(image.transpose(Image.Transpose.TRANSPOSE))) == {(x, 9) for x in range(16)}


def test_an_edge_of_one_colour_alone_is_seen() -> None:
    """Grey, red and green weigh the same here: the colour that changes most decides."""
    image = picture(colour=(100, 0, 0))
    image.paste((100, 0, 200), (10, 0, 20, 16))
    assert white(canny(image)) == {(9, y) for y in range(16)}


def test_the_outline_of_a_square_is_closed() -> None:
    image = picture((24, 24))
    image.paste((255, 255, 255), (6, 6, 18, 18))
    places = white(canny(image))
    assert {(x, y) for x in (5, 17) for y in range(7, 17)} <= places
    assert {(x, y) for y in (5, 17) for x in range(7, 17)} <= places
    assert all(min(abs(x - 5), abs(x - 17), abs(y - 5), abs(y - 17)) <= 1 for x, y in places)


def test_a_diagonal_edge_is_thin() -> None:
    values = np.where(np.add.outer(np.arange(20), np.arange(20)) > 19, 255, 0).astype(np.uint8)
    places = white(canny(Image.fromarray(values).convert("RGB")))
    assert {x + y for x, y in places} <= {19, 20}
    assert {x for x, _ in places} >= set(range(1, 20))


@pytest.mark.parametrize(("step", "seen"), [(24, False), (26, True)])
def test_a_step_of_n_levels_has_the_strength_4n(step: int, seen: bool) -> None:
    image = picture()
    image.paste((step,) * 3, (10, 0, 20, 16))
    assert bool(white(canny(image, 100, 100))) == seen


def test_a_weak_edge_is_kept_where_it_hangs_together_with_a_strong_one() -> None:
    image = picture((40, 16))
    image.paste((40,) * 3, (10, 0, 30, 16))  # 160: weak on both sides
    assert white(canny(image)) == set()
    image.paste((200,) * 3, (10, 0, 14, 3))  # strong at the top of the left side
    places = white(canny(image))
    assert {(9, y) for y in range(5, 16)} <= places
    assert not any(x > 20 for x, _ in places)


def test_noise_follows_the_definition_pixel_by_pixel() -> None:
    values = np.random.default_rng(3).integers(0, 255, (9, 11)).astype(np.uint8)
    padded = np.pad(values.astype(int), 1, mode="edge")
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    strength, angle = np.zeros((11, 13)), np.zeros((11, 13))
    for y in range(9):
        for x in range(11):
            window = padded[y : y + 3, x : x + 3]
            dx, dy = (window * kernel).sum(), (window * kernel.T).sum()
            strength[y + 1, x + 1], angle[y + 1, x + 1] = abs(dx) + abs(dy), np.degrees(np.arctan2(dy, dx)) % 180
    expected = set()
    for y in range(1, 10):
        for x in range(1, 12):
            across = {0: (0, 1), 1: (1, 1), 2: (1, 0), 3: (1, -1)}[round(angle[y, x] / 45) % 4]
            if all(strength[y, x] > strength[y + s * across[0], x + s * across[1]] for s in (1, -1)):
                expected.add((x - 1, y - 1))
    strong = {place for place in expected if strength[place[1] + 1, place[0] + 1] > 300}
    found = white(canny(Image.fromarray(values).convert("RGB"), 300, 300))
    assert strong <= found  # where two neighbours are equally strong one of them is kept
    assert len(found - strong) <= 2


def test_what_each_makes() -> None:
    image = picture(colour=(200, 100, 50))
    image.paste((10, 20, 30), (4, 4, 8, 8))
    assert white(preprocess("scribble", image)) == {(x, y) for x in range(20) for y in range(16)}
    assert white(preprocess("scribble:40", image)) == {(x, y) for x in range(4, 8) for y in range(4, 8)}
    assert preprocess("invert", image).getpixel((5, 5)) == (245, 235, 225)
    assert preprocess("grey", image).getpixel((0, 0)) == (124, 124, 124)
    for name in PREPROCESSORS:
        assert (preprocess(name, image).size, preprocess(name, image).mode) == (image.size, "RGB")


@pytest.mark.parametrize("spec", ["blur:2", "tile:4"])
def test_what_is_small_vanishes_and_the_mean_stays(spec: str) -> None:
    values = np.zeros((32, 32, 3), np.uint8)
    values[::2, ::2] = 240
    made = np.asarray(preprocess(spec, Image.fromarray(values)), float)[8:-8, 8:-8]
    assert made.std() < 0.05 * values.std()
    assert made.mean() == pytest.approx(values.mean(), abs=2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cany", "did you mean canny"),
        ("canny:1:2:3", "write canny:100:200, or canny alone"),
        ("blur:x", "write blur:9, or blur alone"),
        ("tile:0", "is no preprocessor"),
        ("canny:nan", "is no preprocessor"),
        ("invert:1", "is no preprocessor; write invert, or invert alone"),
    ],
)
def test_a_mistake_is_named_when_the_request_is_read(spec: str, message: str) -> None:
    control = {"model": "x", "image": picture(), "preprocessor": spec}
    with pytest.raises(MaquetteError, match=message):
        Request.read({"controls": [control]})
