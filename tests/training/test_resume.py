"""A run that was broken off, by Ctrl-C or by SIGKILL, ends bit for bit as the unbroken one."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import test_autoencoder
import test_clip
import test_diffusion
import torch
from killing import result, train_killed
from tiny import STEPS, random_run, silent, write_recipe
from torch import Tensor

from maquette.training.loop import Loop, Task

LENGTH = 7


@dataclass(frozen=True)
class Stage:
    """How to make the task of a stage anew, and its batch of each step."""

    task: Callable[[], Task[Any]]
    batch: Callable[[int], Any]


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    run = random_run(tmp_path_factory.mktemp("resume") / "run")
    refined = {"steps": LENGTH, "crops": 3, "crop": 32, "freeze_encoder_from": 3, "refine_from": 4}
    return {
        "autoencoder": Stage(
            lambda: test_autoencoder.task(precision="bfloat16", **refined), lambda k: test_autoencoder.batch(3, k)
        ),
        "clip": Stage(lambda: test_clip.task("bfloat16", LENGTH), test_clip.pairs),
        "diffusion": Stage(
            lambda: test_diffusion.task(run, "bfloat16", steps=LENGTH), lambda k: test_diffusion.batch(4, k)
        ),
    }


def go_on(stage: Stage, folder: Path, stop: int | None = None) -> dict[str, Tensor]:
    """Train from the newest checkpoint to the end, or until Ctrl-C instead of batch `stop`; the state then."""
    task = stage.task()
    torch.manual_seed(hash(stop) & 0xFFFF)  # nothing may hang on the global generator
    loop = Loop(task, folder, LENGTH, 4, silent(), 0.0)
    start = loop.resume()
    loop.run(start, batches(stage, start, stop))
    return {name: tensor.clone() for name, tensor in task.state().items()}


def batches(stage: Stage, start: int, stop: int | None) -> Iterator[Any]:
    for k in itertools.count(start):
        if k == stop:
            raise KeyboardInterrupt
        yield stage.batch(k)


@pytest.fixture(scope="module")
def unbroken(stages: dict[str, Stage], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    return {name: go_on(stage, tmp_path_factory.mktemp(name)) for name, stage in stages.items()}


BREAKS = [
    *(("autoencoder", k) for k in (1, 3, 4, 6)),  # before, at and after the encoder freezes and the critic begins
    *(("clip", k) for k in (2, 5)),
    *(("diffusion", k) for k in (2, 5)),
]


@pytest.mark.parametrize(("name", "stop"), BREAKS)
def test_each_stage_goes_on_bit_for_bit(
    name: str, stop: int, stages: dict[str, Stage], unbroken: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        go_on(stages[name], tmp_path, stop)
    state = go_on(stages[name], tmp_path)
    assert state.keys() == unbroken[name].keys()
    assert [key for key, tensor in state.items() if not torch.equal(tensor, unbroken[name][key])] == []


def test_killed_three_times_and_resumed_it_is_the_unbroken_run(trained: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "tiny.toml", precision="bfloat16", save_every=0)
    total = sum(STEPS.values())
    folder = tmp_path / "run"
    folder.mkdir()
    kills = list(train_killed(recipe, folder, (1, total // 2, total - 3), seed=0))
    assert len(kills) == 3 and not any("finished" in kill for kill in kills)
    assert "tmp" in kills[1]  # while a file was being written
    assert result(folder) == result(trained)
    assert not list(folder.rglob(".*.tmp"))
