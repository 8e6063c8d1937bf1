"""The study of a model: its evaluation by guidance, and by sampler and steps against the ancestral one at 1000 steps.

It takes hours. Every setting's report is written as soon as it is known, and until then its pictures batch by batch:
what is there is not done again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.training.evaluate import (
    COUNT,
    FIGURES,
    SEED,
    FirstStageReport,
    Report,
    Setting,
    evaluate,
    evaluate_drawn,
    evaluate_first_stage,
)
from maquette.training.kept import Kept
from maquette.training.plots import Chart, Points, side_by_side
from maquette.training.readings import Judging
from maquette.weights.atomic_file import make_folder, replacing

GUIDANCE = (0.0, 1.0, 3.0, 7.5, 12.0)
STEPS = (5, 10, 20, 50)
SAMPLERS = (
    "dpmpp_2m", "ddim", "unipc", "deis", "lms", "heun", "dpm2", "ddpm", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde",
    "dpmpp_2s_a",
)  # fmt: skip
REFERENCE_SAMPLER, REFERENCE_STEPS = "ddpm", 1000
FRECHET = "Fréchet"
WORDS = {
    "object": "the single object is right",
    "objects": "both objects are right",
    "background": "the background is right",
    "relation": "the relation is right",
    "recolour": "the new colour is right",
    "everything": "all of these are right",
}


class Subject(BaseModel):
    """What was studied: reports belong together only where this is the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    model_hash: str
    judge_hash: str
    precision: str
    count: int
    seed: int

    @classmethod
    def of(cls, model: Model, judge_hash: str, count: int = COUNT, seed: int = SEED) -> "Subject":
        """A model, in the precision it was opened in."""
        return cls(
            model=model.name,
            model_hash=model.whole_hash,
            judge_hash=judge_hash,
            precision=str(model.dtype).removeprefix("torch."),
            count=count,
            seed=seed,
        )


class Study(BaseModel):
    """The reports there are; `cells` by the setting in words."""

    model_config = ConfigDict(extra="forbid")

    subject: Subject
    base: Setting
    drawn: Report | None = None
    first_stage: FirstStageReport | None = None
    cells: dict[str, Report] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Study":
        """Read what `write` wrote."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise MaquetteError(f"{path}: is no evaluation ({reason}); remove it, or give another folder") from error

    def write(self, folder: Path) -> None:
        """Write NAME.json with everything known, NAME.md with the tables and NAME-*.svg with the charts."""
        make_folder(folder)
        texts = {f"{self.subject.model}.json": self.model_dump_json(indent=1) + "\n", **summary(self)}
        for name, text in texts.items():
            with replacing(folder / name) as file:
                file.write(text.encode())
        for name in (f"{self.subject.model}-{key}.svg" for key in charts(self)):
            if name not in texts:  # of an earlier version
                (folder / name).unlink(missing_ok=True)

    def report(self, setting: Setting) -> Report | None:
        """What is known of a setting."""
        return self.cells.get(str(setting))


@dataclass(frozen=True)
class Plan:
    """The settings of a study around a model's own one."""

    base: Setting
    samplers: Sequence[str] = SAMPLERS

    @property
    def reference(self) -> Setting:
        """The ancestral sampler with a step for each of the process's times."""
        return self.base.model_copy(update={"sampler": REFERENCE_SAMPLER, "steps": REFERENCE_STEPS})

    def by_guidance(self) -> list[Setting]:
        return [self.base.model_copy(update={"guidance": guidance}) for guidance in GUIDANCE]

    def by_sampler(self, name: str) -> list[Setting]:
        return [self.base.model_copy(update={"sampler": name, "steps": steps}) for steps in STEPS]

    def settings(self) -> list[Setting]:
        """Each setting once: what tells most comes first."""
        grid = [setting for name in self.samplers for setting in self.by_sampler(name)]
        return list(
            dict.fromkeys([self.base, *self.by_guidance(), *grid[: len(STEPS)], self.reference, *grid[len(STEPS) :]])
        )


def open_study(path: Path, subject: Subject, base: Setting) -> Study:
    """The study in `path`, or a new one; MaquetteError if it is of something else."""
    if not path.exists():
        return Study(subject=subject, base=base)
    study = Study.read(path)
    if (study.subject, study.base) != (subject, base):
        raise MaquetteError(
            f"{path}: holds the evaluation of another model, judge, precision, setting or number of captions; "
            "remove it, or give another folder with --out"
        )
    return study


def run_study(
    model: Model,
    *,
    judge: Judging,
    judge_hash: str,
    folder: Path,
    settings: Sequence[Setting] | None = None,
    count: int = COUNT,
    seed: int = SEED,
    console: Console | None = None,
) -> Study:
    """Do what `folder`/NAME.json lacks: the judge's own reliability, the first stage, each of the settings.

    Without `settings` it is the whole plan. The files are written after every report.
    """
    console = console or Console(stderr=True)
    base, subject = Setting.of(model.family.defaults), Subject.of(model, judge_hash, count, seed)
    study = open_study(folder / f"{model.name}.json", subject, base)
    if study.drawn is None:
        study.drawn = evaluate_drawn(judge, count, seed)
        study.write(folder)
    if study.first_stage is None:
        study.first_stage = evaluate_first_stage(model, count, seed)
        study.write(folder)
    for setting in Plan(base).settings() if settings is None else settings:
        if study.report(setting) is None:
            kept = Kept(folder, f"{subject.model_dump_json()} {setting}")
            study.cells[str(setting)] = evaluate(
                model, judge=judge, count=count, seed=seed, setting=setting, console=console, kept=kept
            )
            study.write(folder)
            kept.clear()
    return study


def rows(study: Study) -> Iterator[tuple[str, ...]]:
    """The table: a header, then what is known, one row for each report."""
    yield ("", *FIGURES, FRECHET)
    if study.drawn is not None:
        yield ("drawn (the judge's own reliability)", *_cells(study.drawn))
    for name, report in study.cells.items():
        yield (name, *_cells(report))


def _cells(report: Report) -> list[str]:
    shares = [report.tally(figure) for figure in FIGURES]
    return [f"{100 * tally.share:.1f}" if tally.of else "-" for tally in shares] + [f"{report.frechet:.3f}"]


def by_language(study: Study) -> Iterator[tuple[str, ...]]:
    """The base setting's figures in each language: name, English, Chinese, both, the judge's bound, of how many."""
    yield ("", "English", "Chinese", "both", "drawn", "of")
    report = study.report(study.base)
    if report is None:
        return
    for figure in FIGURES:
        tallies = [report.tally(figure, "en"), report.tally(figure, "zh"), report.tally(figure)]
        if study.drawn is not None:
            tallies.append(study.drawn.tally(figure))
        shares = [f"{100 * tally.share:.1f} %" if tally.of else "-" for tally in tallies]
        yield (WORDS[figure], *shares, str(tallies[2].of))


def charts(study: Study) -> dict[str, list[Chart]]:
    """By guidance, and by sampler and steps: what is known of each figure for more than one value."""
    plan, base = Plan(study.base), study.base
    by = f"({base.sampler}, {base.steps} steps)"
    guidance = [
        _chart(f"By guidance {by}", "guidance scale", "% right", _lines(study, plan.by_guidance(), "guidance"), {}),
        _distances(f"By guidance {by}", "guidance scale", {FRECHET: plan.by_guidance()}, study, "guidance"),
    ]
    settings = {name: plan.by_sampler(name) for name in plan.samplers}
    samplers = [_by_sampler(study, settings, figure) for figure in FIGURES]
    samplers.append(_distances(f"{FRECHET} distance", "steps", settings, study, "steps"))
    found = {"guidance": guidance, "samplers": samplers}
    return {key: [chart for chart in each if chart.tells] for key, each in found.items()}


def _by_sampler(study: Study, settings: Mapping[str, Sequence[Setting]], figure: str) -> Chart:
    lines = {name: _line(study, each, figure, "steps") for name, each in settings.items()}
    levels = {name: report.tally(figure).share for name, report in _levels(study) if report.tally(figure).of}
    return _chart(WORDS[figure], "steps", "%", lines, levels)


def _distances(title: str, x_label: str, settings: Mapping[str, Sequence[Setting]], study: Study, over: str) -> Chart:
    """A chart of the Fréchet distance."""
    lines = {name: _line(study, each, FRECHET, over) for name, each in settings.items()}
    levels = {name: report.frechet for name, report in _levels(study)} if over == "steps" else {}
    highest = max([y for line in lines.values() for _, y in line] + [*levels.values()], default=1.0)
    return replace(_chart(title, x_label, FRECHET, lines, levels), top=_rounded_up(highest), unit=1.0)


def _rounded_up(value: float) -> float:
    """The end of an axis: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= value)


def _chart(title: str, x_label: str, y_label: str, lines: Mapping[str, Points], levels: Mapping[str, float]) -> Chart:
    known = {name: points for name, points in lines.items() if points}
    return Chart(title=title, x_label=x_label, y_label=y_label, lines=known, levels=levels)


def _levels(study: Study) -> Iterator[tuple[str, Report]]:
    """What other settings are held against: the ancestral sampler at 1000 steps, and the drawn scenes."""
    reference = Plan(study.base).reference
    for name, report in (
        (f"{reference.sampler}, {reference.steps} steps", study.report(reference)),
        ("drawn", study.drawn),
    ):
        if report is not None:
            yield name, report


def _lines(study: Study, settings: Sequence[Setting], over: str) -> dict[str, Points]:
    return {figure: _line(study, settings, figure, over) for figure in FIGURES}


def _line(study: Study, settings: Sequence[Setting], figure: str, over: str) -> Points:
    """What is known of a figure, or of the distance, over a field of the settings."""
    points = []
    for setting in settings:
        report = study.report(setting)
        if report is not None and (figure == FRECHET or report.tally(figure).of):
            value = report.frechet if figure == FRECHET else report.tally(figure).share
            points.append((float(getattr(setting, over)), value))
    return points


def summary(study: Study) -> dict[str, str]:
    """The files that people read, by name: the tables and the charts."""
    subject = study.subject
    lines = [f"# Evaluation of {subject.model}", ""]
    painted = f"painted in {subject.precision} with {study.base}"
    lines += [f"{subject.count} held-out captions, seed {subject.seed}, {painted}.", ""]
    lines += [*markdown(by_language(study)), ""]
    if study.first_stage is not None:
        stage = study.first_stage
        lines += [f"First stage over {stage.count} scenes: PSNR {stage.psnr:.2f} dB, SSIM {stage.ssim:.4f}.", ""]
    lines += [
        "Percent right in each setting, and the squared Fréchet distance to drawn scenes in the judge's features:"
    ]
    lines += ["", *markdown(rows(study)), ""]
    files = {f"{subject.model}-{key}.svg": each for key, each in charts(study).items() if each}
    for name, each in files.items():
        lines += [f"![{', '.join(dict.fromkeys(chart.title for chart in each))}]({name})", ""]
    return {f"{subject.model}.md": "\n".join(lines), **{name: side_by_side(each) for name, each in files.items()}}


def markdown(table: Iterator[tuple[str, ...]]) -> list[str]:
    """The lines of a table whose first row is its header."""
    header, *body = ("| " + " | ".join(row) + " |" for row in table)
    columns = header.count("|") - 1
    return [header, "|---" * columns + "|", *body]
