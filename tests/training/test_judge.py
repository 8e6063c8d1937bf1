"""Training the judge: its labels, the damage done to its pictures, that it learns, and that it can be kept."""

import itertools
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from maquette.errors import MaquetteError
from maquette.models.judge import JudgeSpec
from maquette.training import emoji, judge
from maquette.training.checkpoint import Checkpoint, save
from maquette.training.degradation import BLOCK, blurred, degrade, quantised
from maquette.training.drawing import semantic_map
from maquette.training.judge import JudgeRecipe, JudgeTask, labels, load_judge, save_judge
from maquette.training.learner import OptimiserSpec
from maquette.training.loop import generator
from maquette.training.scenes import sample_scene
from maquette.training.stream import Batch, SceneStream
from maquette.training.words import BACKGROUNDS, RECOLOURS

TINY = {"widths": (8, 16, 16), "deep_blocks": 1, "background_width": 8}


pytestmark = pytest.mark.usefixtures("drawable")


def tiny() -> JudgeSpec:
    return JudgeSpec(emoji=len(emoji.catalogue()), recolours=len(RECOLOURS), backgrounds=len(BACKGROUNDS), **TINY)


def batch(count: int = 4) -> Batch:
    return SceneStream(5, maps=True).batch(0, count)


def test_labels_are_the_majority_of_each_cell_counted_pixel_by_pixel() -> None:
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(6)]
    maps = np.stack([semantic_map(scene) for scene in scenes])
    found = labels(scenes, maps)
    for k, scene in enumerate(scenes):
        recolours = {thing.emoji + 1: thing.recolour for thing in scene.things}
        for row in range(16):
            for column in range(16):
                cell = maps[k, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                values, counts = np.unique(cell[cell > 0], return_counts=True)
                if counts.sum() < 16:
                    assert found.emoji[k, row, column] == found.recolour[k, row, column] == 0
                    continue
                label = int(found.emoji[k, row, column])
                assert counts[values == label] == counts.max()
                assert (None, *RECOLOURS)[found.recolour[k, row, column]] == recolours[label]
        names = [tuple(BACKGROUNDS)[label] for label in found.backdrop[k, :2].tolist()]
        assert tuple(dict.fromkeys(names)) == scene.background.colours


def test_quantising_rounds_the_coefficients_of_the_cosine_transform() -> None:
    x = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    step = torch.tensor([0.3, 0.0]).view(2, 1, 1, 1)
    found = quantised(x, step)
    torch.testing.assert_close(found[1], x[1], rtol=0, atol=0)
    for v in range(BLOCK):
        for u in range(BLOCK):
            wave = [
                [math.cos(math.pi * v * (2 * i + 1) / 16) * math.cos(math.pi * u * (2 * j + 1) / 16) for j in range(8)]
                for i in range(8)
            ]
            scale = (0.5 if v else math.sqrt(1 / 8)) * (0.5 if u else math.sqrt(1 / 8))
            unit = 0.3 * (1 + u + v) / 8
            before, after = (scale * float((torch.tensor(wave) * p[0, 1, 8:, 16:]).sum()) for p in (x, found))
            assert after == pytest.approx(round(before / unit) * unit, abs=1e-5)


def test_blurring_keeps_the_mean_of_what_is_flat_and_spreads_a_point() -> None:
    point = torch.zeros(1, 1, 9, 9)
    point[0, 0, 4, 4] = 1
    line = torch.tensor([0, 0, 1, 4, 6, 4, 1, 0, 0]) / 16
    torch.testing.assert_close(blurred(point)[0, 0], line[:, None] * line)
    torch.testing.assert_close(blurred(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_damage_depends_on_the_generator_alone_and_is_slight() -> None:
    x = torch.from_numpy(batch(8).pictures).permute(0, 3, 1, 2) / 127.5 - 1
    once, again = (degrade(x.clone(), generator(0, 7)) for _ in range(2))
    assert torch.equal(once, again)
    assert not torch.equal(once, degrade(x, generator(0, 8)))
    error = (once - x).abs().mean((1, 2, 3))
    assert 0 < float(error.max()) < 0.2


def test_the_judge_learns_a_few_scenes_by_heart() -> None:
    optimiser = OptimiserSpec(rate=1e-2, warmup=5)
    task = JudgeTask(JudgeRecipe(steps=50, batch=4, optimiser=optimiser), tiny(), 0, "float32")
    told = batch()
    figures = [task.update(step, told) for step in range(50)]
    assert figures[0]["object"] < 0.2
    assert sum(each["object"] for each in figures[-5:]) / 5 > 0.9
    assert sum(each["background"] for each in figures[-5:]) / 5 > 0.9


def test_a_resumed_judge_goes_on_bit_for_bit() -> None:
    recipe, told = JudgeRecipe(steps=4, batch=4), batch()
    whole, broken, resumed = (JudgeTask(recipe, tiny(), 3, "bfloat16") for _ in range(3))
    for step in range(4):
        whole.update(step, told)
    for step in range(2):
        broken.update(step, told)
    resumed.load({name: tensor.clone() for name, tensor in broken.state().items()})
    for step in range(2, 4):
        resumed.update(step, told)
    for name, tensor in whole.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name


def test_a_saved_judge_is_the_same_up_to_half_precision(tmp_path: Path) -> None:
    task = JudgeTask(JudgeRecipe(steps=1), tiny(), 0, "float32")
    save_judge(tmp_path, tiny(), task.learner.best(), {"seed": 0})
    loaded = load_judge(tmp_path)
    assert loaded.spec == tiny()
    kept, state = loaded.state_dict(), task.learner.best()
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[name], state[name].bfloat16().float()) for name in state)


def test_a_judge_of_another_catalogue_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_judge(tmp_path, tiny(), JudgeTask(JudgeRecipe(steps=1), tiny(), 0, "float32").learner.best(), {})
    monkeypatch.setattr(judge, "fingerprint", lambda: "another")
    with pytest.raises(MaquetteError, match="another version of the emoji font"):
        load_judge(tmp_path)
    with pytest.raises(MaquetteError, match="is missing"):
        load_judge(tmp_path / "nowhere")


@contextmanager
def in_this_process(stream: SceneStream, start: int, count: int, workers: int) -> Iterator[Iterator[Batch]]:
    """What `prefetched` yields, without other processes."""
    yield (stream.batch(first, count) for first in itertools.count(start, count))


def test_training_in_pieces_ends_as_training_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver: resumed from a checkpoint, it saves the same weights."""
    monkeypatch.setattr(judge, "judge_spec", tiny)
    monkeypatch.setattr(judge, "prefetched", in_this_process)
    recipe = JudgeRecipe(steps=3, batch=2)
    judge.train_judge(tmp_path / "whole", recipe, out=tmp_path / "a", precision="float32")
    task = JudgeTask(recipe, tiny(), judge.STREAM, "float32")
    for step in range(2):
        task.update(step, SceneStream(judge.STREAM, maps=True).batch(2 * step, 2))
    save(tmp_path / "pieces/checkpoints", Checkpoint(2, task.state(), {}))
    judge.train_judge(tmp_path / "pieces", recipe, out=tmp_path / "b", precision="float32")
    assert (tmp_path / "a/judge.safetensors").read_bytes() == (tmp_path / "b/judge.safetensors").read_bytes()
    assert json.loads((tmp_path / "b/config.json").read_text())["recipe"]["steps"] == 3


def test_most_steps_look_closely_at_crops_which_have_no_background_of_their_own() -> None:
    task = JudgeTask(JudgeRecipe(steps=4, batch=2, crops=4, crop=48, whole_every=2), tiny(), 0, "float32")
    told = batch()
    assert "background" in task.update(0, told)
    assert "background" not in task.update(1, told)
    scenes, pictures, maps = task._view(3, told)
    assert (scenes, pictures.shape, maps.shape) == (told.scenes, (4, 48, 48, 3), (4, 48, 48))
    for scene, found in zip(scenes, maps, strict=True):
        assert {thing.emoji + 1 for thing in scene.things} & set(np.unique(found).tolist())
