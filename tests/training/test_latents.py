"""The pool of latents: the same however often it was interrupted, refused to another first stage, new in each epoch."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.training import latents
from maquette.training.autoencoder import to_signed
from maquette.training.latents import Epochs, LatentBatch, LatentPool, Turns, chosen
from maquette.training.stream import Batch, SceneStream

SHAPE, SIZE, TOGETHER = (3, 4, 4), 22, 4
STREAM = SceneStream(3)


pytestmark = pytest.mark.usefixtures("drawable")


@pytest.fixture(autouse=True)
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute passes whenever the clock is looked at: every other batch is vouched for."""
    clock = itertools.count(0.0, 30.0)
    monkeypatch.setattr(latents, "time", SimpleNamespace(monotonic=lambda: next(clock)))


def encode(x: Tensor) -> Tensor:
    return 3 * F.avg_pool2d(x, 32)


def drawn(start: int) -> Iterator[Batch]:
    return (STREAM.batch(k, TOGETHER) for k in itertools.count(start, TOGETHER))


def pool(folder: Path, mark: str = "first", size: int = SIZE, seed: int = 3) -> LatentPool:
    return LatentPool(folder, SceneStream(seed), size, SHAPE, mark)


def filled(folder: Path) -> LatentPool:
    made = pool(folder)
    assert list(made.fill(drawn(made.filled), encode, to_signed))[-1:] in ([SIZE], [])
    return made


def rows(made: LatentPool) -> Tensor:
    """All latents and captions' order-free content: one epoch, sorted."""
    return torch.from_numpy(np.array(made._data, dtype=np.float32))


def test_it_holds_what_the_first_stage_makes_of_the_stream(tmp_path: Path) -> None:
    made = filled(tmp_path)
    expected = encode(to_signed(STREAM.batch(0, SIZE).pictures))
    assert torch.allclose(rows(made), expected, atol=2e-3) and made.filled == SIZE
    assert made.scale() == pytest.approx(1 / float(rows(made).double().std(correction=0)))


@pytest.mark.parametrize("stops", [(1,), (2,), (3,), (5, 1, 2)])
def test_filled_in_several_goes_it_is_the_same(stops: tuple[int, ...], tmp_path: Path) -> None:
    for stop in stops:
        made = pool(tmp_path / "twice")
        for _ in itertools.islice(made.fill(drawn(made.filled), encode, to_signed), stop):
            pass
        del made
    again = filled(tmp_path / "twice")
    assert torch.equal(rows(again), rows(filled(tmp_path / "once")))
    assert pool(tmp_path / "twice").filled == SIZE


def test_what_the_record_does_not_vouch_for_is_made_again(tmp_path: Path) -> None:
    made = pool(tmp_path)
    done = [*itertools.islice(made.fill(drawn(0), encode, to_signed), 3)]
    assert done == [4, 8, 12] and pool(tmp_path).filled == 8


@pytest.mark.parametrize("harm", [os.remove, lambda path: os.truncate(path, 100)], ids=["missing", "cut short"])
def test_a_damaged_pool_is_filled_anew(harm, tmp_path: Path) -> None:
    expected = rows(filled(tmp_path))
    harm(tmp_path / "latents.f16")
    assert pool(tmp_path).filled == 0
    assert pool(tmp_path).filled == 0  # killed at once: the record must not vouch for zeros
    assert torch.equal(rows(filled(tmp_path)), expected)


@pytest.mark.parametrize("other", [{"mark": "second"}, {"size": 23}, {"seed": 4}])
def test_the_pool_of_another_first_stage_or_stream_is_refused(other: dict, tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(
        MaquetteError, match="holds the latents of another first stage, stream or font; remove the folder"
    ):
        pool(tmp_path, **other)


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({"filled": 3})])
def test_a_damaged_record_is_refused(content: str, tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "latents.json").write_text(content)
    with pytest.raises(MaquetteError, match="holds the latents of another"):
        pool(tmp_path)


def test_a_disk_without_room_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(
        MaquetteError, match="no room for .* MiB of latents .*; free some space, or make the pool smaller"
    ):
        pool(tmp_path, size=1 << 45)
    assert not list(tmp_path.glob("*"))


def learned(made: LatentPool, start: int, seed: int) -> Iterator[LatentBatch]:
    """What the updates from `start` on are given, five latents each."""
    epochs = made.epochs(seed)
    return chosen((epochs.batch(5 * step, 5) for step in itertools.count(start)), made)


def epoch(made: LatentPool, number: int, seed: int = 0) -> tuple[Tensor, list[str]]:
    count = SIZE // 5
    found = [*itertools.islice(learned(made, number * count, seed), count)]
    return torch.cat([b.latents for b in found]), [text for b in found for text in b.captions]


def test_an_epoch_shows_each_latent_once_in_a_new_order_and_in_new_words(tmp_path: Path) -> None:
    made = filled(tmp_path)
    everything = {tuple(row.flatten().tolist()) for row in rows(made)}
    orders, words = [], []
    for number in range(3):
        shown, captions = epoch(made, number)
        keys = [tuple(row.flatten().tolist()) for row in shown]
        assert len(set(keys)) == len(keys) == 20 and set(keys) <= everything
        orders.append(keys)
        words.append(dict(zip(keys, captions, strict=True)))
    assert orders[0] != orders[1] != orders[2]
    both = words[0].keys() & words[1].keys()
    assert sum(words[0][key] != words[1][key] for key in both) > len(both) / 2
    languages = [text.isascii() for each in words for text in each.values()]
    assert 0.25 < sum(languages) / len(languages) < 0.75


def test_batches_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    made = filled(tmp_path)
    whole = [*itertools.islice(learned(made, 0, 1), 11)]
    late = [*itertools.islice(learned(pool(tmp_path), 6, 1), 5)]
    for a, b in zip(whole[6:], late, strict=True):
        assert torch.equal(a.latents, b.latents) and a.captions == b.captions
    assert not torch.equal(next(learned(made, 0, 2)).latents, whole[0].latents)


def test_captions_are_of_the_scene_whose_latent_is_shown(tmp_path: Path) -> None:
    made = filled(tmp_path)
    for number in range(2):
        shown, captions = epoch(made, number)
        for latent, text in zip(shown, captions, strict=True):
            row = next(k for k, each in enumerate(rows(made)) if torch.equal(each, latent))
            assert made.epochs(0).caption(STREAM.item(row)[0], row, number) == text


def test_close_ups_and_whole_scenes_take_turns_and_lose_nothing() -> None:
    whole, close = Epochs(STREAM, 12, 0), Epochs(SceneStream(3, close=True), 15, 0)
    turns = Turns(whole, 4, close, 5, whole_every=3, whole_from=7)
    found = [turns.batch(step) for step in range(10)]
    assert [choice.close for choice in found] == [False, True, True] * 2 + [False] * 4
    for part, source, count in ((False, whole, 4), (True, close, 5)):
        mine = [choice for choice in found if choice.close is part]
        assert [choice[:2] for choice in mine] == [source.batch(k * count, count)[:2] for k in range(len(mine))]


def test_without_close_ups_every_update_sees_whole_scenes() -> None:
    whole = Epochs(STREAM, 12, 0)
    assert [Turns(whole, 4).batch(step) for step in range(5)] == [whole.batch(4 * step, 4) for step in range(5)]
