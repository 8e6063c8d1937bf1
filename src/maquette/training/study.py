"""The study of a model: its evaluation by guidance, and by sampler and steps against the ancestral one at 1000 steps.

It takes hours. Every setting's report is written as soon as it is known, and until then its pictures batch by batch:
what is there is not done again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from maquette.training.plots import Chart
from maquette.training.readings import Judging
from maquette.weights.atomic_file import make_folder, replacing

GUIDANCE = (0.0, 1.0, 3.0, 7.5, 12.0)
STEPS = (5, 10, 20, 50)
SAMPLERS = (
    "dpmpp_2m", "ddim", "unipc", "deis", "lms", "heun", "dpm2", "ddpm", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde",
    "dpmpp_2s_a",
)  # fmt: skip
REFERENCE_SAMPLER, REFERENCE_STEPS = "ddpm", 1000
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
    yield ("", *FIGURES, "Fréchet")
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


def charts(study: Study) -> dict[str, Chart]:
    """By guidance, and by sampler and steps; only what is known."""
    plan, base = Plan(study.base), study.base
    levels = {}
    for name, report in (("ddpm, 1000 steps", study.report(plan.reference)), ("drawn", study.drawn)):
        if report is not None:
            levels[name] = report.tally("everything").share
    guidance = {figure: _line(study, plan.by_guidance(), figure, "guidance") for figure in FIGURES}
    samplers = {name: _line(study, plan.by_sampler(name), "everything", "steps") for name in plan.samplers}
    return {
        "guidance": Chart(
            title=f"By guidance ({base.sampler}, {base.steps} steps)",
            x_label="guidance scale",
            y_label="% right",
            lines={name: points for name, points in guidance.items() if points},
            levels={},
        ),
        "samplers": Chart(
            title=f"By sampler and steps (guidance {base.guidance:g})",
            x_label="steps",
            y_label="% all right",
            lines={name: points for name, points in samplers.items() if points},
            levels=levels,
        ),
    }


def _line(study: Study, settings: Sequence[Setting], figure: str, over: str) -> list[tuple[float, float]]:
    """What is known of a figure over a field of the settings."""
    points = []
    for setting in settings:
        report = study.report(setting)
        if report is not None and report.tally(figure).of:
            points.append((float(getattr(setting, over)), report.tally(figure).share))
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
    files = {f"{subject.model}-{key}.svg": chart for key, chart in charts(study).items() if chart.lines}
    for name, chart in files.items():
        lines += [f"![{chart.title}]({name})", ""]
    return {f"{subject.model}.md": "\n".join(lines), **{name: chart.svg() for name, chart in files.items()}}


def markdown(table: Iterator[tuple[str, ...]]) -> list[str]:
    """The lines of a table whose first row is its header."""
    header, *body = ("| " + " | ".join(row) + " |" for row in table)
    columns = header.count("|") - 1
    return [header, "|---" * columns + "|", *body]
