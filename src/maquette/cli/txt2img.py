"""`maquette txt2img`: words to a picture, with a bar that shows what is happening."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maquette.cli.opening import Opening, open_from_options, with_opening
from maquette.errors import MaquetteError

if TYPE_CHECKING:
    from maquette.cli.progress import PaintingBar

OUTPUTS = Path("outputs")  # where pictures go that no name was given for


@with_opening
def txt2img(
    prompt: Annotated[str, typer.Argument(help="What to paint, in English or Chinese; may be empty.")],
    negative: Annotated[str, typer.Option(help="What to keep out of the picture.")] = "",
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same pixels. [default: by chance]")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. [default: the model's]")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How closely to follow the words; 0 ignores them. [default: the model's]")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="Such as euler or dpmpp_2m. [default: the model's]")] = None,
    schedule: Annotated[str | None, typer.Option(help="Such as karras or trailing. [default: the model's]")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Pixels. [default: the model's]")] = None,
    count: Annotated[int, typer.Option(help="How many pictures; each has the next seed.")] = 1,
    model: Annotated[str, typer.Option(metavar="NAME|PATH", help="The model that paints.")] = "mini",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .png file. [default: a new one in outputs/]")
    ] = None,
    *,
    opening: Opening,
) -> None:
    """Paint what the words say and print the path of the picture."""
    fields = {"seed": seed, "steps": steps, "guidance": guidance, "sampler": sampler, "schedule": schedule}
    fields |= {"prompt": prompt, "negative": negative, "count": count, "model": model, **read_size(size)}
    from maquette.cli.progress import PaintingBar

    with PaintingBar() as bar:
        paths = paint(fields, out, opening, bar)
    for path in paths:
        typer.echo(path)


def read_size(size: str | None) -> dict[str, int]:
    """The fields width and height that "512x768" means; none of them for None."""
    if size is None:
        return {}
    match = re.fullmatch(r"(\d{1,9})\s*[xX×]\s*(\d{1,9})", size.strip(), re.ASCII)
    if match is None:
        raise MaquetteError(f"size {size!r} is not WIDTHxHEIGHT; give one such as 128x128")
    return {"width": int(match[1]), "height": int(match[2])}


def paint(fields: dict[str, Any], out: Path | None, opening: Opening, bar: "PaintingBar") -> list[Path]:
    """Validate, open, paint and write, saying what is done; the paths of the pictures."""
    from maquette.workflows.loop import batches, resolve, run
    from maquette.workflows.picture import check_out, free_name
    from maquette.workflows.request import Request
    from maquette.workflows.txt2img import txt2img

    request = Request.read(fields)
    check_out(out or OUTPUTS / "picture.png")
    bar.say(f"opening {request.model}")
    model = open_from_options(request.model, opening)
    resolved = resolve(request, model)
    bar.begin(resolved.steps, len(batches(resolved)))
    result = run(txt2img(model, resolved), bar.count)
    bar.say("writing")
    return result.save(out or free_name(OUTPUTS, resolved))
