"""The latent model's training: what it is told and asked, that it learns, and that showing samples leaves no trace."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny import TEXTS, random_run

from maquette.diffusion.objective import Objective
from maquette.diffusion.prediction import PREDICTIONS
from maquette.training.diffusion import DROP, NOISE, TIME, DiffusionRecipe, DiffusionTask, process_of
from maquette.training.figures import NonFinite
from maquette.training.latents import LatentBatch
from maquette.training.learner import OptimiserSpec
from maquette.training.loop import generator
from maquette.training.parts import Parts
from maquette.training.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return random_run(tmp_path_factory.mktemp("diffusion") / "run")


def task(run: Run, precision: str = "float32", **told: Any) -> DiffusionTask:
    optimiser = OptimiserSpec(rate=3e-3, warmup=2, ema=0.9)
    recipe = DiffusionRecipe(**{"steps": 60, "batch": 4, "optimiser": optimiser, **told})
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    parts = Parts(run.clip().text.to(dtype), run.words, run.vae().to(dtype), scale=0.5)
    return DiffusionTask(recipe, run.recipe.shapes.unet, 0, precision, parts)


def batch(count: int = 4, seed: int = 0) -> LatentBatch:
    latents = 2 * torch.randn(count, 4, 1, 1, generator=torch.Generator().manual_seed(seed)).expand(-1, -1, 16, 16)
    return LatentBatch(latents.contiguous(), [TEXTS[k % 4] for k in range(count)])


@pytest.mark.parametrize(
    "told", [{}, {"prediction": "sample", "snr_cap": None}, {"prediction": "epsilon", "zero_terminal_snr": False}]
)
def test_the_loss_is_the_objectives(run: Run, told: dict[str, Any]) -> None:
    learning, drawn = task(run, drop=0.0, **told), batch()
    x0 = 0.5 * drawn.latents
    noise = torch.randn(x0.shape, generator=generator(0, 3, NOISE))
    t = learning.objective.draw_times(4, generator(0, 3, TIME))
    level = process_of(learning.recipe).at(t)
    with torch.no_grad():
        x = level.alpha * x0 + level.sigma * noise
        output = learning.unet(x, t, learning.condition(drawn.captions))
        error = (output - PREDICTIONS[learning.recipe.prediction].target(x0, noise, level)).square().flatten(1).mean(1)
    expected = (error * learning.objective.weights(level)).mean()
    assert learning.update(3, drawn)["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_text_tower_learns_only_if_asked(run: Run) -> None:
    told = {"optimiser": OptimiserSpec(rate=3e-3, warmup=1, ema=0.9)}
    for text in (None, OptimiserSpec(rate=3e-3, warmup=1, ema=0.9)):
        learning = task(run, text=text, drop=0.0, **told)
        before = {name: weight.clone() for name, weight in learning.parts.text.state_dict().items()}
        for step in range(3):  # the U-Net's last layers begin at zero: nothing comes through them at first
            figures = learning.update(step, batch())
        still = {name for name, weight in learning.parts.text.state_dict().items() if torch.equal(before[name], weight)}
        assert still == (before.keys() if text is None else {"projection.weight"})
        assert ("words" in figures) == (text is not None)


def test_a_learned_text_tower_is_saved_shown_and_taken_back(run: Run) -> None:
    first, second = (task(run, text=OptimiserSpec(rate=3e-3, warmup=1, ema=0.9), drop=0.0) for _ in range(2))
    first.update(0, batch())
    second.load({name: tensor.clone() for name, tensor in first.state().items()})
    with torch.no_grad():
        now, averaged = [learning.condition(["a cat"]).tokens for learning in (first, second)], []
        for learning in (first, second):
            with learning.averaged():
                averaged.append(learning.condition(["a cat"]).tokens)
    assert (
        torch.equal(now[0], now[1]) and torch.equal(averaged[0], averaged[1]) and not torch.equal(now[0], averaged[0])
    )


def test_times_cover_the_whole_way(run: Run) -> None:
    objective: Objective = task(run).objective
    t = objective.draw_times(64, generator(0, 0, TIME)).sort().values
    assert float(t[0]) < 32 and float(t[-1]) > 967 and float(t.diff().max()) < 40


@pytest.mark.parametrize("drop", [0.0, 0.3, 1.0])
def test_captions_are_dropped_at_the_rate_and_by_the_step(run: Run, drop: float, monkeypatch) -> None:
    learning, told = task(run, drop=drop), []
    condition = learning.condition
    monkeypatch.setattr(learning, "condition", lambda words: told.append(words) or condition(words))
    for step in range(25):
        learning.update(step, batch(8))
    words = [word for each in told for word in each]
    assert sum(word == "" for word in words) / len(words) == pytest.approx(drop, abs=0.08 if 0 < drop < 1 else 0)
    kept = (torch.rand(8, generator=generator(0, 7, DROP)) >= drop).tolist()
    assert told[7] == [text if keep else "" for text, keep in zip(batch(8).captions, kept, strict=True)]


def test_it_learns_four_latents(run: Run) -> None:
    learning = task(run, "bfloat16", drop=0.0)
    losses = [learning.update(step, batch())["loss"] for step in range(40)]
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:5])


def test_losses_by_time_are_told_every_25_steps(run: Run) -> None:
    learning = task(run)
    assert sorted(learning.update(23, batch())) == ["loss", "norm"]
    figures = learning.update(24, batch(16))
    bins = [figures[f"t{k}"] for k in range(4)]
    assert np.mean(bins) == pytest.approx(figures["loss"], rel=0.3) and min(bins) > 0


def test_samples_are_painted_by_the_average_and_leave_no_trace(run: Run, tmp_path) -> None:
    from PIL import Image

    learning, undisturbed = task(run), task(run)
    for step in range(3):
        learning.update(step, batch())
        undisturbed.update(step, batch())
    learning.show(3, tmp_path)
    with Image.open(tmp_path / "00000003.png") as sheet:
        assert sheet.size == (8 * 128, 2 * 128)
        first = np.asarray(sheet).copy()
    learning.show(4, tmp_path)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "00000004.png")), first)
    assert learning.update(3, batch()) == undisturbed.update(3, batch())
    expected = undisturbed.state()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in learning.state().items())


def test_nan_stops_before_any_weight_is_harmed(run: Run) -> None:
    learning = task(run)
    before = {name: tensor.clone() for name, tensor in learning.state().items()}
    bad = batch()
    bad.latents[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFinite, match="loss became nan at step 0"):
        learning.update(0, bad)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learning.state().items())


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"prediction": "epsilon"}, "pure noise is its own epsilon"),
        ({"pool": 3}, "the pool of 3 scenes does not fill a batch of 4"),
        ({"drop": 1.5}, "less than or equal to 1"),
        ({"prediction": "velocity"}, "'epsilon', 'sample' or 'v'"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused(told: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        DiffusionRecipe(**{"steps": 1, "batch": 4, **told})
