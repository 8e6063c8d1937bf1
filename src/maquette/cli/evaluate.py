"""`maquette eval`: how often a model paints what it was asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from maquette.training.study import Study

OUT = Path("outputs/evaluation")


def evaluate(
    name: Annotated[str, typer.Argument(metavar="NAME|PATH", help="The model to judge.")] = "mini",
    study: Annotated[
        bool, typer.Option("--study", help="By guidance, and by sampler and steps: hours, resumable.")
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
    from maquette.training.evaluate import Setting
    from maquette.training.judge import judge_hash, load_judge
    from maquette.training.study import run_study
    from maquette.weights.atomic_file import make_folder
    from maquette.workflows.request import Request

    fields = {"guidance": guidance, "sampler": sampler, "steps": steps, "schedule": schedule}
    told = {field: value for field, value in fields.items() if value is not None}
    Request.read(told)  # complains of what cannot be
    make_folder(out)  # or of where nothing can
    model, judge = maquette.open(name, device=device, dtype=dtype), load_judge()
    settings = None if study else [Setting.of(model.family.defaults).model_copy(update=told)]
    result = run_study(
        model, judge=judge, judge_hash=judge_hash(), folder=out, settings=settings, count=count, seed=seed
    )
    show(result)
    typer.echo(out / f"{model.name}.md")


def show(study: "Study") -> None:
    """Print the tables on the standard output."""
    from rich.console import Console
    from rich.table import Table

    from maquette.training.study import by_language, rows

    console = Console()
    for name, found in ((f"{study.subject.model}: {study.base}", by_language(study)), ("by setting, %", rows(study))):
        header, *body = found
        if body:
            table = Table(*header, title=name)
            for row in body:
                table.add_row(*row)
            console.print(table)
    if study.first_stage is not None:
        stage = study.first_stage
        console.print(f"first stage: PSNR {stage.psnr:.2f} dB, SSIM {stage.ssim:.4f} over {stage.count} scenes")
