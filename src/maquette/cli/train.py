"""`maquette train` and `maquette eval`: thin doors to the training package."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, such as recipes/mini.toml.")],
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint instead of starting anew.")] = False,
) -> None:
    """Train a model by a recipe."""
    from maquette.training.recipe import train

    train(recipe, resume=resume)


def evaluate(
    name: Annotated[str, typer.Argument(metavar="NAME|PATH", help="The model to judge.")] = "mini",
) -> None:
    """Measure a model: right objects, backgrounds and relations by a judge, and how well pictures are rebuilt."""
    from maquette.training.evaluate import evaluate

    evaluate(name)
