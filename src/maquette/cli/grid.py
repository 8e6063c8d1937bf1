"""`maquette grid`: the same picture with settings varied, on a labelled sheet."""

import math
from io import BytesIO
from typing import Annotated

import typer

from maquette.cli.opening import Opening, open_from_options
from maquette.cli.options import with_options
from maquette.cli.painting import OUTPUTS, Painting
from maquette.errors import MaquetteError

Values = Annotated[
    str | None,
    typer.Option(metavar="SETTING=VALUES", help="Such as steps=5,10,20, guidance=1..9:5 or replace=cat,dog."),
]


@with_options(painting=Painting, opening=Opening)
def grid(
    prompt: Annotated[str, typer.Argument(help="What to paint, in English or Chinese; may be empty.")],
    x: Annotated[str, typer.Option(metavar="SETTING=VALUES", help="Along the columns, such as steps=5,10,20.")],
    y: Values = None,
    z: Values = None,
    image: Annotated[str | None, typer.Option(metavar="IMAGE", help="The picture to begin with.")] = None,
    mask: Annotated[str | None, typer.Option(metavar="MASK", help="Where it is repainted: white.")] = None,
    strength: Annotated[float | None, typer.Option(help="How much of it is new: 0 to 1.")] = None,
    *,
    painting: Painting,
    opening: Opening,
) -> None:
    """Paint every combination of some settings on one labelled sheet and print its path."""
    from maquette.cli.progress import PaintingBar

    _refuse_single(painting)

    with PaintingBar() as bar:
        from maquette.workflows.grid import Axis
        from maquette.workflows.grid import grid as paint_grid
        from maquette.workflows.loop import batches, resolve
        from maquette.workflows.paint import count_steps
        from maquette.workflows.picture import check_out, free_name, write_files
        from maquette.workflows.request import Request

        axes = [Axis.read(text) for text in (x, y, z) if text is not None]
        varied = next((axis.values[0] for axis in axes if axis.name == "image"), None)  # what else is told may need one
        begun = {"image": image or varied, "mask": mask, "strength": strength}
        request = Request.read(
            {**painting.fields(), "prompt": prompt} | {k: v for k, v in begun.items() if v is not None}
        )
        check_out(painting.out or OUTPUTS / "grid.png")
        bar.say(f"opening {request.model}")
        model = open_from_options(request.model, opening)
        resolved = resolve(request, model)
        cells = math.prod(len(axis.values) for axis in axes)
        bar.begin(count_steps(resolved), cells * len(batches(model, resolved)))
        work = paint_grid(model, request, axes)
        try:
            while True:
                bar.count(next(work))
        except StopIteration as end:
            sheet, results = end.value
        out = painting.out or free_name(OUTPUTS, results[0].request.part(0, 1))
        buffer = BytesIO()
        sheet.save(buffer, "PNG")
        write_files([(out, buffer.getvalue())])
    typer.echo(out)


def _refuse_single(painting: Painting) -> None:
    for option, given in (("--attention", painting.attention), ("--deviation", painting.deviation)):
        if given:
            raise MaquetteError(
                f"{option} is for single pictures, not for a grid; leave it out, or paint one by itself"
            )
