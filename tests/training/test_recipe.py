"""A whole recipe, small: from drawn scenes to a model that paints; and what a wrong recipe or folder is answered."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import STEPS, random_run, silent, write_recipe

import maquette
from maquette.cli.main import run as command
from maquette.errors import MaquetteError
from maquette.training import run as module
from maquette.training.checkpoint import newest
from maquette.training.export import export
from maquette.training.judge import JudgeRecipe
from maquette.training.recipe import Recipe, read_recipe
from maquette.training.run import STAGES, WEIGHTS, Run, train
from maquette.weights.safetensors_file import SafetensorsFile


def test_all_stages_leave_what_the_next_one_needs(trained: Path) -> None:
    others = [".lock", "latents", "close-ups", "recipe.toml"]
    assert sorted(path.name for path in trained.iterdir()) == sorted([*STAGES, *others])
    for stage, steps in STEPS.items():
        found, complaints = newest(trained / stage / "checkpoints")
        assert found is not None and found.step == steps and complaints == []
        weights = SafetensorsFile(trained / stage / WEIGHTS)
        prefix = {"clip": "clip", "autoencoder": "vae", "sketch": "sketch", "diffusion": "unet"}[stage]
        inner = "text." if stage == "sketch" else ""
        for name in weights:
            assert torch.equal(weights[name], found.tensors[f"{prefix}.average.{inner}{name}"])
            assert bool(weights[name].isfinite().all())
    assert json.loads((trained / "latents/latents.json").read_text())["filled"] == 70


def test_the_run_becomes_a_model_that_paints(trained: Path, tmp_path: Path) -> None:
    model = maquette.open(export(Run.read(trained), tmp_path / "model"), device="cpu")
    first, again = (model.txt2img("a red apple", seed=3, steps=2).images[0] for _ in range(2))
    assert first.size == (128, 128) and first.tobytes() == again.tobytes()
    told, other = model.condition(["a red apple", "蓝色背景上的一只猫"]).tokens
    assert not torch.equal(told, other)


def test_latents_are_brought_to_unit_variance(trained: Path) -> None:
    import numpy as np

    latents = np.fromfile(trained / "latents/latents.f16", np.float16).astype(np.float64)
    assert latents.std() * Run.read(trained).scale() == pytest.approx(1.0)


def test_finished_stages_are_skipped(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in STAGES[1:]:
        monkeypatch.delattr(Run, f"train_{stage}")
    shutil.copytree(trained, tmp_path / "run")
    console = silent()
    assert train(trained / "recipe.toml", folder=tmp_path / "run", resume=True, console=console) == tmp_path / "run"
    assert console.file.getvalue().splitlines()[1:] == [f"{stage}: finished before" for stage in STAGES[1:]]


def test_a_folder_with_a_run_needs_resume(trained: Path) -> None:
    with pytest.raises(MaquetteError, match="holds a run already; go on with --resume, or give another folder"):
        train(trained / "recipe.toml", folder=trained, console=silent())


def test_what_a_killed_run_left_half_written_is_swept_away(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    names = (".tokenizer.tmp", f".{'0a' * 8}.tmp", f"diffusion/.{'0b' * 8}.tmp", f"clip/checkpoints/.{'0c' * 8}.tmp")
    leftovers = [tmp_path / "run" / name for name in names]
    leftovers[0].mkdir()
    foreign = [tmp_path / "run" / name for name in (".mine.tmp", f"mine/.{'0d' * 8}.tmp")]
    foreign[1].parent.mkdir()
    for path in foreign:
        path.write_text("whole")
    for path in (leftovers[0] / "vocab.json", *leftovers[1:]):
        path.write_text("half")
    train(trained / "recipe.toml", folder=tmp_path / "run", resume=True, console=silent())
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in foreign)


def test_the_recipe_is_kept_as_it_was_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in STAGES:
        monkeypatch.setattr(Run, f"train_{stage}", lambda run: None)
    for steps in (4, 9):
        recipe = write_recipe(tmp_path / "tiny.toml", {**STEPS, "clip": steps})
        train(recipe, folder=tmp_path / "run", resume=True, console=silent())
        assert Run.read(tmp_path / "run").recipe == Recipe.read(recipe)
        assert Run.read(tmp_path / "run").recipe.clip.steps == steps


@pytest.mark.parametrize(
    ("section", "line"), [("diffusion", 'prediction = "sample"'), ("shapes.text", 'activation = "gelu"')]
)
def test_what_a_run_was_begun_with_stays(section: str, line: str, trained: Path, tmp_path: Path) -> None:
    """Else a finished network would be exported as one that predicts something else."""
    folder, told = shutil.copytree(trained, tmp_path / "run"), (trained / "recipe.toml").read_text()
    other, name = tmp_path / "other.toml", section.partition(".")[0] if "." in section else line.partition(" ")[0]
    other.write_text(told.replace(f"[{section}]", f"[{section}]\n{line}"))
    with pytest.raises(MaquetteError, match=f"says another {name} than the run was begun with"):
        train(other, folder=folder, resume=True, console=silent())
    assert (folder / "recipe.toml").read_text() == told


def test_one_stage_alone(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/clip")
    train(trained / "recipe.toml", folder=tmp_path / "run", stage="clip", resume=True, console=silent())
    again, first = (SafetensorsFile(folder / "clip" / WEIGHTS) for folder in (tmp_path / "run", trained))
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_a_stage_whose_forerunner_is_missing_says_so(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/clip")
    for stage in ("autoencoder", "diffusion"):
        shutil.rmtree(run.folder / stage, ignore_errors=True)
        with pytest.raises(MaquetteError, match="is not finished; train it first"):
            train(run.folder / "recipe.toml", folder=run.folder, stage=stage, resume=True, console=silent())


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run")
    shutil.copy(run.folder / "clip" / WEIGHTS, run.folder / "autoencoder" / WEIGHTS)
    with pytest.raises(MaquetteError, match="is damaged or of another shape than the recipe says"):
        run.vae()
    (run.folder / "diffusion" / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(MaquetteError, match="is damaged or of another shape"):
        run.unet()


def test_the_pool_knows_its_encoder_but_not_its_decoder(tmp_path: Path) -> None:
    run = random_run(tmp_path / "run")
    path, mark = run.folder / "autoencoder" / WEIGHTS, run._mark()
    weights = {name: tensor.clone() for name, tensor in SafetensorsFile(path).items()}
    for name, same in (("decoder.conv_out.bias", True), ("post_quant_conv.bias", True), ("quant_conv.bias", False)):
        weights[name] += 1
        module.write_safetensors(path, weights)
        assert (run._mark() == mark) is same, name


WRONG: dict[str, tuple[str, str, str]] = {  # a part of the recipe, what stands in its place, the complaint
    "unknown field": ("threads = 1", "thread = 1", "thread: Extra inputs are not permitted"),
    "unknown field of a stage": ("batch = 4", "batches = 4", "clip.batches: Extra inputs are not permitted"),
    "unknown field of a shape": ("middle = 1", "midle = 1", r"shapes\.unet\.midle: Unexpected keyword"),
    "unknown field of an optimiser": ("warmup = 2", "warm = 2", r"optimiser\.warm: Extra inputs"),
    "missing field": ("steps = 4\n", "", "clip.steps: Field required"),
    "wrong type": ("steps = 4", 'steps = "many"', "clip.steps: Input should be a valid integer"),
    "no steps": ("steps = 4", "steps = 0", "clip.steps: Input should be greater than 0"),
    "a rate that is none": (
        "warmup = 2",
        "rate = nan",
        r"clip\.optimiser\.rate: Input should be greater than 0",
    ),
    "an impossible beta": ("warmup = 2", "betas = [0.9, 1.0]", "Input should be less than 1"),
    "no such network": ("groups = 4", "groups = 3", "vae: there is no such network .*divisible"),
    "heads that do not divide": ("heads = 2\nhidden", "heads = 5\nhidden", "text: there is no such network"),
    "heads of the unet": ("heads = 2\ngroups", "heads = 3\ngroups", "unet: there is no such network"),
    "blocks that do not pair": ("[1, 1], [0, 0]", "[1], [0, 0]", "unet: there is no such network"),
    "context of another width": (
        "context = 32",
        "context = 48",
        r"text\.width and unet\.context must be equal",
    ),
    "towers that do not meet": ("projection = 24", "projection = 16", "projection must be equal"),
    "pictures of another size": ("size = 128", "size = 64", "must be equal, and are 64 and 128"),
    "a pool below a batch": ("pool = 70", "pool = 3", "the pool of 3 scenes does not fill a batch of 4"),
    "crops between latents": ("crops = 3", "crops = 3\ncrop = 60", "autoencoder.crop must be a multiple of .* 8"),
    "no TOML": ("[clip]", "[clip", "is not a TOML file"),
}


@pytest.mark.parametrize(("right", "wrong", "complaint"), WRONG.values(), ids=WRONG)
def test_a_wrong_recipe_is_one_clear_line(right: str, wrong: str, complaint: str, tmp_path: Path, capsys) -> None:
    path = write_recipe(tmp_path / "wrong.toml")
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong, 1))
    with pytest.raises(MaquetteError, match=f"wrong.toml: .*{complaint}"):
        Recipe.read(path)
    assert command(["train", str(path), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_stopped_at_its_time_and_resumed_by_more_processes_it_is_the_unbroken_run(
    trained: Path, tmp_path: Path
) -> None:
    recipe, folder = write_recipe(tmp_path / "tiny.toml", precision="bfloat16"), tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "clip")
    console = silent()
    train(recipe, folder=folder, stage="clip", resume=True, minutes=0, console=console)
    assert "clip: the time is up; --resume goes on from step 1" in console.file.getvalue()
    assert not (folder / "clip" / WEIGHTS).exists()
    recipe.write_text("workers = 2\n" + recipe.read_text())
    train(recipe, folder=folder, stage="clip", resume=True, console=console)
    again, first = (SafetensorsFile(each / "clip" / WEIGHTS) for each in (folder, trained))
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_what_a_gpu_makes_of_nothing_can_be_gone_on_with() -> None:
    folder = Path(__file__).parents[2] / "recipes"
    mini, fast = (Recipe.read(folder / name) for name in ("mini.toml", "mini-gpu.toml"))
    assert mini.shapes == fast.shapes and fast.begin is None


def test_a_judge_is_trained_by_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(module, "train_judge", lambda *places, **others: told.update(others, places=places))
    path = tmp_path / "judge.toml"
    path.write_text('name = "judge"\nseed = 7\ndevice = "cpu"\nworkers = 3\n[judge]\nsteps = 5\n')
    train(path, folder=tmp_path / "run", console=silent())
    assert told["places"] == (tmp_path / "run/judge", JudgeRecipe(steps=5)) and told["out"] == tmp_path / "run/trained"
    assert (told["seed"], told["workers"], told["device"]) == (7, 3, torch.device("cpu"))
    with pytest.raises(MaquetteError, match="unknown stage 'clip': use one of none, with this recipe"):
        train(path, folder=tmp_path / "run", stage="clip", console=silent())


def test_a_file_that_is_no_recipe_is_told(tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match="no such recipe; those of the project are in recipes/"):
        Recipe.read(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "binary.toml"):
        with pytest.raises(MaquetteError, match="is not a TOML file"):
            Recipe.read(path)


TOO_MANY = [("batch = 4\nclose_ups", "batch = 71\nclose_ups"), ("close_ups = 3", "close_ups = 69")]


@pytest.mark.parametrize("wrong", TOO_MANY)
def test_pools_that_do_not_fill_the_sketches_are_told(wrong: tuple[str, str], tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "wrong.toml")
    before, sketch, after = path.read_text().partition("[sketch]")
    path.write_text(before + sketch + after.replace(*wrong, 1))
    with pytest.raises(MaquetteError, match="more than the pools of .diffusion. hold: 70 and 68"):
        Recipe.read(path)


def test_a_stage_that_the_recipe_leaves_out_is_told(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.toml")
    before, _, after = path.read_text().partition("[sketch]")
    path.write_text(before + after[after.index("[diffusion]") :])
    with pytest.raises(MaquetteError, match=r"r\.toml: has no \[sketch\]; add it, or leave this stage out"):
        train(path, folder=tmp_path / "run", stage="sketch")
    assert not (tmp_path / "run").exists()


def test_an_unknown_stage_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        MaquetteError, match="unknown stage 'vae': use one of tokenizer, clip, autoencoder, sketch, diffusion"
    ):
        train(write_recipe(tmp_path / "r.toml"), folder=tmp_path / "run", stage="vae")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MaquetteError, match=r"file.*(Not a directory|File exists)"):
        train(write_recipe(tmp_path / "r.toml"), folder=tmp_path / "file/run", console=silent())


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match=r"holds no run \(no recipe\.toml\)"):
        Run.read(tmp_path)


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("recipes/*.toml")), ids=lambda path: path.name)
def test_the_projects_recipes_are_right(path: Path) -> None:
    assert read_recipe(path).name == path.stem


def test_nan_names_the_last_good_checkpoint(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maquette.training.clip import CLIPTask

    update = CLIPTask.update

    def spoil(task: CLIPTask, step: int, batch: Any) -> Any:
        if step == 2:
            with torch.no_grad():
                task.clip.log_scale.fill_(float("nan"))
        return update(task, step, batch)

    monkeypatch.setattr(CLIPTask, "update", spoil)
    shutil.copytree(trained / "tokenizer", tmp_path / "run/tokenizer")
    recipe = write_recipe(tmp_path / "tiny.toml", precision="bfloat16", save_every=0)
    expected = (
        r"clip: the loss became nan at step 2; stopped\. The last good checkpoint is that of step 2 in .*run/clip"
    )
    with pytest.raises(MaquetteError, match="holds a run already"):  # with words of another recipe, perhaps
        train(recipe, folder=tmp_path / "run", stage="clip", console=silent())
    with pytest.raises(MaquetteError, match=expected):
        train(recipe, folder=tmp_path / "run", stage="clip", resume=True, console=silent())
    found, _ = newest(tmp_path / "run/clip/checkpoints")
    assert found is not None and all(bool(tensor.isfinite().all()) for tensor in found.tensors.values())
    monkeypatch.undo()
    train(recipe, folder=tmp_path / "run", stage="clip", resume=True, console=silent())
    assert (tmp_path / "run/clip" / WEIGHTS).read_bytes() == (trained / "clip" / WEIGHTS).read_bytes()
