"""`maquette convert`: a model in another layout or precision."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A model's file or folder.")],
    out: Annotated[Path, typer.Argument(help="A new .safetensors file (original), or a new folder (diffusers).")],
    layout: Annotated[str, typer.Option(metavar="original|diffusers", help="Whose names to write.")],
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: as it is]")] = None,
    prediction: Annotated[str | None, typer.Option(help="epsilon or v, where the weights do not tell.")] = None,
    tokenizer: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Tokenizers, for a file that carries none.")
    ] = None,
) -> None:
    """Write a model in the original or in diffusers' layout and print its path."""
    from maquette.engine.convert import convert
    from maquette.engine.device import read_precision
    from maquette.engine.open import find
    from maquette.engine.recognise import Wishes, recognise

    precision = None if dtype is None else read_precision(dtype)
    found = recognise(find(str(source)), Wishes(prediction=prediction))
    convert(found, out, layout, precision, tokenizer or [])
    typer.echo(out)
