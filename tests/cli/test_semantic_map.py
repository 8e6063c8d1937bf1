from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maquette.cli import main as command
from maquette.training.palette import palette


def test_a_map_is_drawn_in_the_colours_of_what_is_named(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    regions = ["8,40,56,88=apple", "72,88 120,88 96,40=猫"]
    assert command.run(["map", *regions, "--background", "light blue", "--out", "new/map.png"]) == 0
    assert capsys.readouterr().out == "new/map.png\n"
    shapes = [((8, 40, 56, 88), "apple"), ([(72, 88), (120, 88), (96, 40)], "cat")]
    with Image.open("new/map.png") as drawn:
        assert (np.asarray(drawn) == np.asarray(palette().paint(shapes, "light blue"))).all()
    assert command.run(["map", "48x48+8+40=apple", "--size", "64x128"]) == 0
    with Image.open("map.png") as other:
        assert other.size == (64, 128) and other.getpixel((8, 40)) == palette().thing("apple")
        assert other.getpixel((7, 40)) == palette().background("white")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument"),
        (["apple"], "map apple: give REGION=NAME"),
        (["0,0,9,9=aple"], "there is no thing 'aple'; did you mean"),
        (["0,0,9,9=apple", "--background", "bleu"], "there is no background 'bleu'; did you mean blue"),
        (["9,0,0,9=apple"], "9,0,0,9 is no box"),
        (["0,0 9,9=apple"], "'0,0 9,9' are two corners"),
        (["128,0,150,9=apple"], "lies outside of the picture, 128x128"),
        (["0,130 9,130 9,140=apple"], "lies outside of the picture, 128x128"),
        (["0,0 9,9 x,0=apple"], "'0,0 9,9 x,0' are no corners"),
        (["0,0 9,9 0,0,0=apple"], "are no corners"),
        (["0,0,9,9=apple", "--size", "100x128"], "multiple of 8"),
        (["0,0,9,9=apple", "--size", "big"], "size 'big' is not WIDTHxHEIGHT"),
        (["0,0,9,9=apple", "--out", "map.gif"], "pictures are PNG files"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.run(["map", *arguments]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1) and message in shown.err
    assert not list(tmp_path.iterdir())
