"""The adapter for semantic maps: that it learns beside a frozen model, can be resumed, opened and followed."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import random_run, silent
from torch import Tensor

import maquette
from maquette.engine.build import outline, parameters
from maquette.engine.control import open_control
from maquette.engine.control_fit import check_control
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.models.t2i_adapter import T2IAdapter, T2IAdapterSpec
from maquette.training import adapter as module
from maquette.training import palette as palette_module
from maquette.training import run as driver
from maquette.training.adapter import AdapterRecipe, AdapterTask, map_examples, maps_of, paint_maps, to_unit
from maquette.training.checkpoint import Checkpoint, save
from maquette.training.diffusion import DROP, NOISE, TIME
from maquette.training.evaluate import Setting
from maquette.training.export import export
from maquette.training.learner import OptimiserSpec
from maquette.training.loop import generator
from maquette.training.palette import Palette, palette
from maquette.training.recipe import AdapterSettings, read_recipe
from maquette.training.scenes import is_held_out
from maquette.training.semantic import MapBatch, MapStream
from maquette.training.stream import SceneStream

SHAPE = T2IAdapterSpec(widths=(16, 32), factor=16, form="xl")  # fits the U-Net of the tiny recipe
SETTING = Setting(guidance=2.0, sampler="ddim", steps=2, schedule="trailing")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    return export(random_run(folder / "run"), folder / "model")


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Model:
    return maquette.open(model_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def batch() -> MapBatch:
    return drawn(0, 4)


def drawn(start: int, count: int) -> MapBatch:
    try:
        return MapStream(SceneStream(5)).batch(start, count)
    except MaquetteError as error:
        pytest.skip(str(error))


def recipe(**told: Any) -> AdapterRecipe:
    return AdapterRecipe(**{"steps": 4, "batch": 4, "shape": SHAPE, "optimiser": OptimiserSpec(warmup=2), **told})


def test_the_loss_is_that_of_the_model_with_the_adapters_features(model: Model, batch: MapBatch) -> None:
    task = AdapterTask(recipe(drop=0.5), model, 0, "float32")
    x0 = model.encode(torch.from_numpy(batch.pictures).permute(0, 3, 1, 2) / 127.5 - 1)
    noise = torch.randn(x0.shape, generator=generator(0, 3, NOISE))
    t = task.objective.draw_times(4, generator(0, 3, TIME))
    level = model.process.at(t.view(-1, 1, 1, 1))
    kept = torch.rand(4, generator=generator(0, 3, DROP)) >= 0.5
    told = model.condition([text if keep else "" for text, keep in zip(batch.captions, kept.tolist(), strict=True)])
    assert 0 < kept.sum() < 4
    with torch.no_grad():
        features = task.adapter(torch.from_numpy(batch.maps).permute(0, 3, 1, 2) / 255)
        x = level.alpha * x0 + level.sigma * noise
        output = model.network(x, t, replace(told, features=features))
        losses = (output - model.prediction.target(x0, noise, level)).square().flatten(1).mean(1)
        expected = (losses * task.objective.weights(level)).mean()
    assert task.update(3, batch)["loss"] == pytest.approx(float(expected), rel=1e-4)


def test_it_learns_and_the_model_stays_as_it_is(model: Model, batch: MapBatch) -> None:
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    task = AdapterTask(recipe(steps=30, optimiser=OptimiserSpec(rate=3e-3, warmup=2)), model, 0, "float32")
    losses = [task.update(step, batch)["loss"] for step in range(12)]
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:2])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_a_shape_that_does_not_fit_the_model_is_refused(model: Model) -> None:
    with pytest.raises(MaquetteError, match=r"\[adapter\.shape\]: was made for another model .* scale of each feature"):
        AdapterTask(recipe(shape=T2IAdapterSpec(widths=(16, 32))), model, 0, "float32")


def test_the_projects_recipe_fits_mini_in_ten_megabytes() -> None:
    told = read_recipe(Path(__file__).parents[2] / "recipes/semantic-map.toml")
    assert isinstance(told, AdapterSettings) and told.model == "mini"
    mini, adapter = maquette.open("mini", device="cpu"), outline(T2IAdapter, told.adapter.shape)
    check_control(Path("recipe"), adapter, "mini", mini.network, mini.first_stage.vae.spec)
    assert 2 * parameters(adapter) + palette_module.SHIPPED.stat().st_size < 10e6


@contextmanager
def in_this_process(stream: MapStream, start: int, count: int, workers: int) -> Iterator[Iterator[MapBatch]]:
    """What `prefetched` yields, without other processes."""
    yield (stream.batch(first, count) for first in itertools.count(start, count))


def test_training_in_pieces_ends_as_training_at_once(
    model: Model, batch: MapBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "prefetched", in_this_process)
    told = recipe(steps=4, batch=2, exact=1.0, optimiser=OptimiserSpec(warmup=2, ema=0.9))
    options: dict[str, Any] = {"seed": 5, "precision": "bfloat16", "console": silent()}
    module.train_adapter(tmp_path / "whole", told, model, out=tmp_path / "a", **options)
    task = AdapterTask(told, model, 5, "bfloat16")
    for step in range(2):
        task.update(step, drawn(2 * step, 2))
    save(tmp_path / "pieces/checkpoints", Checkpoint(2, task.state(), {}))
    module.train_adapter(tmp_path / "pieces", told, model, out=tmp_path / "b", **options)
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert sorted(files) == ["config.json", "diffusion_pytorch_model.safetensors", "palette.json"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == files


def saved(model: Model, folder: Path) -> tuple[Path, AdapterTask]:
    task = AdapterTask(recipe(), model, 1, "float32")
    return module.save_adapter(folder, SHAPE, task.learner.best()), task


def test_it_opens_as_a_t2i_adapter_and_is_followed(model: Model, batch: MapBatch, tmp_path: Path) -> None:
    folder, task = saved(model, tmp_path / "adapter")
    opened = open_control(folder, model)
    maps = torch.from_numpy(batch.maps)
    assert opened.network.spec == SHAPE and Palette.read(folder / "palette.json") == palette()
    with torch.no_grad():
        for ours, trained in zip(opened.network(to_unit(maps)), task.adapter(to_unit(maps)), strict=True):
            torch.testing.assert_close(ours, trained, atol=3e-3, rtol=3e-3)
    words, seeds = batch.captions, range(4)
    followed = paint_maps(opened, maps, words, seeds, SETTING)
    alone = paint_maps(opened, maps[1:2], words[1:2], seeds[1:2], SETTING)
    assert int((followed[1:2].int() - alone.int()).abs().max()) <= 1
    other = paint_maps(opened, maps.flip(0), words, seeds, SETTING)
    assert (followed != other).any(-1).flatten(1).any(1).all()  # every picture heeds its own map


def test_diffusers_computes_the_same_features(model: Model, batch: MapBatch, tmp_path: Path) -> None:
    from diffusers import T2IAdapter

    folder, _ = saved(model, tmp_path / "adapter")
    theirs = T2IAdapter.from_pretrained(folder).float()
    x = to_unit(batch.maps).contiguous()
    with torch.no_grad():
        pairs = zip(open_control(folder, model).network(x), theirs(x), strict=True)
        for ours, expected in pairs:
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_samples_leave_no_trace(model: Model, batch: MapBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOWN", 2)
    monkeypatch.setattr(Setting, "of", lambda defaults: SETTING)
    learning, undisturbed = (AdapterTask(recipe(optimiser=OptimiserSpec(ema=0.9)), model, 0, "float32") for _ in "ab")
    for step in range(2):
        learning.update(step, batch)
        undisturbed.update(step, batch)
    learning.show(2, tmp_path)
    with Image.open(tmp_path / "00000002.png") as sheet:
        shown = np.asarray(sheet)
    assert (shown[:128, 128:] == maps_of(map_examples(2, module.SHOWN_SEED))[1].numpy()).all()
    assert shown.shape == (3 * 128, 2 * 128, 3) and (shown[128:256] != shown[256:]).any()
    assert learning.update(2, batch) == undisturbed.update(2, batch)
    expected: dict[str, Tensor] = undisturbed.state()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in learning.state().items())


def test_examples_are_held_out_and_said_in_both_languages() -> None:
    drawn(0, 1)
    told = map_examples(6, 3)
    assert all(is_held_out(each.scene) for each in told) and told == map_examples(6, 3)
    assert [each.caption.isascii() for each in told] == [True, False] * 3


def test_a_recipe_trains_an_adapter_and_goes_on_from_another(
    model_folder: Path, model: Model, batch: MapBatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "prefetched", in_this_process)
    before, _ = saved(model, tmp_path / "before")
    path, run = tmp_path / "map.toml", tmp_path / "run"
    path.write_text(
        f'name = "map"\ndevice = "cpu"\nprecision = "float32"\nmodel = "{model_folder}"\nbegin = "{before}"\n'
        "[adapter]\nsteps = 1\nbatch = 2\noptimiser = { rate = 1e-12, warmup = 0 }\n"
        '[adapter.shape]\nwidths = [16, 32]\nfactor = 16\nform = "xl"\n'
    )
    assert driver.train(path, folder=run, console=silent()) == run
    weights = "diffusion_pytorch_model.safetensors"
    assert (run / "trained" / weights).read_bytes() == (before / weights).read_bytes()
    with pytest.raises(MaquetteError, match="holds a run already; go on with --resume"):
        driver.train(path, folder=run, console=silent())


def test_a_model_follows_it_on_the_command_line(model_folder: Path, model: Model, tmp_path: Path) -> None:
    from maquette.cli.main import run as command

    adapter, _ = saved(model, tmp_path / "adapter")
    palette().paint([((8, 40, 56, 88), "apple")], "light blue").save(tmp_path / "map.png")
    pictures = []
    for control in ([], ["--control", f"{adapter}={tmp_path / 'map.png'}"]):
        place = tmp_path / f"{len(control)}.png"
        options = ["--model", str(model_folder), "--steps", "1", "--seed", "3", "--device", "cpu", "--out", str(place)]
        assert command(["txt2img", "an apple", *options, *control]) == 0
        with Image.open(place) as picture:
            pictures.append(np.asarray(picture))
    assert pictures[0].shape == (128, 128, 3) and (pictures[0] != pictures[1]).any()
