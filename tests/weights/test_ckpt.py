"""Our reader of torch.save files against torch's own."""

import collections
import datetime
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maquette.errors import MaquetteError
from maquette.weights.ckpt import Checkpoint


class Callback:
    """A class that only the trainer had."""

    def __init__(self) -> None:
        self.best = {"score": np.float64(0.5)}


def save(path: Path, value: object, **options: Any) -> Checkpoint:
    torch.save(value, path, **options)
    return Checkpoint(path)


def equal(view: Checkpoint, expected: dict[str, Tensor]) -> bool:
    assert list(view) == list(expected)
    for name, tensor in expected.items():
        assert view[name].dtype == view.dtype(name) == tensor.dtype
        assert view.shape(name) == view[name].shape == tensor.shape
        assert torch.equal(view[name].float(), tensor.float())
    return True


def tensors() -> dict[str, Tensor]:
    big = torch.randn(6, 8)
    return {
        "matrix": torch.randn(4, 3),
        "number": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(4, 3).t(),
        "whole": big,
        "corner": big[2:, 3:],
        "repeated": torch.randn(4, 1)[:, 0],
        "parameter": nn.Parameter(torch.randn(2)),
        "flags": torch.tensor([True, False]),
        **{str(dtype): torch.ones(3).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int8)},
        **{str(dtype): torch.ones(3).to(dtype) for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16)},
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_torch_writes(tmp_path: Path, protocol: int, zipped: bool) -> None:
    saved = tensors()
    view = save(tmp_path / "a", saved, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert equal(view, saved)


def test_a_training_checkpoint_gives_the_tensors_of_its_state_dict(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    view = save(
        tmp_path / "a",
        {
            "epoch": 3,
            "global_step": 875000,
            "pytorch-lightning_version": "1.4.2",
            "callbacks": {Callback: Callback(), ("a", 1): {1, 2}},
            "optimizer_states": [optimizer.state_dict()],
            "when": datetime.datetime(2022, 8, 22),
            "where": pathlib.PurePosixPath("/data"),
            "losses": collections.defaultdict(list, {"train": [np.float32(1), np.arange(3)]}),
            "seed": 2**64 - 1,
            "state_dict": {"state_dict": network.state_dict()},
        },
    )
    assert equal(view, network.state_dict())
    assert view.metadata["global_step"] == "875000"
    assert view.metadata["pytorch-lightning_version"] == "1.4.2"


def test_nested_tables_get_dotted_names(tmp_path: Path) -> None:
    a, b = torch.randn(2), torch.randn(3)
    assert equal(save(tmp_path / "a", {"model": {"w": a}, "ema": {0: b}, "args": [a]}), {"model.w": a, "ema.0": b})


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_a_pickled_module_gives_its_parameters_and_buffers(tmp_path: Path, zipped: bool) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ModuleDict({"norm": nn.BatchNorm2d(3)}))
    assert equal(save(tmp_path / "a", network, _use_new_zipfile_serialization=zipped), dict(network.state_dict()))


def test_shared_storages_are_shared(tmp_path: Path) -> None:
    word = torch.randn(50, 4)
    view = save(tmp_path / "a", {"shared": word, "tied": word, "row": word[3]})
    assert view["shared"].data_ptr() == view["tied"].data_ptr()
    assert torch.equal(view["row"], word[3])
    assert (tmp_path / "a").stat().st_size < 2000 + 50 * 4 * 4


def test_classes_of_strangers_are_inert(tmp_path: Path) -> None:
    weight = torch.randn(2)
    path = tmp_path / "a"
    assert equal(save(path, {"state_dict": {"w": weight}, "x": Callback()}), {"w": weight})
    changed = path.read_bytes().replace(b"Callback", b"Missing_")  # as long, so that the archive stays valid
    assert b"Missing_" in changed
    path.write_bytes(changed)
    assert equal(Checkpoint(path), {"w": weight})


def test_a_sparse_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match="'odd' is sparse or quantised"):
        save(tmp_path / "a", {"w": torch.ones(2), "odd": torch.eye(3).to_sparse()})


def test_a_file_without_tensors_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match="holds a pickled .*Callback"):
        save(tmp_path / "a", Callback())
