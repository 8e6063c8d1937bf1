"""`maquette map`: a semantic map to paint by, from regions and the names of what is there."""

from pathlib import Path
from typing import Annotated

import typer

from maquette.errors import MaquetteError

FORM = "REGION=NAME"


def semantic_map(
    regions: Annotated[
        list[str],
        typer.Argument(
            metavar=f"{FORM} ...",
            help='What is where, such as "8,40,56,88=apple": left,top,right,bottom, or three or more corners '
            '"8,88 56,88 32,40". Later ones cover earlier ones.',
        ),
    ],
    background: Annotated[str, typer.Option(help='What is behind, such as "light blue".')] = "white",
    size: Annotated[str, typer.Option(metavar="WxH", help="Pixels, those of the picture to be painted.")] = "128x128",
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .png file.")] = Path("map.png"),
) -> None:
    """Draw a map of coloured regions, each in the colour of what is there, and print its path.

    To paint by it: maquette txt2img "an apple" --control semantic-map=map.png
    """
    from maquette.cli.forms import read_size, split_pair
    from maquette.training.palette import palette
    from maquette.weights.atomic_file import replacing
    from maquette.workflows.picture import check_out, make_folder
    from maquette.workflows.request import Request

    check_out(out)
    sides = read_size(size)
    Request.read(sides)  # complains of what cannot be painted
    pairs = (split_pair("map", each, FORM) for each in regions)
    told = [(_read_shape(shape), name) for shape, name in pairs]
    picture = palette().paint(told, background, (sides["width"], sides["height"]))
    make_folder(out.parent)
    with replacing(out) as file:
        picture.save(file, "PNG")
    typer.echo(out)


def _read_shape(text: str) -> tuple[float, ...] | list[tuple[float, float]]:
    """A box, or corners."""
    from maquette.workflows.region import Box

    corners = text.split()
    if len(corners) < 2:
        return Box.read(text)
    if len(corners) == 2:
        raise MaquetteError(f"{text!r:.60} are two corners; give left,top,right,bottom or three corners and more")
    try:
        return [(float(x), float(y)) for x, y in (corner.split(",") for corner in corners)]
    except ValueError:
        raise MaquetteError(f"{text!r:.60} are no corners; write x,y x,y x,y") from None
