import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image

from maquette.engine.image import to_images
from maquette.errors import MaquetteError
from maquette.workflows.loop import run
from maquette.workflows.paint import paint
from maquette.workflows.picture import (
    Origin,
    check_out,
    encode_png,
    free_name,
    name_files,
    read_request,
    read_texts,
    write_files,
)
from maquette.workflows.request import Request


def origin(model, **fields) -> Origin:
    request = Request.read({"seed": 7, "width": 8, "height": 8, **fields}).resolved(model.family.defaults)
    return Origin(request=request, model_hash="ab" * 32, latent_hash="cd" * 32)


def noisy(side: int) -> Image.Image:
    return to_images(torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1)[0]


def test_pixels_become_the_nearest_of_256_levels() -> None:
    values = torch.tensor([-2.0, -1.0, -1 + 0.4 / 127.5, 0.0, 1.0, 3.0])
    row = to_images(values.expand(1, 3, 1, 6))[0]
    assert [row.getpixel((k, 0)) for k in range(6)] == [(v, v, v) for v in (0, 0, 0, 128, 255, 255)]
    assert to_images(torch.zeros(2, 3, 4, 6))[1].size == (6, 4)


@pytest.mark.parametrize(
    "prompt", ["", "a red apple", 'a "b", c: d\n\ne', "一个红苹果 🍎", "é ü\r\n", "Steps: 1" * 400]
)
def test_a_picture_carries_the_request_that_made_it(prompt: str, tmp_path: Path, model) -> None:
    made = origin(model, prompt=prompt, negative=prompt)
    file = tmp_path / "图 片.png"
    write_files([(file, encode_png(noisy(8), made))])
    assert read_request(file) == Request.read(made.request.model_dump())
    assert json.loads(read_texts(file)["maquette"])["latent_hash"] == made.latent_hash
    with Image.open(file) as image:
        assert image.tobytes() == noisy(8).tobytes()


def test_other_programs_pictures_are_read_by_their_infotext(tmp_path: Path, model) -> None:
    made = origin(model, prompt="a red apple")
    texts = read_texts_of(encode_png(noisy(8), made), tmp_path)
    assert texts["parameters"].startswith("a red apple\nSteps: 4, Sampler: DDIM, Schedule type: trailing, CFG scale: 2")
    assert "Model hash: ababababab, Model: mini" in texts["parameters"]


def read_texts_of(data: bytes, folder: Path) -> dict[str, str]:
    (folder / "x.png").write_bytes(data)
    return read_texts(folder / "x.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({}, "carries no settings"),
        ({"maquette": "{}"}, "is not what Maquette writes"),
        ({"maquette": "["}, "is not what Maquette writes"),
        ({"maquette": '{"request": 3}'}, "is not what Maquette writes"),
        ({"maquette": '{"request": {"steps": 0}}'}, "steps must be at least 1"),
        ({"parameters": "just words"}, "no settings in the text"),
    ],
)
def test_what_cannot_be_read_back_is_said(text: dict[str, str], message: str, tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    noisy(8).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(MaquetteError, match=message):
        read_request(tmp_path / "x.png")


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", None])
def test_what_is_no_png_is_said(data: bytes | None, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(MaquetteError, match="there is no file" if data is None else "cannot read .* as a PNG"):
        read_request(tmp_path / "x.png")


@contextmanager
def small_disk() -> Iterator[None]:
    """In the block no file may grow above 4 kB, as on a full disk; not even the one that this run's report goes to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, model) -> None:
    small, large = encode_png(noisy(8), origin(model)), encode_png(noisy(64), origin(model))
    assert len(small) < 4096 < len(large)
    (tmp_path / "old.png").write_bytes(b"old")
    with pytest.raises(MaquetteError, match="cannot be written"), small_disk():
        write_files([(tmp_path / "a.png", small), (tmp_path / "old.png", large)])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"old.png": b"old"}


def test_a_disk_that_fails_at_the_end_leaves_nothing_behind(tmp_path: Path, model, monkeypatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MaquetteError, match="No space left"):
        write_files([(tmp_path / "a.png", encode_png(noisy(8), origin(model)))])
    assert list(tmp_path.iterdir()) == []


@contextmanager
def few_files() -> Iterator[None]:
    """In the block hardly more files may be open than are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path(os.devnull).open() as next_one:
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one.fileno() + 3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_pictures_need_few_open_files(tmp_path: Path) -> None:
    files = [(tmp_path / f"{k}.png", b"%d" % k) for k in range(20)]
    with few_files():
        write_files(files)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == dict(files)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_what_stops_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    place = Path if call == "replace" else os
    before, calls = getattr(place, call), []

    def stop(*given: object) -> object:
        calls.append(given)
        if len(calls) == 2:
            raise error
        return before(*given)

    monkeypatch.setattr(place, call, stop)
    with pytest.raises(MaquetteError if isinstance(error, OSError) else KeyboardInterrupt):
        write_files([(tmp_path / f"{k}.png", b"x") for k in range(3)])
    assert list(tmp_path.iterdir()) == []


def test_names_that_cannot_be_written_are_refused_before_painting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for name, message in (("x.jpg", "ends in .png"), ("folder.png", "is a folder"), ("file/x.png", "no folder")):
        with pytest.raises(MaquetteError, match=message):
            check_out(tmp_path / name)
    check_out(tmp_path / "new" / "folder" / "x.PNG")


def test_names_of_files(tmp_path: Path, model) -> None:
    assert name_files(Path("a/b.png"), 1) == [Path("a/b.png")]
    assert name_files(Path("a/b.png"), 2) == [Path("a/b-1.png"), Path("a/b-2.png")]

    def name(prompt: str, **fields) -> str:
        return free_name(tmp_path, origin(model, prompt=prompt, **fields).request).name

    assert name("A red/../apple!") == "a-red-apple-7.png"
    assert name("红苹果") == "红苹果-7.png"
    assert name("🍎") == "picture-7.png"
    assert len(name("苹" * 300).encode()) < 255
    request = origin(model, prompt="A red apple", count=2).request
    taken = {tmp_path.resolve() / "a-red-apple-7-2.png"}
    assert free_name(tmp_path / ".", request, taken).name == "a-red-apple-7-again-1.png"
    (tmp_path / "a-7.png").touch()
    (tmp_path / "b-7-2.png").touch()
    assert name("a") == "a-7-again-1.png"
    assert name("b", count=2) == "b-7-again-1.png"


def test_a_result_is_saved_as_png_or_not_at_all(tmp_path: Path, model) -> None:
    result = run(paint(model, Request(prompt="a red apple", count=2)))
    with pytest.raises(MaquetteError, match=r"x\.jpg: pictures are PNG files"):
        result.save(tmp_path / "x.jpg")
    (tmp_path / "x-2.png").mkdir()
    with pytest.raises(MaquetteError, match=r"x-2\.png: it is a folder"):
        result.save(tmp_path / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["x-2.png"]
