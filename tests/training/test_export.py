"""A run as a model: the package paints with it, and diffusers paints the same picture."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SCALE, TEXTS, random_run

import maquette
from maquette.cli.main import run as command
from maquette.diffusion.prediction import V
from maquette.diffusion.process import Discrete
from maquette.engine.open import INDEX
from maquette.errors import MaquetteError
from maquette.training.export import export
from maquette.training.run import WEIGHTS, Run
from maquette.weights.safetensors_file import SafetensorsFile, write_safetensors

PROMPTS = [TEXTS[0], TEXTS[2]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return random_run(tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("models") / "small")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_package_opens_it_and_knows_what_it_is(run: Run, folder: Path) -> None:
    model = maquette.open(folder, device="cpu")
    assert (model.name, model.family.name, model.dtype) == ("small", "mini", torch.float32)
    assert model.prediction is V and model.process == Discrete.scaled_linear(zero_terminal_snr=True)
    assert model.network.spec == run.recipe.shapes.unet
    assert (model.family.defaults.width, model.family.defaults.height) == (128, 128)
    latent = torch.ones(1, 4, 16, 16)
    vae = model.first_stage.vae
    assert torch.allclose(model.decode(latent), vae.decode(latent / SCALE).clamp(-1, 1), atol=1e-5)


def test_its_weights_are_the_runs_in_half_precision(run: Run, folder: Path) -> None:
    model = maquette.open(folder, device="cpu")
    for stage, network in (("diffusion", model.network), ("autoencoder", model.first_stage.vae)):
        theirs = SafetensorsFile(run.folder / stage / WEIGHTS)
        state = network.state_dict()
        assert state.keys() == set(theirs)
        assert all(torch.equal(state[name], theirs[name].bfloat16().float()) for name in theirs)


def test_it_reads_words_as_the_run_does(run: Run, folder: Path) -> None:
    model = maquette.open(folder, device="cpu")
    ids = torch.tensor(run.words(TEXTS))
    with torch.no_grad():
        expected = run.text()(ids).last
    assert float((model.condition(TEXTS).tokens - expected).abs().max()) < 0.02 * float(expected.abs().max())


@pytest.mark.parametrize("prompt", PROMPTS)
def test_diffusers_paints_the_same_picture(folder: Path, prompt: str) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(11))
    told = {"num_inference_steps": 10, "guidance_scale": 5.0, "eta": 0.0}
    theirs = pipeline(prompt, latents=start, output_type="latent", **told).images
    with torch.no_grad():
        picture = pipeline.vae.decode(theirs / pipeline.vae.config.scaling_factor).sample.clamp(-1, 1)

    model = maquette.open(folder, device="cpu", dtype="float32")
    painted = model.txt2img(prompt, seed=11, steps=10, guidance=5.0, sampler="ddim", schedule="trailing").images[0]
    ours = torch.from_numpy(np.asarray(painted, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)
    assert 0.1 < float(picture.std()) < 1.5  # there is something to see
    assert psnr(ours, picture[0]) > 50  # rounding to bytes costs more than all else
    assert psnr(model.decode(theirs), picture) > 90


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (a - b).double().square().mean()))


def test_exporting_again_replaces_the_model_and_nothing_else(run: Run, folder: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "again")
    first = contents(tmp_path / "again")
    assert first == contents(folder)
    (tmp_path / "again/README.md").write_text("a card")
    (tmp_path / "again/unet/diffusion_pytorch_model.safetensors").write_bytes(b"old")
    (tmp_path / "again/unet/diffusion_pytorch_model.bin").write_bytes(b"older")
    export(run, tmp_path / "again")
    assert contents(tmp_path / "again") == {**first, "README.md": b"a card"}


def test_a_folder_with_something_else_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(MaquetteError, match="holds something else; give an empty folder or one with a model"):
        export(run, tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_an_unfinished_run_is_refused_and_the_old_model_stays(run: Run, folder: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "model")
    unfinished = Run(run.recipe, tmp_path / "unfinished", run.console)
    with pytest.raises(MaquetteError, match="the stage 'diffusion' is not finished; train it first"):
        export(unfinished, tmp_path / "model")
    assert contents(tmp_path / "model") == contents(folder)


def test_a_full_disk_leaves_the_old_model(run: Run, folder: Path, tmp_path: Path, monkeypatch) -> None:
    export(run, tmp_path / "model")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MaquetteError, match="No space left on device"):
        export(run, tmp_path / "model")
    assert contents(tmp_path / "model") == contents(folder)


def test_weights_that_are_not_finite_are_refused(run: Run, tmp_path: Path) -> None:
    large = random_run(tmp_path / "run")
    path = large.folder / "autoencoder" / WEIGHTS
    weights = {name: tensor.clone() for name, tensor in SafetensorsFile(path).items()}
    weights["decoder.conv_out.bias"][1] = float("inf")
    write_safetensors(path, weights)
    with pytest.raises(MaquetteError, match=r"'decoder\.conv_out\.bias' of the vae is not finite"):
        export(large, tmp_path / "model")
    assert contents(tmp_path / "model") == {}


def test_by_the_command(run: Run, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["export", str(run.folder), str(tmp_path / "model")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "model")
    assert contents(tmp_path / "model") == contents(folder)
    assert json.loads((tmp_path / "model" / INDEX).read_text())["_class_name"] == "StableDiffusionPipeline"
    assert command(["export", str(tmp_path), str(tmp_path / "other")]) == 2
    assert "holds no run" in capsys.readouterr().err
