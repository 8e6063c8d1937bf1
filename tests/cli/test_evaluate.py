"""`maquette eval`: what it prints of a study, and that mistakes are one line."""

import math

import pytest

from maquette.cli import evaluate
from maquette.cli.main import USER_ERROR, run


def test_tables_and_the_first_stage_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from maquette.training.evaluate import FIGURES, FirstStageReport, Report, Setting, Tally
    from maquette.training.study import Study, Subject

    base = Setting(guidance=7.5, sampler="dpmpp_2m", steps=20, schedule="trailing")
    tallies = dict.fromkeys(FIGURES, Tally(right=1, of=4)) | {"recolour": Tally()}
    report = Report(tallies={"en": tallies, "zh": dict.fromkeys(FIGURES, Tally(right=2, of=4))}, frechet=1.25)
    study = Study(
        subject=Subject(model="mini", model_hash="h", judge_hash="j", precision="float32", count=8, seed=0),
        base=base,
        first_stage=FirstStageReport(psnr=math.inf, ssim=0.5, count=8),
        cells={str(base): report},
    )
    evaluate.show(study)
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("the relation is right", "25.0 %", "50.0 %", "37.5 %", "1.250"))
    assert "first stage: PSNR inf dB, SSIM 0.5000 over 8 scenes" in printed


@pytest.mark.parametrize("columns", [80, 200])
def test_wide_tables_are_whole_in_narrow_terminals(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    setting = "dpmpp_2m, 20 steps, trailing, guidance 3, and some words more"
    evaluate.print_table("by setting", iter([("", "background", "everything"), (setting, "97.8", "44.8")]))
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("background", "everything", setting, "44.8"))
    assert (f"| {setting} | 97.8 | 44.8 |" in printed) == (columns == 80)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--sampler", "dpm"], "'dpm' does not exist"),
        (["--seed", "-1"], "--seed"),
        (["--count", "3"], "--count"),
        (["--out", "/dev/null/x"], "/dev/null/x: no such folder"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "mini", *arguments]) == USER_ERROR
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
