"""`maquette train`: a thin door to the training package."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, such as recipes/mini.toml.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run.")] = False,
    stage: Annotated[str | None, typer.Option(help="Train this stage alone, such as diffusion.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="[default: runs/ and the recipe's name]")] = None,
) -> None:
    """Train a model by a recipe, stage by stage, and print the folder of the run."""
    from maquette.training.recipe import train

    typer.echo(train(recipe, folder=out, stage=stage, resume=resume))
