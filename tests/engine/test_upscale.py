"""Networks that enlarge: opened from what is published, run by tiles, refused where they are something else."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import maquette
from maquette.engine import upscale
from maquette.engine.open import ASSETS
from maquette.engine.recognise import recognise
from maquette.engine.upscale import open_upscaler
from maquette.errors import MaquetteError
from maquette.models.rrdb import RRDB, RRDBSpec
from maquette.models.rrdb_names import DIALECTS

SPEC = RRDBSpec(width=8, growth=4, blocks=1, unshuffle=2)


def made(spec: RRDBSpec = SPEC, dialect: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    network = RRDB(spec)
    torch.nn.init.normal_(network.conv_out.weight, std=0.1)
    torch.nn.init.constant_(network.conv_out.bias, 0.5)
    view = DIALECTS[dialect].write(network.state_dict(), network)
    return {name: view[name].clone() for name in view}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(made(), tmp_path / "x2.safetensors")
    return tmp_path / "x2.safetensors"


@pytest.mark.parametrize("around", ["params_ema", "params", None])
def test_a_pickled_file_opens_whatever_is_around_its_tensors(tmp_path: Path, around: str | None) -> None:
    save_file(made(), tmp_path / "plain.safetensors")
    torch.save(made() if around is None else {around: made()}, tmp_path / "x2.pth")
    picture = torch.rand(1, 3, 6, 10)
    one, other = (open_upscaler(tmp_path / name).enlarge(picture) for name in ("plain.safetensors", "x2.pth"))
    assert one.shape == (1, 3, 12, 20) and torch.equal(one, other)


def test_of_weights_and_their_average_the_average_is_taken(tmp_path: Path) -> None:
    torch.save({"params": {k: 0 * v for k, v in made().items()}, "params_ema": made()}, tmp_path / "both.pth")
    save_file(made(), tmp_path / "plain.safetensors")
    picture = torch.rand(1, 3, 6, 10)
    one, other = (open_upscaler(tmp_path / name).enlarge(picture) for name in ("plain.safetensors", "both.pth"))
    assert torch.equal(one, other)


@pytest.mark.parametrize("size", [(40, 64), (37, 51), (1, 1), (3, 70)])
def test_tiles_are_the_whole(monkeypatch, file: Path, size: tuple[int, int]) -> None:
    upscaler, picture = open_upscaler(file), torch.rand(2, 3, *size)
    whole = upscaler.enlarge(picture)
    assert whole.shape == (2, 3, 2 * size[0], 2 * size[1]) and whole.min() >= 0 and whole.max() <= 1
    monkeypatch.setattr(upscale, "TILE", 16)
    monkeypatch.setattr(upscale, "OVERLAP", 44)  # as far as this small network looks
    torch.testing.assert_close(upscaler.enlarge(picture), whole, rtol=1e-4, atol=1e-5)


def test_what_a_file_is_is_told(file: Path) -> None:
    assert "ESRGAN" in recognise(file).title
    with pytest.raises(MaquetteError, match="holds no denoiser"):
        maquette.open(file)


def test_something_else_is_refused(file: Path, tmp_path: Path) -> None:
    tower = ASSETS / "mini" / "text_encoder" / "model.safetensors"
    with pytest.raises(MaquetteError, match="holds no network that enlarges"):
        open_upscaler(tower)
    with pytest.raises(MaquetteError, match="gone.pth: cannot be opened"):
        open_upscaler(tmp_path / "gone.pth")
    broken = made()
    del broken["conv_body.weight"]
    save_file(broken, tmp_path / "broken.safetensors")
    with pytest.raises(MaquetteError, match=r"1 missing \(conv_body.weight\)"):
        open_upscaler(tmp_path / "broken.safetensors")
    save_file(made() | {"conv_more.weight": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(MaquetteError, match=r"1 unknown \(conv_more.weight\)"):
        open_upscaler(tmp_path / "more.safetensors")
    with pytest.raises(MaquetteError, match="of 3 channels, and got 4"):
        open_upscaler(file).enlarge(torch.rand(1, 4, 8, 8))
