from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from maquette.cli import main as command
from maquette.models.rrdb import RRDB, RRDBSpec
from maquette.models.rrdb_names import DIALECTS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A working folder with a picture, and a network that doubles."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    network = RRDB(RRDBSpec(width=8, growth=4, blocks=1, unshuffle=2))
    torch.nn.init.normal_(network.conv_out.weight)
    torch.nn.init.constant_(network.conv_out.bias, 0.5)
    view = DIALECTS[0].write(network.state_dict(), network)
    save_file({name: view[name].clone() for name in view}, "x2.safetensors")
    pixels = np.random.default_rng(1).integers(0, 256, (12, 20, 3), np.uint8)
    Image.fromarray(pixels).save("a.png")
    return tmp_path


def test_a_picture_is_enlarged_beside_itself(folder: Path, capsys) -> None:
    assert command.run(["upscale", "a.png", "--by", "x2.safetensors"]) == 0
    assert capsys.readouterr().out == "a-large.png\n"
    with Image.open("a-large.png") as large:
        assert large.size == (40, 24)
        before = large.tobytes()
    assert command.run(["upscale", "a.png", "--by", "x2.safetensors", "--out", "new/b.png", "--scale", "1.5"]) == 0
    with Image.open("new/b.png") as other:
        assert other.size == (30, 18)
    assert command.run(["upscale", "a.png", "--by", "x2.safetensors", "--out", "c.png", "--dtype", "bfloat16"]) == 0
    with Image.open("c.png") as rough:
        difference = np.abs(np.frombuffer(rough.tobytes(), np.uint8).astype(int) - np.frombuffer(before, np.uint8))
        assert 0 < difference.max() < 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png"], "Missing option '--by'"),
        (["gone.png", "--by", "x2.safetensors"], "there is no file gone.png"),
        (["a.png", "--by", "a.png"], "a.png: is neither safetensors nor"),
        (["a.png", "--by", "gone.pth"], "gone.pth: cannot be opened"),
        (["a.png", "--by", "x2.safetensors", "--scale", "0.5"], "--scale must be from 1 to 16"),
        (["a.png", "--by", "x2.safetensors", "--out", "a.gif"], "pictures are PNG files"),
        (["a.png", "--by", "x2.safetensors", "--dtype", "int8"], "unknown precision 'int8'"),
        ([".", "--by", "x2.safetensors"], "."),
        (["a.png", "--by", "~nobody-here/x2.pth"], "~nobody-here/x2.pth: cannot be opened"),
        (
            ["large.png", "--by", "x2.safetensors", "--scale", "2"],
            "would be 10000x10000, and the limit is 64 megapixels",
        ),
        (["large.png", "--by", "x2.safetensors"], "would be 10000x10000, and the limit is 64 megapixels"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(arguments: list[str], message: str, folder: Path, capsys) -> None:
    Image.new("RGB", (5000, 5000)).save("large.png")
    before = set(folder.iterdir())
    assert command.run(["upscale", *arguments]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1) and message in shown.err
    assert set(folder.iterdir()) == before
