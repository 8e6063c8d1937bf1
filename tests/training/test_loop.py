"""The loop: what is saved, shown and logged, and that it stops and goes on without a trace."""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from tiny import silent
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.training import loop as module
from maquette.training.checkpoint import newest
from maquette.training.figures import NonFinite, finite
from maquette.training.loop import Loop, TimeIsUp, generator


class Walk:
    """A task that adds its batches and a little noise up; `bad` is the step whose loss is NaN."""

    name = "walk"

    def __init__(self, bad: int | None = None) -> None:
        self.place, self.bad = torch.zeros(3), bad
        self.seen: list[int] = []
        self.shown: list[tuple[int, Path]] = []

    def update(self, step: int, batch: int) -> Mapping[str, float]:
        if step == self.bad:
            finite(torch.tensor(float("nan")), "loss", step)
        self.seen.append(batch)
        self.place += batch * torch.rand(3, generator=generator(0, step))
        return {"loss": float(self.place.sum())}

    def state(self) -> dict[str, Tensor]:
        return {"place": self.place}

    def load(self, state: dict[str, Tensor]) -> None:
        self.place.copy_(state["place"])

    def show(self, step: int, folder: Path) -> None:
        self.shown.append((step, folder))


def walk(folder: Path, task: Walk, steps: int = 60, save_every: float = 0.0, stop: int | None = None) -> Loop[int]:
    """Go on in the folder, until Ctrl-C instead of batch `stop`."""
    loop = Loop(task, folder, steps, 20, silent(), save_every)
    start = loop.resume()
    loop.run(start, batches(start, stop))
    return loop


def batches(start: int, stop: int | None) -> Iterator[int]:
    for k in itertools.count(start):
        if k == stop:
            raise KeyboardInterrupt
        yield k


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def unbroken(tmp_path: Path) -> Walk:
    task = Walk()
    walk(tmp_path / "unbroken", task)
    return task


def test_every_batch_is_used_once_and_in_order(unbroken: Walk, tmp_path: Path) -> None:
    assert unbroken.seen == [*range(60)]
    assert unbroken.shown == [(step, tmp_path / "unbroken/samples") for step in (20, 40, 60)]
    assert logged(tmp_path / "unbroken") == [25, 50]
    found, _ = newest(tmp_path / "unbroken/checkpoints")
    assert found is not None and found.step == 60 and torch.equal(found.tensors["place"], unbroken.place)


@pytest.mark.parametrize("stops", [(1,), (31,), (7, 8, 59)])
def test_stopped_and_resumed_it_is_the_unbroken_walk(unbroken: Walk, stops: tuple[int, ...], tmp_path: Path) -> None:
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            walk(tmp_path, Walk(), stop=stop)
    last = Walk()
    walk(tmp_path, last)
    assert torch.equal(last.place, unbroken.place)
    assert last.seen == [*range(stops[-1], 60)]
    assert logged(tmp_path) == [25, 50]


def test_between_two_checkpoints_steps_are_done_again_and_logged_once(unbroken: Walk, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path, Walk(), stop=20)
    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path, Walk(), stop=55, save_every=1000.0)
    assert logged(tmp_path) == [25, 50]
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 75, "ti')  # killed here
    last = Walk()
    walk(tmp_path, last)
    assert last.seen == [*range(20, 60)] and torch.equal(last.place, unbroken.place)
    assert logged(tmp_path) == [25, 50]


def test_ctrl_c_says_where_it_goes_on(tmp_path: Path) -> None:
    loop = Loop(Walk(), tmp_path, 60, 20, silent(), 0.0)
    with pytest.raises(KeyboardInterrupt):
        loop.run(0, batches(0, 12))
    assert "walk: stopped; --resume goes on from step 12" in loop.console.file.getvalue()


def test_saves_follow_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, saved = Walk(), []
    monkeypatch.setattr(module.time, "monotonic", lambda: 10.0 * len(task.seen))  # a step takes ten seconds
    monkeypatch.setattr(Loop, "_save", lambda self, step: saved.append(step))
    Loop(task, tmp_path, 23, 100, silent(), 45.0).run(0, itertools.count())
    assert saved == [5, 10, 15, 20, 23]


def test_at_its_time_it_saves_and_goes_on_later(unbroken: Walk, tmp_path: Path, monkeypatch) -> None:
    task = Walk()
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "monotonic", lambda: 10.0 * len(task.seen))
        with pytest.raises(TimeIsUp, match="walk: the time is up; --resume goes on from step 13"):
            Loop(task, tmp_path, 60, 20, silent(), 1000.0, deadline=125.0).run(0, itertools.count())
    last = Walk()
    walk(tmp_path, last)
    assert last.seen == [*range(13, 60)] and torch.equal(last.place, unbroken.place)


def test_nan_stops_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    expected = r"walk: the loss became nan at step 17; stopped\. The last good checkpoint is that of step 17 in .*"
    with pytest.raises(MaquetteError, match=expected + ": lower the learning rate, then go on with --resume"):
        walk(tmp_path, Walk(bad=17))
    found, _ = newest(tmp_path / "checkpoints")
    assert found is not None and found.step == 17 and bool(found.tensors["place"].isfinite().all())
    again = Walk()
    walk(tmp_path, again)
    assert again.seen == [*range(17, 60)]


def test_nan_before_any_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match="There is no checkpoint in .* yet"):
        walk(tmp_path, Walk(bad=0))


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(unbroken: Walk, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path, Walk(), stop=30)
    (tmp_path / "checkpoints/step-00000030.safetensors").write_bytes(b"broken")
    task = Walk()
    loop = walk(tmp_path, task)
    said = loop.console.file.getvalue()
    assert "step-00000030.safetensors: the checkpoint is damaged" in said
    assert "walk: falling back to step 29" in said
    assert task.seen == [*range(29, 60)] and torch.equal(task.place, unbroken.place)


def test_a_finished_walk_is_left_alone(unbroken: Walk, tmp_path: Path) -> None:
    task = Walk()
    walk(tmp_path / "unbroken", task)
    assert task.seen == [] and torch.equal(task.place, unbroken.place)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_only_finite_numbers_pass(value: str) -> None:
    with pytest.raises(NonFinite, match=f"the loss became {value} at step 3"):
        finite(torch.tensor(float(value)), "loss", 3)
    assert finite(torch.tensor(1.5), "loss", 3) == 1.5


def test_random_numbers_differ_by_seed_step_and_purpose() -> None:
    draws = {
        float(torch.rand(1, generator=generator(seed, step, purpose)))
        for seed, step, purpose in itertools.product(range(3), range(5), range(4))
    }
    assert len(draws) == 60
    assert torch.equal(torch.rand(4, generator=generator(7, 8, 9)), torch.rand(4, generator=generator(7, 8, 9)))
