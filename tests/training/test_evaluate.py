"""The evaluation with a painter that draws what it is told and a judge that knows: all right; and its study."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from oracle import Oracle
from painter import Painter
from rich.console import Console
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.training import evaluate, study
from maquette.training.autoencoder import to_signed
from maquette.training.evaluate import FIGURES, Report, Setting, Tally, evaluate_drawn, evaluate_first_stage, examples
from maquette.training.plots import Chart, side_by_side
from maquette.training.scenes import is_held_out
from maquette.training.study import Plan, Study, Subject, by_language, charts, rows, run_study

COUNT = 8
QUIET = Console(file=io.StringIO())


pytestmark = pytest.mark.usefixtures("drawable")


@pytest.fixture
def judge() -> Oracle:
    return Oracle([example.scene for example in examples(COUNT)])


def faithful(**changes: object) -> Setting:
    """Guidance 1 asks only for what is wanted, so the painter draws it."""
    return Setting.of(Painter.family.defaults).model_copy(update={"guidance": 1.0, **changes})


def test_examples_are_held_out_and_mix_kinds_and_languages_evenly() -> None:
    found = examples(COUNT)
    assert all(is_held_out(example.scene) for example in found)
    kinds = [(example.scene.kind, example.language) for example in found]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        ("single", "en"): 2, ("single", "zh"): 2, ("relation", "en"): 2, ("relation", "zh"): 2,
    }  # fmt: skip
    assert all((example.language == "en") == example.caption.isascii() for example in found)
    assert len({example.caption for example in found}) == COUNT
    assert [example.scene for example in examples(COUNT, 1)] != [example.scene for example in found]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddpm"])
def test_who_draws_what_is_asked_is_all_right(judge: Oracle, sampler: str) -> None:
    setting = faithful(sampler=sampler)
    report = evaluate.evaluate(Painter(), judge=judge, count=COUNT, setting=setting, console=QUIET)  # type: ignore[arg-type]
    assert all(report.tally(figure).right == report.tally(figure).of for figure in FIGURES)
    assert report.tally("everything").of == COUNT
    assert report.tally("object").of == report.tally("objects").of == COUNT // 2
    assert report == evaluate_drawn(judge, COUNT)


def test_who_ignores_the_words_is_all_wrong(judge: Oracle) -> None:
    setting = faithful(guidance=0.0)
    report = evaluate.evaluate(Painter(), judge=judge, count=COUNT, setting=setting, console=QUIET)  # type: ignore[arg-type]
    assert [report.tally(figure).right for figure in ("object", "objects", "relation", "everything")] == [0] * 4
    assert report.frechet > evaluate_drawn(judge, COUNT).frechet


def test_pictures_do_not_depend_on_the_batch(judge: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    setting, wanted = faithful(sampler="ddpm"), examples(COUNT)
    whole = evaluate.paint_all(Painter(), wanted, setting, 0, QUIET)  # type: ignore[arg-type]
    monkeypatch.setattr(evaluate, "BATCH", 3)
    assert torch.equal(whole, evaluate.paint_all(Painter(), wanted, setting, 0, QUIET))  # type: ignore[arg-type]


def test_a_first_stage_that_halves_the_contrast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Painter, "encode", lambda self, x: x / 2)
    report = evaluate_first_stage(Painter(), COUNT)  # type: ignore[arg-type]
    pictures = to_signed(evaluate.drawn([example.scene for example in examples(COUNT)]))
    wanted = (10 * torch.log10(16 / pictures.square().mean((1, 2, 3)))).mean()
    assert report.psnr == pytest.approx(float(wanted), abs=0.05)  # bytes are rounded
    assert 0 < report.ssim < 1


def test_tallies_add_up() -> None:
    assert Tally(right=1, of=2) + Tally(right=2, of=2) == Tally(right=3, of=4)
    assert Tally(right=3, of=4).share == 0.75
    assert math.isnan(Tally().share)
    tallies = {"en": {"object": Tally(right=1, of=2)}, "zh": {"object": Tally(right=2, of=2)}}
    report = Report(tallies=tallies, frechet=0)
    assert (report.tally("object").share, report.tally("object", "zh").share) == (0.75, 1.0)


def test_a_plan_has_every_setting_once_and_the_model_s_own_first() -> None:
    base = Setting(guidance=7.5, sampler="dpmpp_2m", steps=20, schedule="trailing")
    settings = Plan(base, samplers=("dpmpp_2m", "ddim")).settings()
    assert settings[0] == base
    assert len({str(setting) for setting in settings}) == len(settings) == 5 + 4 - 1 + 1 + 4
    assert Plan(base).reference in settings


def study_in(folder: Path, painter: Painter, judge: Oracle, settings: list[Setting], judge_hash: str = "j") -> Study:
    return run_study(
        painter, judge=judge, judge_hash=judge_hash, folder=folder, settings=settings, count=COUNT, console=QUIET
    )  # type: ignore[arg-type]


def test_a_study_goes_on_where_it_was_broken_off(tmp_path: Path, judge: Oracle) -> None:
    settings = [faithful(), faithful(steps=2), faithful(guidance=0.0)]
    whole = study_in(tmp_path / "whole", Painter(), judge, settings)
    study_in(tmp_path / "pieces", Painter(), judge, settings[:2])
    painter, asked = Painter(), judge.asked
    resumed = study_in(tmp_path / "pieces", painter, judge, settings)
    assert painter.painted == COUNT  # one setting was missing
    assert judge.asked == asked + 2 * COUNT  # its pictures, and the drawn ones for the Fréchet distance
    assert resumed == whole
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == ["painter-guidance.svg", "painter.json", "painter.md"]
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()


def test_a_setting_goes_on_where_it_was_broken_off(
    tmp_path: Path, judge: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "BATCH", 3)
    settings, painter = [faithful(sampler="ddpm")], Painter()
    whole = study_in(tmp_path / "whole", Painter(), judge, settings)
    study_in(tmp_path / "pieces", painter, judge, [])
    decode, painter.painted = painter.decode, 0

    def stop(latent: Tensor) -> Tensor:
        if painter.painted:
            raise KeyboardInterrupt
        return decode(latent)

    monkeypatch.setattr(painter, "decode", stop)
    with pytest.raises(KeyboardInterrupt):
        study_in(tmp_path / "pieces", painter, judge, settings)
    (there,) = (tmp_path / "pieces").glob("painted-*/*")
    other = Painter()
    study_in(tmp_path / "pieces", other, judge, [faithful(sampler="ddpm", steps=2)])
    assert other.painted == COUNT, "pictures of another setting are not taken"
    there.with_name("3.npy").write_bytes(there.read_bytes()[:100])  # damaged
    resumed = Painter()
    study_in(tmp_path / "pieces", resumed, judge, settings)
    assert resumed.painted == COUNT - 3
    assert not list((tmp_path / "pieces").glob("painted-*"))
    found = study_in(tmp_path / "pieces", Painter(), judge, settings)
    assert found.cells[str(settings[0])] == whole.cells[str(settings[0])]


def test_reports_of_different_subjects_are_not_mixed(tmp_path: Path, judge: Oracle) -> None:
    study_in(tmp_path, Painter(), judge, [])
    with pytest.raises(MaquetteError, match="another model, judge, precision, setting"):
        study_in(tmp_path, Painter(), judge, [], judge_hash="another")
    (tmp_path / "painter.json").write_text("{}")
    with pytest.raises(MaquetteError, match="is no evaluation"):
        study_in(tmp_path, Painter(), judge, [])


def known(plan: Plan, settings: Sequence[Setting]) -> Study:
    """A study in which each setting has as many right of eight as its steps, at most."""

    def report(right: int) -> Report:
        each = {figure: Tally(right=min(right, 4), of=4) for figure in FIGURES} | {"recolour": Tally()}
        return Report(tallies={"en": each, "zh": each}, frechet=1.5)

    subject = Subject(model="m", model_hash="h", judge_hash="j", precision="float32", count=8, seed=0)
    cells = {str(setting): report(setting.steps) for setting in settings}
    return Study(subject=subject, base=plan.base, drawn=report(4), cells=cells)


def test_tables_and_charts_tell_what_is_known() -> None:
    base = Setting(guidance=7.5, sampler="dpmpp_2m", steps=2, schedule="trailing")
    plan = Plan(base)
    found = known(plan, [base, *plan.by_guidance(), *plan.by_sampler("ddim"), plan.reference])
    table = list(rows(found))
    assert table[1][1:] == ("100.0", "100.0", "100.0", "100.0", "-", "100.0", "1.500")
    assert table[2][:2] == ("dpmpp_2m, 2 steps, trailing, guidance 7.5", "50.0")
    assert len({len(row) for row in table}) == 1
    languages = list(by_language(found))
    assert languages[1] == ("the single object is right", "50.0 %", "50.0 %", "50.0 %", "100.0 %", "8")
    drawn = charts(found)
    shares, distances = drawn["guidance"]
    assert shares.lines["object"] == [(g, 0.5) for g in study.GUIDANCE]
    assert "recolour" not in shares.lines
    assert distances.lines == {"Fréchet": [(g, 1.5) for g in study.GUIDANCE]} and distances.top == 2.0
    assert len(drawn["samplers"]) == len(FIGURES)  # one for each but recolour, and one of the distance
    for chart in drawn["samplers"]:
        value = 1.5 if chart.title == "Fréchet distance" else 1.0
        assert chart.lines == {"ddim": [(float(steps), value) for steps in study.STEPS]}
        assert set(chart.levels) == {"ddpm, 1000 steps", "drawn"}


def test_a_single_value_is_no_chart(tmp_path: Path) -> None:
    base = Setting(guidance=7.5, sampler="dpmpp_2m", steps=20, schedule="trailing")
    plan = Plan(base)
    known(plan, [base, *plan.by_guidance(), *plan.by_sampler("ddim")]).write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m-guidance.svg", "m-samplers.svg", "m.json", "m.md"]
    known(plan, [base, plan.reference]).write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.json", "m.md"]
    assert "svg" not in (tmp_path / "m.md").read_text()


def test_charts_stand_side_by_side() -> None:
    chart = Chart(title="t", x_label="x", y_label="y", lines={"one": [(5, 0.0), (50, 1.0)]}, levels={})
    root = ElementTree.fromstring(side_by_side([chart] * 3))
    inner = root.findall("{http://www.w3.org/2000/svg}svg")
    assert [(each.get("x"), each.get("y")) for each in inner] == [("0", "0"), ("640", "0"), ("0", "380")]
    assert (root.get("width"), root.get("height")) == ("1280", "760")


def test_charts_put_points_where_they_belong() -> None:
    chart = Chart(title="a < b", x_label="x", y_label="y", lines={"one": [(5, 0.0), (50, 1.0)]}, levels={"bound": 0.5})
    root = ElementTree.fromstring(chart.svg())
    space = {"s": "http://www.w3.org/2000/svg"}
    low, high = root.findall("s:circle", space)
    grid = [path.get("d", "") for path in root.findall("s:path", space)][:6]
    frame = [float(path.split()[1].split("H")[0]) for path in grid]
    assert float(low.get("cx", "")) < float(high.get("cx", ""))
    assert [float(low.get("cy", "")), float(high.get("cy", ""))] == [frame[0], frame[5]]  # 0 % and 100 %
    words = [text.text for text in root.findall("s:text", space)]
    assert {"a < b", "x", "y", "5", "50", "one", "bound"} <= set(words)


def test_infinite_likeness_survives_the_file(tmp_path: Path, judge: Oracle) -> None:
    found = study_in(tmp_path, Painter(), judge, [])
    assert found.first_stage is not None
    assert found.first_stage.psnr == math.inf
    assert Study.read(tmp_path / "painter.json") == found
    assert json.loads((tmp_path / "painter.json").read_text())["first_stage"]["psnr"] == "Infinity"
