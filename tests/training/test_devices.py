"""Training on an accelerator: every update happens there, and nobody waits for a number of it.

PyTorch's meta device stands in for one: it refuses to be mixed with the CPU, and has no numbers to give.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_adapter
import test_autoencoder
import test_clip
import test_diffusion
import torch
from test_judge import tiny
from tiny import random_run, silent
from torch import Tensor, nn

import maquette
from maquette.engine.text import TextEncoder
from maquette.errors import MaquetteError
from maquette.training import degradation
from maquette.training import learner as module
from maquette.training.adapter import AdapterTask
from maquette.training.autoencoder import AutoencoderRecipe, AutoencoderTask
from maquette.training.clip import CLIPRecipe, CLIPTask
from maquette.training.diffusion import DiffusionRecipe, DiffusionTask
from maquette.training.export import export
from maquette.training.judge import JudgeRecipe, JudgeTask
from maquette.training.learner import Learner, OptimiserSpec
from maquette.training.loop import Loop
from maquette.training.parts import Parts
from maquette.training.recipe import Settings
from maquette.training.stream import SceneStream

THERE = torch.device("meta")
OPTIMISER = OptimiserSpec(warmup=2, ema=0.9)


def clip(tmp_path: Path) -> tuple[CLIPTask, Any]:
    told = CLIPRecipe(steps=9, batch=4, optimiser=OPTIMISER)
    return CLIPTask(told, test_clip.TEXT, test_clip.IMAGE, test_clip.TOKENIZER, 0, "bfloat16", THERE), test_clip.pairs()


def autoencoder(tmp_path: Path) -> tuple[AutoencoderTask, Any]:
    told = AutoencoderRecipe(steps=9, batch=2, refine_from=0, crops=3, crop=32, optimiser=OPTIMISER)
    spec, features = test_autoencoder.SPEC, test_autoencoder.tower
    return AutoencoderTask(told, spec, 0, "bfloat16", features, THERE), test_autoencoder.batch(3)


def diffusion(tmp_path: Path) -> tuple[DiffusionTask, Any]:
    run = random_run(tmp_path / "run")
    told = DiffusionRecipe(steps=9, batch=4, optimiser=OPTIMISER)
    text, vae = (network.to(THERE, torch.bfloat16) for network in (run.clip().text, run.vae()))
    parts = Parts(text, run.words, vae, 0.5, THERE)
    return DiffusionTask(told, run.recipe.shapes.unet, 0, "bfloat16", parts), test_diffusion.batch(4)


def judge(tmp_path: Path) -> tuple[JudgeTask, Any]:
    try:
        batch = SceneStream(5, maps=True).batch(0, 4)
    except MaquetteError as error:
        pytest.skip(str(error))
    return JudgeTask(JudgeRecipe(steps=9, batch=4, optimiser=OPTIMISER), tiny(), 0, "bfloat16", THERE), batch


def adapter(tmp_path: Path) -> tuple[AdapterTask, Any]:
    batch = test_adapter.drawn(0, 4)
    model = maquette.open(export(random_run(tmp_path / "run"), tmp_path / "model"), device="cpu", dtype="bfloat16")
    (encoder,) = model.encoders
    assert isinstance(encoder, TextEncoder)
    for network in (model.network, model.first_stage.vae, encoder.tower):
        network.to(THERE)
    return AdapterTask(test_adapter.recipe(steps=9), model, 0, "bfloat16"), batch


@pytest.mark.parametrize("stage", [clip, autoencoder, diffusion, judge, adapter])
def test_an_update_stays_on_the_accelerator_and_waits_for_nothing(
    stage: Callable[[Path], tuple[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(degradation, "_there", lambda generator, device: None)  # meta has no generators
    task, batch = stage(tmp_path)
    for step in (1, 2):
        figures = task.update(step, batch)
        assert {value.device for value in figures.values()} == {THERE}
    assert {tensor.device for tensor in task.state().values()} == {THERE}
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        float(figures["loss"])  # it would have been noticed


def test_clipping_there_is_clipping_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way without waiting, taken with real numbers."""
    learners = []
    for way in ("number", "tensor"):
        torch.manual_seed(0)
        network = nn.Linear(5, 3)
        learner = Learner(network, OptimiserSpec(clip=0.1, warmup=0), 9, "float32")
        with monkeypatch.context() as patch:
            if way == "tensor":
                patch.setattr(module, "figure", Tensor.detach)
            for step in range(3):
                network(torch.ones(2, 5)).square().sum().backward()
                norm = learner.update(step)
            assert isinstance(norm, Tensor) is (way == "tensor")
        learners.append(learner)
    for a, b in zip(*(learner.masters for learner in learners), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


class Late:
    """A task whose figures are tensors, and whose weights become NaN at step 30 unnoticed."""

    name = "late"

    def __init__(self) -> None:
        self.weight = torch.zeros(2)

    def update(self, step: int, batch: object) -> dict[str, Tensor]:
        if step == 30:
            self.weight += float("nan")
        return {"loss": self.weight.sum()}

    def state(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    def load(self, state: dict[str, Tensor]) -> None:
        self.weight.copy_(state["weight"])

    def show(self, step: int, folder: Path) -> None: ...


@pytest.mark.parametrize(("save_every", "told"), [(1000.0, "the loss became nan at step 49"), (0.0, "not finite")])
def test_a_loss_that_nobody_waited_for_is_found_before_it_is_saved(
    save_every: float, told: str, tmp_path: Path
) -> None:
    loop = Loop(Late(), tmp_path, 100, 1000, silent(), save_every)
    with pytest.raises(MaquetteError, match=told):
        loop.run(0, iter(range(100)))
    assert loop.resume() == (30 if save_every == 0 else 0)
    assert bool(loop.task.state()["weight"].isfinite().all()) or save_every > 0


def test_an_unknown_device_is_told_in_a_line() -> None:
    for name in ("gpu", "cuda:77"):
        with pytest.raises(MaquetteError, match=f"the device '{name}' cannot be used .*; name another one"):
            Settings(name="x", device=name).set_up()
