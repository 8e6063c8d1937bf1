"""Finders: connected parts against a flood fill, differences, plug-ins, and a detector that is made up here."""

import os
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from maquette.errors import MaquetteError
from maquette.workflows import finders
from maquette.workflows.components import components
from maquette.workflows.finders import Found, detector, differences, finder, from_mask, given
from maquette.workflows.region import Box

SIZE = WIDTH, HEIGHT = 48, 32


def plain(colour: tuple[int, int, int] = (90, 120, 30)) -> Image.Image:
    return Image.new("RGB", SIZE, colour)


def flooded(mask: np.ndarray) -> set[frozenset[tuple[int, int]]]:
    """The connected parts by the definition: what can be walked to."""
    left, parts = set(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True)), set()
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            part.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        parts.add(frozenset(part))
    return parts


def walked(box: Box, mask: Image.Image) -> frozenset[tuple[int, int]]:
    assert mask.size == box.size and set(mask.tobytes()) <= {0, 255}
    rows, columns = np.nonzero(np.asarray(mask))
    return frozenset(zip((rows + box.top).tolist(), (columns + box.left).tolist(), strict=True))


def spiral(size: int) -> np.ndarray:
    """One part that winds inwards, in whose rows almost every run belongs to another turn."""
    mask, y, x, (dy, dx) = np.zeros((size, size), bool), 0, 0, (0, 1)
    for length in [size - 1, *(k for k in range(size - 1, 0, -2) for _ in range(2))]:
        for _ in range(length):
            mask[y, x] = True
            y, x = y + dy, x + dx
        mask[y, x] = True
        dy, dx = dx, -dy
    return mask


def combs(size: int) -> np.ndarray:
    """Teeth that meet only in the last row, and teeth that meet only in the first."""
    mask = np.zeros((2 * size, size), bool)
    mask[:size, ::2] = mask[size - 1] = mask[size + 1] = mask[size + 2 :, ::2] = True
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        *(np.random.default_rng(k).random((19, 23)) < 0.1 * k for k in range(1, 10)),
        spiral(24),
        combs(15),
        np.eye(12, dtype=bool),
        ~np.eye(12, dtype=bool),
        np.ones((5, 7), bool),
        np.zeros((5, 7), bool),
        np.ones((1, 9), bool),
        np.arange(9)[:, None] % 2 == 0,
    ],
)
def test_components_are_what_can_be_walked_to(mask: np.ndarray) -> None:
    found = components(Image.fromarray(mask.astype(np.uint8) * 255))
    assert {walked(part.box, part.mask) for part in found} == flooded(mask)
    assert len(found) == len(flooded(mask))
    assert all(part.area == len(walked(part.box, part.mask)) == sum(part.mask.histogram()[255:]) for part in found)
    assert all(part.mask.getbbox() == (0, 0, *part.box.size) for part in found)
    order = [(part.box.top, part.box.left) for part in found]
    assert order == sorted(order)


def test_small_components_are_dropped_and_of_many_the_largest_kept() -> None:
    mask = Image.new("L", (80, 8))
    for k in range(8):
        mask.paste(255, (10 * k, 0, 10 * k + 1 + (k * 5) % 8, 1))  # areas 1 6 3 8 5 2 7 4
    assert [part.area for part in components(mask)] == [1, 6, 3, 8, 5, 2, 7, 4]
    assert [part.area for part in components(mask, smallest=4)] == [6, 8, 5, 7, 4]
    assert [part.area for part in components(mask, most=3)] == [6, 8, 7]
    assert components(mask, smallest=9) == []


def test_a_pixel_counts_from_half_on() -> None:
    mask = Image.new("L", (5, 1))
    mask.putdata([127, 128, 0, 255, 127])
    assert [part.box for part in components(mask)] == [(1, 0, 2, 1), (3, 0, 4, 1)]


def test_given_boxes_are_found() -> None:
    assert given(Box(1, 2, 30, 20), Box(40, 0, 90, 90))(plain()) == [
        Found(Box(1, 2, 30, 20), label="given"),
        Found(Box(40, 0, 48, 32), label="given"),
    ]
    with pytest.raises(MaquetteError, match="the box 48,0,50,5 lies outside of the picture, 48x32"):
        given(Box(48, 0, 50, 5))(plain())


def test_parts_of_a_mask_are_found(tmp_path: Path) -> None:
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).ellipse((4, 4, 15, 15), fill=255)
    mask.paste(255, (30, 10, 40, 30))
    mask.putpixel((47, 0), 255)  # a speck
    mask.save(tmp_path / "mask.png")
    for source in (mask, tmp_path / "mask.png"):
        found = from_mask(source)(plain())
        assert [(each.box, each.label) for each in found] == [((4, 4, 16, 16), "mask"), ((30, 10, 40, 30), "mask")]
        together = np.maximum(*(np.asarray(each.covering(SIZE)) for each in found))
        assert np.array_equal(together[:, :47], np.asarray(mask)[:, :47])
    assert len(from_mask(mask, smallest=1)(plain())) == 3


def test_a_box_without_a_mask_covers_all_of_itself() -> None:
    assert Found(Box(3, 4, 9, 9)).covering(SIZE).getbbox() == (3, 4, 9, 9)
    assert sum(Found(Box(3, 4, 9, 9)).covering(SIZE).histogram()[255:]) == 30


def test_differences_are_found(tmp_path: Path) -> None:
    before, after = plain(), plain()
    before.save(tmp_path / "before.png")
    after.paste((90, 120, 255), (5, 5, 12, 10))
    after.paste((90, 100, 30), (20, 20, 30, 30))  # by 20 levels: too little
    after.paste((0, 0, 0), (40, 20, 42, 22))  # four pixels: a speck
    for source in (before, str(tmp_path / "before.png")):
        assert [each.box for each in differences(source, reach=0)(after)] == [(5, 5, 12, 10)]
        assert [each.box for each in differences(source, reach=2)(after)] == [(3, 3, 14, 12)]
    assert [each.box for each in differences(before, least=20, reach=0)(after)] == [(5, 5, 12, 10), (20, 20, 30, 30)]
    assert [each.box for each in differences(before, reach=0, smallest=4)(after)] == [(5, 5, 12, 10), (40, 20, 42, 22)]
    assert differences(before)(before) == []


def test_neighbouring_differences_are_one() -> None:
    after = plain()
    after.paste((0, 0, 0), (5, 5, 12, 10))
    after.paste((0, 0, 0), (16, 5, 20, 10))
    assert [each.box for each in differences(plain(), reach=0)(after)] == [(5, 5, 12, 10), (16, 5, 20, 10)]
    assert [each.box for each in differences(plain(), reach=2)(after)] == [(3, 3, 22, 12)]


def test_pictures_of_two_sizes_are_not_compared() -> None:
    with pytest.raises(MaquetteError, match="pictures of 4x4 and 48x32 cannot be compared"):
        differences(Image.new("RGB", (4, 4)))(plain())


def test_specs_name_finders(tmp_path: Path) -> None:
    mask = Image.new("L", SIZE)
    mask.paste(255, (5, 5, 12, 10))
    mask.save(tmp_path / "a mask:1.png")
    plain().save(tmp_path / "before.png")
    changed = plain()
    changed.paste((0, 0, 0), (5, 5, 12, 10))
    assert finder("given:1,2,3,4;8x9+10+11")(plain()) == given(Box(1, 2, 3, 4), Box(10, 11, 18, 20))(plain())
    assert [each.box for each in finder(f"mask:{tmp_path / 'a mask:1.png'}")(plain())] == [(5, 5, 12, 10)]
    assert [each.box for each in finder(f"differences:{tmp_path / 'before.png'}")(changed)] == [(1, 1, 16, 14)]
    with pytest.raises(MaquetteError, match="'' is no box"):
        finder("given")


@pytest.fixture
def plugins(monkeypatch) -> None:
    """Two installed plug-ins: this file's `halves`, and one that cannot be imported."""
    sys.modules.pop("made_up_halves", None)
    module = SimpleNamespace(halves=halves, broken=broken)
    monkeypatch.setitem(sys.modules, "made_up_halves", module)
    found = EntryPoints(
        EntryPoint(name, value, finders.GROUP)
        for name, value in (
            ("halves", "made_up_halves:halves"),
            ("broken", "made_up_halves:broken"),
            ("gone", "no_such_package_anywhere:find"),
            ("given", "made_up_halves:broken"),
        )
    )
    monkeypatch.setattr(finders, "entry_points", lambda group: found.select(group=group))


def halves(text: str):
    return lambda image: [Found(Box(0, 0, image.width // 2, image.height), label=text)]


def broken(text: str):
    raise KeyError(text)


@pytest.mark.usefixtures("plugins")
def test_an_installed_package_adds_finders() -> None:
    assert finder("halves:a:b")(plain()) == [Found(Box(0, 0, 24, 32), label="a:b")]
    assert finder("halves")(plain())[0].label == ""
    assert finder("given:1,2,3,4")(plain())[0].box == (1, 2, 3, 4)  # a plug-in does not replace ours
    with pytest.raises(MaquetteError, match=r"the finder 'broken' \(made_up_halves:broken\) failed: KeyError\('x'\)"):
        finder("broken:x")
    with pytest.raises(MaquetteError, match="the finder 'gone' .* failed: ModuleNotFoundError"):
        finder("gone")


@pytest.mark.usefixtures("plugins")
def test_unknown_finders_are_told_the_known_ones() -> None:
    with pytest.raises(MaquetteError, match="there is no finder 'halve'; did you mean halves?"):
        finder("halve:x")
    known = "broken, differences, given, gone, halves, mask, ultralytics"
    with pytest.raises(MaquetteError, match=f"there is no finder 'zzz'; known are {known}"):
        finder("zzz")


# a detector as ultralytics gives it: corners (n, 4), scores (n,), classes (n,), outlines of (m, 2) pixels


class MadeUpDetector:
    outlines: list[np.ndarray] | None = None

    def __init__(self, file: str) -> None:
        self.file = file

    def predict(self, image: Image.Image, *, conf: float, verbose: bool) -> list[SimpleNamespace]:
        corners = torch.tensor([[-3.2, 4.6, 10.4, 20.0], [30.0, 8.0, 60.0, 40.5], [47.9, 31.9, 47.95, 31.95]])
        scores = torch.tensor([0.9, 0.5, 0.35])
        kept = scores >= conf
        masks = None if self.outlines is None else SimpleNamespace(xy=self.outlines)
        boxes = SimpleNamespace(xyxy=corners[kept], conf=scores[kept], cls=torch.tensor([1.0, 0.0, 1.0])[kept])
        return [SimpleNamespace(boxes=boxes, masks=masks, names={0: "hand", 1: "face"})]


@pytest.fixture
def yolo(monkeypatch) -> type[MadeUpDetector]:
    for name in ("YOLO_OFFLINE", "YOLO_AUTOINSTALL"):
        monkeypatch.delenv(name, raising=False)
    made_up = type("YOLO", (MadeUpDetector,), {})
    monkeypatch.setitem(sys.modules, "ultralytics", SimpleNamespace(YOLO=made_up))
    return made_up


def test_a_detectors_boxes_lie_within_the_picture(yolo, tmp_path: Path) -> None:
    file = tmp_path / "faces.onnx"
    file.touch()
    found = finder(f"ultralytics:{file}")(plain())
    assert [(each.box, each.label, round(each.score, 2)) for each in found] == [
        ((0, 4, 11, 20), "face", 0.9),
        ((30, 8, 48, 32), "hand", 0.5),
        ((47, 31, 48, 32), "face", 0.35),
    ]
    assert [each.label for each in detector(file, least=0.4)(plain())] == ["face", "hand"]
    assert (os.environ["YOLO_OFFLINE"], os.environ["YOLO_AUTOINSTALL"]) == ("true", "false")


def test_a_detectors_outlines_become_masks(yolo, tmp_path: Path) -> None:
    file = tmp_path / "faces.onnx"
    file.touch()
    square = np.array([[32.0, 10.0], [40.0, 10.0], [40.0, 20.0], [32.0, 20.0]])
    yolo.outlines = [np.zeros((0, 2)), square, square]
    whole, inner, elsewhere = detector(file)(plain())
    assert whole.mask is None and elsewhere.mask is None
    assert inner.covering(SIZE).getbbox() == (32, 10, 41, 21)


def test_a_detector_that_may_run_code_is_opened_only_if_trusted(yolo, tmp_path: Path) -> None:
    file = tmp_path / "faces.pt"
    with pytest.raises(MaquetteError, match="there is no detector .*faces.pt; .* it is not downloaded"):
        finder(f"ultralytics:{file}")
    file.touch()
    with pytest.raises(MaquetteError, match=r"can run code .* write ultralytics:trusted:.*faces\.pt"):
        finder(f"ultralytics:{file}")
    assert len(finder(f"ultralytics:trusted:{file}")(plain())) == 3


def test_a_missing_package_is_named_with_the_command_to_install_it(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "faces.onnx"
    file.touch()
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(
        MaquetteError, match=r"faces\.onnx needs a package .*; run: pip install ultralytics onnxruntime"
    ):
        detector(file)


def test_a_detector_that_fails_is_named(yolo, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "faces.onnx"
    file.touch()

    def fail(error: Exception):
        def predict(*_, **__):
            raise error

        return predict

    find = detector(file)
    for error, said in (
        (ImportError("no onnxruntime"), "needs a package"),
        (ValueError("bad\nfile"), "failed: ValueError"),
    ):
        monkeypatch.setattr(yolo, "predict", fail(error))
        with pytest.raises(MaquetteError, match=rf"faces\.onnx {said}") as caught:
            find(plain())
        assert "\n" not in str(caught.value)
