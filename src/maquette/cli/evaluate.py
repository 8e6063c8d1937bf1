"""`maquette eval`: how often a model paints what it was asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maquette.training.study import Study

OUT = Path("outputs/evaluation")
WIDEST = 10_000  # columns of a table


def evaluate(
    name: Annotated[str, typer.Argument(metavar="NAME|PATH", help="The model to judge.")] = "mini",
    study: Annotated[
        bool, typer.Option("--study", help="By guidance, and by sampler and steps: hours, resumable.")
    ] = False,
    languages: Annotated[
        bool, typer.Option("--languages", help="Instead: English against Chinese, every scene said in both.")
    ] = False,
    count: Annotated[int, typer.Option(min=4, help="Held-out captions, half English, half Chinese.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the captions and the noise.")] = 2026,
    guidance: Annotated[float | None, typer.Option(help="[default: the model's]")] = None,
    sampler: Annotated[str | None, typer.Option(help="[default: the model's]")] = None,
    steps: Annotated[int | None, typer.Option(help="[default: the model's]")] = None,
    schedule: Annotated[str | None, typer.Option(help="[default: the model's]")] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where reports are kept and gone on with.")] = OUT,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps. [default: the fastest here]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: the device's]")] = None,
) -> None:
    """Measure a model: right objects, backgrounds and relations by a judge, and how well pictures are rebuilt."""
    import maquette
    from maquette.errors import MaquetteError
    from maquette.training.evaluate import Setting
    from maquette.training.judge import judge_hash, load_judge
    from maquette.training.languages import compare_languages, table
    from maquette.training.study import Subject, run_study
    from maquette.weights.atomic_file import make_folder
    from maquette.workflows.request import Request

    fields = {"guidance": guidance, "sampler": sampler, "steps": steps, "schedule": schedule}
    told = {field: value for field, value in fields.items() if value is not None}
    Request.read(told)  # complains of what cannot be
    if study and languages:
        raise MaquetteError("--study and --languages are two measurements: ask for one after the other")
    make_folder(out)  # or of where nothing can
    model, judge = maquette.open(name, device=device, dtype=dtype), load_judge()
    setting = Setting.of(model.family.defaults).model_copy(update=told)
    if languages:
        subject = Subject.of(model, judge_hash(), count, seed)
        compared = compare_languages(model, judge=judge, subject=subject, setting=setting, folder=out)
        print_table(f"{model.name}: {setting}", table(compared))
        typer.echo(out / f"{model.name}-languages.md")
        return
    settings = None if study else [setting]
    result = run_study(
        model, judge=judge, judge_hash=judge_hash(), folder=out, settings=settings, count=count, seed=seed
    )
    show(result)
    typer.echo(out / f"{model.name}.md")


def show(study: "Study") -> None:
    """Print the tables on the standard output."""
    from maquette.training.study import by_language, rows

    print_table(f"{study.subject.model}: {study.base}", by_language(study))
    print_table("by setting, %", rows(study))
    if study.first_stage is not None:
        stage = study.first_stage
        typer.echo(f"first stage: PSNR {stage.psnr:.2f} dB, SSIM {stage.ssim:.4f} over {stage.count} scenes")


def print_table(title: str, rows: "Iterator[tuple[str, ...]]") -> None:
    """Print rows, the first of which is the header; nothing if there are no others.

    Where the table is wider than the terminal, or than 80 columns where there is none, it is printed as Markdown.
    """
    from rich.console import Console
    from rich.table import Table

    from maquette.training.study import markdown

    header, *body = rows
    if not body:
        return
    found, console = Table(*header, title=title), Console()
    for row in body:
        found.add_row(*row)
    if console.measure(found, options=console.options.update(width=WIDEST)).maximum <= console.width:
        console.print(found)
    else:
        typer.echo("\n".join([title, *markdown(iter([header, *body]))]))
