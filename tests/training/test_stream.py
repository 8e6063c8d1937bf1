"""The stream of examples: the same item whatever the batch, in this process or another, and no process left behind."""

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

from maquette.errors import MaquetteError
from maquette.training import drawing
from maquette.training.stream import SceneStream, prefetched, processors

pytestmark = pytest.mark.usefixtures("drawable")


def test_items_depend_on_seed_and_number_only() -> None:
    stream = SceneStream(seed=4, maps=True)
    whole, late = stream.batch(10, 12), stream.batch(15, 3)
    assert late.captions == whole.captions[5:8]
    assert late.scenes == whole.scenes[5:8]
    assert np.array_equal(late.pictures, whole.pictures[5:8])
    assert late.maps is not None and whole.maps is not None and np.array_equal(late.maps, whole.maps[5:8])
    assert SceneStream(seed=5).batch(10, 12).captions != whole.captions


def test_batches_hold_both_languages_and_what_the_scenes_draw() -> None:
    batch = SceneStream(seed=1).batch(0, 8)
    assert batch.pictures.shape == (8, 128, 128, 3) and batch.pictures.dtype == np.uint8 and batch.maps is None
    assert [text.isascii() or "ñ" in text for text in batch.captions] == [True, False] * 4
    assert all(np.array_equal(p, drawing.draw(s)) for p, s in zip(batch.pictures, batch.scenes, strict=True))


@pytest.mark.parametrize("workers", [1, 3])
def test_background_processes_give_the_same_batches_in_order_and_end(workers: int) -> None:
    stream = SceneStream(seed=2)
    with prefetched(stream, start=6, count=3, workers=workers, ahead=2) as batches:
        drawn = [next(batches) for _ in range(4)]
    assert multiprocessing.active_children() == []
    assert [batch.start for batch in drawn] == [6, 9, 12, 15]
    expected = stream.batch(6, 12)
    assert [text for batch in drawn for text in batch.captions] == expected.captions
    assert np.array_equal(np.concatenate([batch.pictures for batch in drawn]), expected.pictures)


def test_an_error_in_the_background_is_raised_here() -> None:
    bad = SceneStream(seed=2, split="nonsense")  # type: ignore[arg-type]
    with prefetched(bad, 0, 2) as batches, pytest.raises(MaquetteError, match="nonsense"):
        next(batches)
    assert multiprocessing.active_children() == []


def test_a_killed_background_process_is_noticed() -> None:
    with prefetched(SceneStream(seed=2), 0, 2, workers=2, ahead=1) as batches:
        next(batches)
        multiprocessing.active_children()[-1].kill()
        with pytest.raises(MaquetteError, match="killed"):
            for _ in range(50):
                next(batches)


def test_scenes_travel_only_where_they_are_asked_for() -> None:
    whole, light = (SceneStream(2, scenes=scenes).batch(3, 2) for scenes in (True, False))
    assert light.scenes == [] and len(whole.scenes) == 2
    assert light.captions == whole.captions and np.array_equal(light.pictures, whole.pictures)


def test_two_cores_draw_with_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 1), (2, 1), (16, 15), (64, 16)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cores=cores: range(cores), raising=False)
        assert processors() == expected


def test_drawing_never_imports_torch() -> None:
    code = "import sys, maquette.training.stream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
