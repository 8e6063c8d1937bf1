"""The options of every command that paints, and how it paints: open, run with a bar, write, print the paths."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from maquette.cli.opening import Opening, open_from_options
from maquette.errors import MaquetteError

OUTPUTS = Path("outputs")  # where pictures go that no name was given for
Several = list[str] | None


@dataclass(frozen=True)
class Painting:
    """What is painted, and how; what is None is left to the model."""

    negative: Annotated[str, typer.Option(help="What to keep out of the picture.")] = ""
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same pixels. [default: by chance]")] = None
    steps: Annotated[int | None, typer.Option(help="Denoising steps. [default: the model's]")] = None
    guidance: Annotated[
        float | None, typer.Option(help="How closely to follow the words; 0 ignores them. [default: the model's]")
    ] = None
    sampler: Annotated[str | None, typer.Option(help="Such as euler or dpmpp_2m. [default: the model's]")] = None
    schedule: Annotated[str | None, typer.Option(help="Such as karras or trailing. [default: the model's]")] = None
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Pixels. [default: the model's, or the picture's]")
    ] = None
    count: Annotated[int, typer.Option(help="How many pictures; each has the next seed.")] = 1
    model: Annotated[str, typer.Option(metavar="NAME|PATH", help="The model that paints.")] = "mini"
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="A .png file. [default: a new one in outputs/]")] = (
        None
    )
    hires: Annotated[str | None, typer.Option(metavar="SCALE[:STRENGTH]", help="Then enlarge and repaint.")] = None
    detail: Annotated[
        Several, typer.Option(metavar="BOX|FINDER", help="Then repaint these parts enlarged, such as 40,40,64,64.")
    ] = None
    vary: Annotated[str | None, typer.Option(metavar="SEED:AMOUNT", help="Go towards another seed's picture.")] = None
    region: Annotated[Several, typer.Option(metavar="BOX=WORDS", help="Words for a part of the picture.")] = None
    control: Annotated[
        Several, typer.Option(metavar="MODEL=IMAGE[:SCALE]", help="A control network or adapter and its picture.")
    ] = None
    refiner: Annotated[str | None, typer.Option(metavar="MODEL[:AT]", help="Another model for the last steps.")] = None
    tiles: Annotated[int | None, typer.Option(metavar="PIXELS", help="Paint a large picture in such windows.")] = None
    rescale: Annotated[float, typer.Option(help="Bring back guidance's contrast: 0 to 1.")] = 0.0
    interval: Annotated[str | None, typer.Option(metavar="A-B", help="The part of the steps with guidance.")] = None
    clip_skip: Annotated[int, typer.Option(help="1 reads the text encoder's usual layer, 2 the one before it.")] = 1

    def fields(self) -> dict[str, Any]:
        """The fields of a `Request`.

        Raises:
            MaquetteError: an option is not of the form that its help shows.
        """
        plain = (
            "negative",
            "seed",
            "steps",
            "guidance",
            "sampler",
            "schedule",
            "count",
            "model",
            "rescale",
            "clip_skip",
        )
        given: dict[str, Any] = {name: getattr(self, name) for name in plain} | read_size(self.size)
        if self.hires is not None:
            scale, strength = _parts("--hires", self.hires, 0.6)
            given["hires"] = {"scale": _number("--hires", scale), "strength": strength}
        if self.detail:
            boxes = [each for each in self.detail if re.fullmatch(r"[\d\s,xX+]+", each)]
            finders = [each for each in self.detail if each not in boxes]
            if len(finders) > 1:
                raise MaquetteError(f"--detail takes one finder beside boxes, got {' and '.join(finders)}")
            given["detail"] = {"boxes": tuple(boxes), "finder": finders[0] if finders else None}
        if self.vary is not None:
            seed, amount = _parts("--vary", self.vary, 0.1)
            given["variation"] = {"seed": int(_number("--vary", seed)), "amount": amount}
        if self.region:
            pairs = [_pair("--region", each, "BOX=WORDS") for each in self.region]
            given["regions"] = tuple({"box": box, "prompt": words} for box, words in pairs)
        if self.control:
            given["controls"] = tuple(_control(each) for each in self.control)
        if self.refiner is not None:
            name, at = _parts("--refiner", self.refiner, 0.8)
            given["refiner"] = {"model": name, "at": at}
        if self.tiles is not None:
            given["tiles"] = {"size": self.tiles, "overlap": max(self.tiles // 8 // 8 * 8, 0)}
        if self.interval is not None:
            first, _, last = self.interval.partition("-")
            given["interval"] = (_number("--interval", first), _number("--interval", last))
        return given


def read_size(size: str | None) -> dict[str, int]:
    """The fields width and height that "512x768" means; none of them for None."""
    if size is None:
        return {}
    match = re.fullmatch(r"(\d{1,9})\s*[xX×]\s*(\d{1,9})", size.strip(), re.ASCII)
    if match is None:
        raise MaquetteError(f"size {size!r} is not WIDTHxHEIGHT; give one such as 128x128")
    return {"width": int(match[1]), "height": int(match[2])}


def _parts(option: str, text: str, usual: float) -> tuple[str, float]:
    """What stands before a last colon, and the number behind it, if there is one."""
    before, colon, number = text.rpartition(":")
    return (before, _number(option, number)) if colon else (text, usual)


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise MaquetteError(f"{option}: {text!r} is no number; see --help for its form") from None


def _pair(option: str, text: str, form: str) -> tuple[str, str]:
    before, equals, after = text.partition("=")
    if not (before and equals and after):
        raise MaquetteError(f"{option} {text}: give {form}")
    return before, after


def _control(text: str) -> Mapping[str, Any]:
    model, image = _pair("--control", text, "MODEL=IMAGE[:SCALE]")
    path, colon, scale = image.rpartition(":")
    if not colon or Path(image).exists():
        return {"model": model, "image": image}
    return {"model": model, "image": path, "scale": _number("--control", scale)}


def paint_and_write(fields: dict[str, Any], out: Path | None, opening: Opening) -> None:
    """Validate, open, paint and write, saying what is done, and print the paths of the pictures."""
    from maquette.cli.progress import PaintingBar

    with PaintingBar() as bar:
        from maquette.workflows.loop import batches, resolve, run
        from maquette.workflows.paint import count_steps, paint
        from maquette.workflows.picture import check_out, free_name
        from maquette.workflows.request import Request

        request = Request.read(fields)
        check_out(out or OUTPUTS / "picture.png")
        bar.say(f"opening {request.model}")
        model = open_from_options(request.model, opening)
        resolved = resolve(request, model)
        bar.begin(count_steps(resolved), len(batches(resolved)))
        result = run(paint(model, resolved), bar.count)
        bar.say("writing")
        paths = result.save(out or free_name(OUTPUTS, resolved))
    for path in paths:
        typer.echo(path)
