"""Sketches: what they should be, that the tower learns them, and that it alone is kept."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import TEXTS, random_run

from maquette.models.clip import CLIPText
from maquette.training.latents import LatentBatch, boxes
from maquette.training.learner import OptimiserSpec
from maquette.training.parts import Parts
from maquette.training.run import Run
from maquette.training.scenes import MOST_THINGS, Background, Scene, Thing
from maquette.training.sketch import SIDE, SketchRecipe, SketchTask, wanted


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return random_run(tmp_path_factory.mktemp("sketch") / "run")


def task(run: Run, **told: Any) -> SketchTask:
    recipe = SketchRecipe(**{"steps": 60, "optimiser": OptimiserSpec(rate=3e-3, warmup=2, ema=0.9), **told})
    return SketchTask(recipe, 0, "float32", Parts(run.clip().text, run.words, run.vae(), scale=0.5))


def batch() -> LatentBatch:
    """Four captions, the latents that belong to them, with one thing or two."""
    generator = torch.Generator().manual_seed(0)
    places = torch.tensor([[[2, 4, 6], [0, 0, 0], [0, 0, 0]], [[0, 0, 6], [9, 9, 7], [0, 0, 0]]] * 2, dtype=torch.int16)
    return LatentBatch(torch.randn(4, 4, 16, 16, generator=generator), list(TEXTS), places)


def test_things_are_told_from_the_left_and_from_the_top() -> None:
    things = (Thing(5, 48, 72, 40), Thing(3, 56, 8, 32))
    found = boxes([Scene(things, Background("white"), "right of"), Scene(things[:1], Background("white"))], 8)
    assert found.shape == (2, MOST_THINGS, 3)
    assert found[0].tolist() == [[1, 4, 7], [9, 5, 6], [0, 0, 0]] and found[1, 0].tolist() == [9, 5, 6]


def test_what_is_wanted_are_the_latents_in_the_boxes() -> None:
    drawn = batch()
    assert drawn.boxes is not None
    told = wanted(drawn.latents, drawn.boxes)
    latents = told.latents.unflatten(2, (4, SIDE, SIDE))
    cut = drawn.latents[0, :, 4:10, 2:8]  # x = 2, y = 4
    torch.testing.assert_close(latents[0, 1], F.interpolate(cut[None], SIDE, mode="area")[0])
    assert told.there.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]] * 2 and not latents[0, 2:].any()
    torch.testing.assert_close(latents[1, 2].mean(), drawn.latents[1, :, 9:16, 9:16].mean(), atol=0.05, rtol=0)
    np.testing.assert_allclose(told.boxes[1], [[0, 0, 2], [-5 / 8, -5 / 8, 3 / 4], [9 / 16, 9 / 16, 7 / 8], [0, 0, 0]])


def test_the_loss_counts_only_things_that_are_there(run: Run) -> None:
    learning, drawn = task(run, box=2.0), batch()
    assert drawn.boxes is not None
    with torch.no_grad():
        latents, places = learning.sketch(learning.parts.states(drawn.captions))
    told = wanted(0.5 * drawn.latents, drawn.boxes)
    errors = (latents - told.latents).square().mean(2)
    things = torch.cat([errors[0, 1:2], errors[1, 1:3], errors[2, 1:2], errors[3, 1:3]]).mean()
    expected = errors[:, 0].mean() + things + 2.0 * (places - told.boxes).square().mean()
    assert learning.update(0, drawn)["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_four_captions_are_learned_and_the_tower_alone_is_kept(run: Run) -> None:
    learning = task(run)
    losses = [learning.update(step, batch())["loss"] for step in range(50)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    tower = CLIPText(run.text_spec)
    tower.load_state_dict(learning.best())
    ids = torch.tensor(learning.parts.tokenizer(TEXTS))
    with torch.no_grad(), learning.learner.averaged():
        assert torch.equal(tower(ids).last, learning.parts.states(TEXTS))


def test_what_is_shown_is_a_row_of_pictures_and_rows_of_things(run: Run, tmp_path) -> None:
    task(run).show(3, tmp_path)
    with Image.open(tmp_path / "00000003.png") as sheet:
        assert sheet.size == (16 * SIDE * 8, (1 + MOST_THINGS) * SIDE * 8)
