"""Boxes, soft edges, pasting, and canvases: what must hold for every mask, drawn at random."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from maquette.errors import MaquetteError
from maquette.workflows.region import (
    Box,
    around,
    extend,
    feather,
    grow,
    latent_mask,
    paste,
    soften,
)

SIZE = WIDTH, HEIGHT = 40, 28


def noisy(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def blobs(seed: int, soft: bool = False) -> Image.Image:
    """A mask of two boxes and a pixel somewhere, perhaps at a border; hard, or of different greys."""
    chance, mask = random.Random(seed), Image.new("L", SIZE)
    for _ in range(2):
        x, y = chance.randrange(-5, WIDTH), chance.randrange(-5, HEIGHT)
        mask.paste(
            chance.randrange(1, 256) if soft else 255, (x, y, x + chance.randrange(1, 20), y + chance.randrange(1, 20))
        )
    mask.putpixel((chance.randrange(WIDTH), chance.randrange(HEIGHT)), 255)
    return mask


def values(mask: Image.Image) -> np.ndarray:
    assert mask.mode == "L" and mask.size == SIZE
    return np.asarray(mask).astype(int)


def distance(covered: np.ndarray) -> np.ndarray:
    """How far each pixel is from the nearest covered one, the larger of rows and columns, by its definition."""
    rows, columns = np.nonzero(covered)
    y, x = np.indices(covered.shape)
    return np.maximum(abs(y[..., None] - rows), abs(x[..., None] - columns)).min(-1, initial=10**6)


def test_a_box_is_read_as_it_is_written() -> None:
    assert Box.read("10,20,60,80") == Box.read(" 10 , 20,60,80 ") == Box.read("50x60+10+20") == (10, 20, 60, 80)
    box = Box(10, 20, 60, 80)
    assert (box.size, str(box), Box.read(str(box))) == ((50, 60), "10,20,60,80", box)
    assert noisy(0, (100, 100)).crop(box).size == box.size


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "5,5,5,9", "5,5,9,5", "9,9,1,1", "-1,0,3,3", "0x4+1+1", "a", "1e3,0,2,2"]
)
def test_what_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(MaquetteError, match="is no box"):
        Box.read(text)


def test_a_box_is_cut_to_the_picture() -> None:
    assert Box(10, 20, 60, 80).within((30, 100)) == (10, 20, 30, 80)
    with pytest.raises(MaquetteError, match="the box 10,20,60,80 lies outside of the picture, 10x100"):
        Box(10, 20, 60, 80).within((10, 100))


def test_a_mask_has_a_bounding_box() -> None:
    mask = Image.new("L", SIZE)
    with pytest.raises(MaquetteError, match="empty"):
        Box.bounding(mask)
    mask.putpixel((3, 4), 1)
    mask.putpixel((30, 20), 255)
    assert Box.bounding(mask) == (3, 4, 31, 21)


@pytest.mark.parametrize("seed", range(60))
def test_a_crop_holds_its_region_and_has_its_shape(seed: int) -> None:
    chance = random.Random(seed)
    bounds = chance.randrange(8, 300), chance.randrange(8, 300)
    left, top = chance.randrange(bounds[0]), chance.randrange(bounds[1])
    region = Box(left, top, chance.randrange(left, bounds[0]) + 1, chance.randrange(top, bounds[1]) + 1)
    padding, aspect = chance.choice((0, 3, 40)), chance.choice((0.5, 1.0, 1.5))
    crop = around(region, padding, aspect, bounds)
    assert crop.within(bounds) == crop
    assert (
        crop.left <= region.left
        and crop.top <= region.top
        and crop.right >= region.right
        and crop.bottom >= region.bottom
    )
    largest = min(bounds[0] / aspect, bounds[1])  # the height of the largest crop of this shape
    if region.width <= largest * aspect and region.height <= largest:
        assert abs(crop.width - crop.height * aspect) <= 1 + aspect
        wanted = max(region.height + 2 * padding, (region.width + 2 * padding) / aspect)
        assert abs(crop.height - min(wanted, largest)) <= 1


@pytest.mark.parametrize("seed", range(60))
def test_a_crop_holds_what_is_around_its_region_and_is_no_other_where_it_did(seed: int) -> None:
    chance = random.Random(seed)
    bounds, least = (chance.randrange(8, 300), chance.randrange(8, 300)), chance.randrange(1, 9)
    left, top = chance.randrange(bounds[0]), chance.randrange(bounds[1])
    region = Box(left, top, chance.randrange(left, bounds[0]) + 1, chance.randrange(top, bounds[1]) + 1)
    aspect = chance.choice((0.5, 1.0, 1.5))
    crop, plain = around(region, 10, aspect, bounds, least), around(region, 10, aspect, bounds)
    kept = max(left - least, 0), max(top - least, 0), min(region.right + least, bounds[0]), region.bottom + least
    kept = Box(*kept).within(bounds)

    def holds(outer: Box) -> bool:
        ends = outer.right >= kept.right and outer.bottom >= kept.bottom
        return outer.left <= kept.left and outer.top <= kept.top and ends

    assert crop.within(bounds) == crop and holds(crop)
    assert not holds(plain) or crop == plain


def test_a_crop_is_in_the_middle_where_there_is_room() -> None:
    assert around(Box(40, 40, 60, 60), 10, 1.0, (100, 100)) == (30, 30, 70, 70)
    assert around(Box(40, 40, 60, 60), 10, 2.0, (100, 100)) == (10, 30, 90, 70)
    assert around(Box(0, 40, 20, 60), 10, 1.0, (100, 100)) == (0, 30, 40, 70)
    assert around(Box(80, 0, 100, 10), 5, None, (100, 100)) == (70, 0, 100, 20)
    mask = Image.new("L", (100, 100))
    mask.paste(9, (40, 40, 60, 60))
    assert around(mask, 10, 1.0, (100, 100)) == (30, 30, 70, 70)


@pytest.mark.parametrize("pixels", [0, 1, 2, 5, 12, 100])
@pytest.mark.parametrize("seed", range(4))
def test_growing_is_by_distance(seed: int, pixels: int) -> None:
    mask = blobs(seed)
    covered = values(mask) > 0
    assert np.array_equal(values(grow(mask, pixels)) == 255, distance(covered) <= pixels)
    assert np.array_equal(values(grow(mask, -pixels)) == 0, distance(~covered) <= pixels)
    assert set(np.unique(values(grow(mask, pixels)))) <= {0, 255}


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("pixels", [0, 1, 2, 3, 4, 7, 12, 50])
@pytest.mark.parametrize("seed", range(4))
def test_a_feathered_mask_ends_where_it_should(seed: int, pixels: int, soft: bool) -> None:
    mask = blobs(seed, soft)
    before, after = values(mask), values(feather(mask, pixels))
    assert (after >= before).all()
    assert (after[distance(before > 0) > pixels] == 0).all()
    assert pixels > 0 or np.array_equal(after, before)


def test_a_feathered_edge_falls_smoothly() -> None:
    mask = Image.new("L", SIZE)
    mask.paste(255, (0, 0, 10, HEIGHT))
    line = values(feather(mask, 16))
    assert (line == line[0]).all()  # along the border of the picture nothing falls
    falls = -np.diff(line[0])
    assert (falls >= 0).all() and falls.max() <= 40 and (falls[10:24] > 0).all()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("pixels", [0, 1, 3, 4, 9, 50])
@pytest.mark.parametrize("seed", range(4))
def test_a_softened_mask_stays_inside_and_loses_no_part(seed: int, pixels: int, soft: bool) -> None:
    mask = blobs(seed, soft)
    before, after = values(mask), values(soften(mask, pixels))
    assert (after <= before).all() and (after[before == 0] == 0).all()
    deep = distance(before == 0) > pixels
    assert np.array_equal(after[deep], before[deep])
    alone = Image.new("L", SIZE)
    alone.putpixel((20, 14), 200)
    assert np.array_equal(values(soften(alone, pixels)), values(alone))
    assert pixels > 0 or np.array_equal(after, before)


def test_a_softened_edge_falls_smoothly() -> None:
    mask = Image.new("L", SIZE)
    mask.paste(255, (0, 0, 30, HEIGHT))
    falls = -np.diff(values(soften(mask, 12))[14])
    assert (falls >= 0).all() and falls[:29].max() <= 60 and (falls[:17] == 0).all() and (falls[19:28] > 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_latent_is_masked_as_the_whitest_of_its_pixels(seed: int) -> None:
    mask = blobs(seed, soft=True)
    cells = latent_mask(mask, 4)
    assert cells.shape == (1, 1, 7, 10) and cells.dtype == torch.float32
    for y in range(7):
        for x in range(10):
            whitest = values(mask)[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].max()
            assert float(cells[0, 0, y, x]) == pytest.approx(whitest / 255)
    with pytest.raises(MaquetteError, match="40x28, no multiple of 8"):
        latent_mask(mask, 8)


@pytest.mark.parametrize("seed", range(20))
def test_pasting_touches_nothing_but_what_is_masked(seed: int) -> None:
    original, mask = noisy(seed), blobs(seed, soft=seed % 2 == 1)
    box = around(mask, seed % 5, 1.0, SIZE) if seed % 3 else Box(5, 5, 20, 20)
    patch = noisy(seed + 100, (box.width * 2, box.height * 2) if seed % 4 else box.size)
    before = original.tobytes()
    after = np.asarray(paste(original, patch, box, mask)).astype(int)
    assert original.tobytes() == before
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[box.top : box.bottom, box.left : box.right] = True
    old = np.asarray(original).astype(int)
    assert np.array_equal(after[~inside | (values(mask) == 0)], old[~inside | (values(mask) == 0)])
    new = old.copy()
    new[inside] = np.asarray(patch.resize(box.size, Image.Resampling.LANCZOS)).reshape(-1, 3)
    full = inside & (values(mask) == 255)
    assert np.array_equal(after[full], new[full])
    share = values(mask)[..., None] / 255
    assert np.abs(after - (old + (new - old) * share))[inside].max() <= 0.51


def test_pasting_asks_for_masks_and_boxes_that_fit() -> None:
    with pytest.raises(MaquetteError, match="the mask is 4x4 and its picture 40x28"):
        paste(noisy(0), noisy(1), Box(0, 0, *SIZE), Image.new("L", (4, 4)))
    with pytest.raises(MaquetteError, match="the box 0,0,41,28 reaches out of the picture, 40x28"):
        paste(noisy(0), noisy(1), Box(0, 0, 41, 28), Image.new("L", SIZE))


@pytest.mark.parametrize("sides", [(8, 0, 0, 0), (0, 16, 0, 0), (0, 0, 5, 0), (0, 0, 0, 300), (3, 7, 11, 2)])
def test_an_extended_picture_is_kept_and_the_rest_masked(sides: tuple[int, int, int, int]) -> None:
    image = noisy(0)
    canvas, mask = extend(image, *sides, multiple=8, overlap=4)
    left, top = sides[:2]
    assert canvas.size == mask.size and canvas.width % 8 == canvas.height % 8 == 0
    assert 0 <= canvas.width - (left + WIDTH + sides[2]) < 8 and 0 <= canvas.height - (top + HEIGHT + sides[3]) < 8
    assert canvas.crop((left, top, left + WIDTH, top + HEIGHT)).tobytes() == image.tobytes()
    painted = np.asarray(mask) == 255
    new = np.ones_like(painted)
    new[top : top + HEIGHT, left : left + WIDTH] = False
    assert set(np.unique(mask)) == {0, 255} and painted[new].all()
    assert np.array_equal(painted[~new].reshape(HEIGHT, WIDTH), distance_to(new)[~new].reshape(HEIGHT, WIDTH) <= 4)


def distance_to(new: np.ndarray) -> np.ndarray:
    """As `distance`, along rows and columns one by one: what is near in neither is far."""
    far = np.full(new.shape, 10**6)
    for k in range(1, 5):
        for shift, axis in ((k, 0), (-k, 0), (k, 1), (-k, 1)):
            rolled = np.roll(new, shift, axis)
            edge = [slice(None), slice(None)]
            edge[axis] = slice(None, shift) if shift > 0 else slice(shift, None)
            rolled[tuple(edge)] = False
            far = np.where(rolled, np.minimum(far, k), far)
    return far


def test_the_fill_continues_the_edges() -> None:
    image = Image.new("RGB", (16, 16), (10, 200, 30))
    assert extend(image, 8, 8, 8, 8)[0].tobytes() == Image.new("RGB", (32, 32), (10, 200, 30)).tobytes()
    image.paste((200, 10, 30), (8, 0, 16, 16))
    assert extend(image, 0, 0, 16, 0)[0].getpixel((30, 8)) == (200, 10, 30)


def test_extending_by_nothing_or_too_much_is_refused() -> None:
    for sides in ((0, 0, 0, 0), (-1, 0, 8, 0)):
        with pytest.raises(MaquetteError, match="cannot be extended by"):
            extend(noisy(0), *sides)
    with pytest.raises(MaquetteError, match=r"10040x10028, has more than 67,108,864 pixels"):
        extend(noisy(0), 10_000, 10_000, 0, 0)
