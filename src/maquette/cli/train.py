"""`maquette train` and `maquette export`: thin doors to the training package."""

import math
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, such as recipes/mini.toml.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    stage: Annotated[str | None, typer.Option(help="Train this stage alone, such as diffusion.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Save and stop after so long; --resume goes on.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="[default: runs/ and the recipe's name]")] = None,
) -> None:
    """Train a model by a recipe, stage by stage, and print the folder of the run."""
    from maquette.training.run import train

    limit = math.inf if minutes is None else minutes
    typer.echo(train(recipe, folder=out, stage=stage, resume=resume, minutes=limit))


def export(
    run: Annotated[Path, typer.Argument(help="The folder that 'maquette train' printed.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the model, or one to replace.")],
) -> None:
    """Write a finished run as a model, in the diffusers layout and half precision, and print its folder."""
    from maquette.training.export import export
    from maquette.training.run import Run

    typer.echo(export(Run.read(run), folder))
