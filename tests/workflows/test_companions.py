"""Other models that a request names: a refiner takes over where it says, and is opened once."""

import sys
import weakref
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

import maquette
from maquette.diffusion.process import EDM, Level
from maquette.engine.companions import Companions
from maquette.engine.model import Model
from maquette.engine.open import companion
from maquette.errors import MaquetteError
from maquette.workflows.grid import Axis, varied
from maquette.workflows.loop import run
from maquette.workflows.paint import paint
from maquette.workflows.request import Request

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from small_models import write_original


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return maquette.open(write_original("sdxl", tmp_path_factory.mktemp("base")), dtype="float32")


def test_a_refiner_does_the_last_steps(base: Model, tmp_path: Path) -> None:
    path = write_original("sdxl-refiner", tmp_path)
    asked = []
    refiner = maquette.open(path, dtype="float32")
    denoise = refiner.denoiser
    refiner.denoiser = lambda x, level, told: (asked.append(level.t), denoise(x, level, told))[1]
    base.companions.get(str(path), lambda: refiner)
    told = {"prompt": "a red apple", "seed": 1, "steps": 5, "width": 64, "height": 64, "sampler": "ddim"}
    request = Request.read({**told, "schedule": "trailing", "refiner": {"model": str(path), "at": 0.6}})
    levels = []
    refined = run(paint(base, request), lambda step: levels.append(step.level.t))
    assert asked == sorted(asked, reverse=True) and len(asked) == 2
    plain = run(paint(base, request.model_copy(update={"refiner": None})))
    assert refined.latent_hashes != plain.latent_hashes
    never = run(paint(base, varied(request, [Axis("refiner.at", (1.0,))], [1.0])))
    assert never.latent_hashes == plain.latent_hashes


def test_a_refiner_of_another_process_is_told_its_own_times(base: Model, tmp_path: Path) -> None:
    path = write_original("sdxl-refiner", tmp_path)
    asked: list[float] = []
    refiner = maquette.open(path, dtype="float32")
    refiner.process = EDM()
    denoise = refiner.denoiser
    refiner.denoiser = lambda x, level, told: (asked.append(level.t), denoise(x, level, told))[1]
    base.companions.get(str(path), lambda: refiner)
    told = {"prompt": "x", "seed": 1, "steps": 5, "width": 64, "height": 64, "refiner": {"model": str(path), "at": 0.6}}
    levels: list[Level] = []
    run(paint(base, Request.read(told)), lambda step: levels.append(step.level))
    assert asked == pytest.approx([EDM().time(level.lam) for level in levels[2:4]])  # a step ends where the next begins


@dataclass(eq=False)
class Opened:
    name: str


def test_those_used_last_stay_open_and_there_is_room_before_another_is_opened() -> None:
    companions, opened, alive, beside = Companions(2), [], weakref.WeakSet(), []

    def make(name: str) -> Opened:
        beside.append(len(alive))
        opened.append(name)
        made = Opened(name)
        alive.add(made)
        return made

    for name in "abacab":
        assert companions.get(name, partial(make, name)).name == name
    assert opened == ["a", "b", "c", "b"], "a was used in between"
    assert beside == [0, 1, 1, 1]


def test_a_companion_that_is_not_there_is_named(base: Model) -> None:
    request = Request.read({"steps": 1, "width": 64, "height": 64, "refiner": {"model": "none.safetensors"}})
    with pytest.raises(MaquetteError, match=r"none\.safetensors"):
        run(paint(base, request))


@pytest.mark.parametrize(
    ("other", "complaint"), [("sd1-inpaint", "reads mask, masked picture beside the latent"), ("sd3", "does not paint")]
)
def test_a_refiner_of_another_kind_is_refused_before_anything_is_painted(
    base: Model, tmp_path: Path, other: str, complaint: str
) -> None:
    path = write_original(other, tmp_path)
    told = {"prompt": "x", "seed": 1, "steps": 5, "width": 64, "height": 64, "refiner": {"model": str(path), "at": 0.6}}
    steps = []
    with pytest.raises(MaquetteError, match=complaint):
        run(paint(base, Request.read(told)), steps.append)
    assert steps == []


def test_a_companion_finds_loras_where_the_model_does(base: Model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(base, "lora_folder", tmp_path)
    assert companion(base, str(write_original("sd1", tmp_path))).lora_folder == tmp_path
