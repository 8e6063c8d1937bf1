"""`maquette reproduce`: paint a picture again from its settings, and say whether it is the same."""

from pathlib import Path
from typing import Annotated

import typer

from maquette.cli.opening import Opening, open_from_options
from maquette.cli.options import with_options
from maquette.cli.painting import read_refiner
from maquette.cli.plain import one_line

DIFFERENT = 1  # exit status where the picture could be painted, but is another one


@with_options(opening=Opening)
def reproduce(
    picture: Annotated[Path, typer.Argument(help="A picture that Maquette, A1111, ComfyUI or InvokeAI saved.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="The model that paints. [default: the one it names]")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the new picture, a .png file.")] = None,
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Where the picture is now that it began with.")
    ] = None,
    mask: Annotated[str | None, typer.Option(metavar="IMAGE", help="Where its mask is now.")] = None,
    refiner: Annotated[
        str | None, typer.Option(metavar="MODEL[:AT]", help="Where the model of the last steps is now.")
    ] = None,
    trust_finder: Annotated[
        bool, typer.Option("--trust-finder", help="Let the picture's own finder run code of its file or package.")
    ] = False,
    *,
    opening: Opening,
) -> None:
    """Paint a picture again and compare; exits with 0 if it is identical, with 1 if not."""
    from maquette.cli.progress import PaintingBar

    with PaintingBar() as bar:
        from maquette.workflows.canvas import read_image
        from maquette.workflows.foreign import suited
        from maquette.workflows.loop import batches, resolve, run
        from maquette.workflows.paint import count_steps, paint
        from maquette.workflows.picture import check_out, read_settings
        from maquette.workflows.reproduce import compare, given, remarks, request_of

        settings = read_settings(picture)
        other = {"model": model, "refiner": None if refiner is None else read_refiner(refiner)}
        other |= {"image": given(settings, "image", image), "mask": given(settings, "mask", mask)}
        other = {name: value for name, value in other.items() if value is not None}
        original, request = read_image(picture), request_of(settings, other, opening.lora_folder, trusted=trust_finder)
        if out is not None:
            check_out(out)
        bar.say(f"opening {request.model}")
        opened = open_from_options(request.model, opening.like(settings.opened_with))
        resolved = resolve(suited(request, settings, opened.family), opened)
        bar.begin(count_steps(resolved), len(batches(opened, resolved)))
        result = run(paint(opened, resolved), bar.count)
        if out is not None:
            result.save(out)
    for remark in remarks(settings, opened, result.hashes):
        typer.echo(one_line(remark), err=True)
    comparison = compare(result, settings, original)
    typer.echo(str(comparison))
    if not comparison.identical:
        raise typer.Exit(DIFFERENT)
