"""The options of every command that paints, and how it paints: open, run with a bar, write, print the paths."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from maquette.cli.opening import Opening, open_from_options
from maquette.errors import MaquetteError

OUTPUTS = Path("outputs")  # where pictures go that no name was given for
Several = list[str] | None
PLAIN = (
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
    "noise",
)
"""The options that are fields of a request as they are."""


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
    noise: Annotated[str, typer.Option(help="Whose random numbers: cpu, a1111-nv, comfyui, ...")] = "cpu"
    attention: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write where the model looked for each word."),
    ] = None
    preview: Annotated[bool, typer.Option(help="Show the picture as it comes, where the terminal can.")] = True
    clip_skip: Annotated[int, typer.Option(help="1 reads the text encoder's usual layer, 2 the one before it.")] = 1

    def fields(self) -> dict[str, Any]:
        """The fields of a `Request`.

        Raises:
            MaquetteError: an option is not of the form that its help shows.
        """
        given: dict[str, Any] = {name: getattr(self, name) for name in PLAIN} | read_size(self.size)
        given["attention"] = self.attention is not None
        for option, (field, read) in READERS.items():
            if getattr(self, option) is not None:
                given[field] = read(getattr(self, option))
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


def _read_hires(text: str) -> Mapping[str, Any]:
    scale, strength = _parts("--hires", text, 0.6)
    return {"scale": _number("--hires", scale), "strength": strength}


def read_detail(told: Sequence[str]) -> Mapping[str, Any]:
    """Boxes, and at most one finder."""
    boxes = tuple(each for each in told if re.fullmatch(r"[\d\s,x+]+", each))
    finders = [each for each in told if each not in boxes]
    if len(finders) > 1:
        raise MaquetteError(f"--detail takes one finder beside boxes, got {' and '.join(finders)}")
    return {"boxes": boxes, "finder": finders[0] if finders else None}


def _read_variation(text: str) -> Mapping[str, Any]:
    seed, amount = _parts("--vary", text, 0.1)
    return {"seed": int(_number("--vary", seed)), "amount": amount}


def _read_regions(told: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
    pairs = (_pair("--region", each, "BOX=WORDS") for each in told)
    return tuple({"box": box, "prompt": words} for box, words in pairs)


def _read_controls(told: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
    found = []
    for each in told:
        model, image = _pair("--control", each, "MODEL=IMAGE[:SCALE]")
        path, scale = (image, 1.0) if Path(image).exists() else _parts("--control", image, 1.0)
        found.append({"model": model, "image": path, "scale": scale})
    return tuple(found)


def _read_refiner(text: str) -> Mapping[str, Any]:
    model, at = (text, 0.8) if Path(text).exists() else _parts("--refiner", text, 0.8)
    return {"model": model, "at": at}


def _read_interval(text: str) -> tuple[float, float]:
    first, _, last = text.partition("-")
    return _number("--interval", first), _number("--interval", last)


READERS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "hires": ("hires", _read_hires),
    "detail": ("detail", read_detail),
    "vary": ("variation", _read_variation),
    "region": ("regions", _read_regions),
    "control": ("controls", _read_controls),
    "refiner": ("refiner", _read_refiner),
    "tiles": ("tiles", lambda side: {"size": side, "overlap": side // 64 * 8}),
    "interval": ("interval", _read_interval),
}
"""For each option with a form of its own, the field of a request and what reads it."""


def paint_and_write(fields: dict[str, Any], painting: Painting, opening: Opening) -> None:
    """Validate, open, paint and write, saying what is done, and print the paths of the pictures."""
    from maquette.cli.progress import PaintingBar

    with PaintingBar() as bar:
        from maquette.workflows.loop import batches, resolve, run
        from maquette.workflows.paint import count_steps, paint
        from maquette.workflows.picture import check_out, free_name
        from maquette.workflows.request import Request

        request, out = Request.read(fields), painting.out
        for file in (out or OUTPUTS / "picture.png", *([painting.attention] if painting.attention else [])):
            check_out(file)
        bar.say(f"opening {request.model}")
        model = open_from_options(request.model, opening)
        resolved = resolve(request, model)
        bar.begin(count_steps(resolved), len(batches(model, resolved)))
        if painting.preview:
            bar.watch(model.preview)
        result = run(paint(model, resolved), bar.count)
        bar.say("writing")
        paths = result.save(out or free_name(OUTPUTS, resolved))
        if painting.attention is not None:
            paths += result.save_attention(painting.attention)
    for path in paths:
        typer.echo(path)
