"""The options of every command that paints, and how it paints: open, run with a bar, write, print the paths."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from maquette.cli.controls import FORM, FURTHER, read_controls
from maquette.cli.forms import read_interval, read_number, read_size, split_number, split_pair
from maquette.cli.guidance import GUIDANCE
from maquette.cli.opening import Opening, open_from_options
from maquette.errors import MaquetteError
from maquette.weights.place import existing

BOX = re.compile(r"[\d\s,x+]+")
OUTPUTS = Path("outputs")  # where pictures go that no name was given for
Several = list[str] | None
PLAIN = (
    "negative",
    "seed",
    "steps",
    "guidance",
    "image_guidance",
    "true_guidance",
    "sampler",
    "schedule",
    "count",
    "model",
    "rescale",
    "cfg_zero",
    "clip_skip",
    "noise",
    "noise_delta",
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
    image_guidance: Annotated[
        float | None, typer.Option(help="How closely a model that is told what to change keeps to the picture.")
    ] = None
    true_guidance: Annotated[
        float, typer.Option(help="Also away from --negative, with models that are told their guidance, such as FLUX.1.")
    ] = 1.0
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
    hires: Annotated[
        str | None, typer.Option(metavar="SCALE[:STRENGTH][:latent]", help="Then enlarge and repaint.")
    ] = None
    upscaler: Annotated[
        str | None, typer.Option(metavar="PATH", help="With --hires: a network that enlarges, such as Real-ESRGAN.")
    ] = None
    detail: Annotated[
        Several, typer.Option(metavar="BOX|FINDER", help="Then repaint these parts enlarged, such as 40,40,64,64.")
    ] = None
    vary: Annotated[
        str | None,
        typer.Option(metavar="SEED|WORDS:AMOUNT", help="Go towards another seed's, or other words', picture."),
    ] = None
    region: Annotated[Several, typer.Option(metavar="BOX|MASK=WORDS", help="Words for a part of the picture.")] = None
    control: Annotated[
        Several, typer.Option(metavar=FORM, help="A control network or adapter and its picture, or the one begun with.")
    ] = None
    control_from: Annotated[
        Several, typer.Option(metavar="NAME[:NUMBER...]", help="Make its picture by canny, scribble, blur, tile, ...")
    ] = None
    control_mode: Annotated[Several, typer.Option(help="balanced, or prompt or control, which then weighs more.")] = (
        None
    )
    control_resize: Annotated[Several, typer.Option(help="Fit its picture by crop, pad or stretch.")] = None
    control_interval: Annotated[Several, typer.Option(metavar="A-B", help="The part of the time it acts in.")] = None
    control_kind: Annotated[Several, typer.Option(help="The number of its kind of picture, if it knows several.")] = (
        None
    )
    control_tower: Annotated[Several, typer.Option(metavar="PATH", help="What an IP-Adapter sees with.")] = None
    control_negative: Annotated[Several, typer.Option(metavar="IMAGE", help="What an IP-Adapter leads away from.")] = (
        None
    )
    refiner: Annotated[str | None, typer.Option(metavar="MODEL[:AT]", help="Another model for the last steps.")] = None
    tiles: Annotated[int | None, typer.Option(metavar="PIXELS", help="Paint a large picture in such windows.")] = None
    cache: Annotated[
        float | None, typer.Option(help="Approximate, faster: leave out what changes little, such as 0.25.")
    ] = None
    merge: Annotated[float | None, typer.Option(help="Approximate: let this share of places attend as one.")] = None
    deviation: Annotated[bool, typer.Option(help="Also paint the exact picture, and say how far it is.")] = False
    rescale: Annotated[float, typer.Option(help="Bring back guidance's contrast: 0 to 1.")] = 0.0
    interval: Annotated[str | None, typer.Option(metavar="A-B", help="The part of the steps with guidance.")] = None
    apg: Annotated[
        str | None,
        typer.Option(metavar="PARALLEL[:MOMENTUM[:THRESHOLD]]", help="Adaptive projected guidance, such as 0:-0.5:15."),
    ] = None
    cfg_zero: Annotated[bool, typer.Option("--cfg-zero", help="CFG-Zero*, guidance for flows.")] = False
    pag: Annotated[
        str | None, typer.Option(metavar="SCALE[:LAYER,...]", help="Perturbed-attention guidance, such as 3.")
    ] = None
    slg: Annotated[
        str | None,
        typer.Option(metavar="SCALE[:LAYER,...[:A-B]]", help="Skip-layer guidance, such as 2.8:7,8,9:0-0.2."),
    ] = None
    freeu: Annotated[
        str | None, typer.Option(metavar="B1,B2,S1,S2", help="FreeU, for U-Nets, such as 1.3,1.4,0.9,0.2.")
    ] = None
    noise: Annotated[str, typer.Option(help="Whose random numbers: cpu, a1111-nv, comfyui, ...")] = "cpu"
    noise_delta: Annotated[int, typer.Option(help="A1111's ENSD.")] = 0
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
        further = {option: getattr(self, option) for option in FURTHER}
        if self.control or any(further.values()):
            given["controls"] = read_controls(self.control or [], further)
        if self.cache is not None or self.merge is not None:
            given["speed"] = {"cache": self.cache or 0.0, "merge": self.merge or 0.0}
        elif self.deviation and self.interval is None:
            raise MaquetteError("--deviation compares approximate pictures with exact ones: give --cache or --merge")
        for option, (field, read) in READERS.items():
            if getattr(self, option) is not None:
                given[field] = read(getattr(self, option))
        if self.upscaler is not None:
            if self.hires is None:
                raise MaquetteError("--upscaler belongs to a second pass: give --hires, or see 'maquette upscale'")
            given["hires"] = {**given["hires"], "upscaler": self.upscaler}
        return given


def _read_hires(text: str) -> Mapping[str, Any]:
    scale, *rest = text.split(":")
    by = {"by": rest.pop()} if rest and rest[-1] in ("latent", "pixel") else {}
    strength = {"strength": read_number("--hires", ":".join(rest))} if rest else {}
    return {"scale": read_number("--hires", scale), **strength, **by}


def read_detail(told: Sequence[str]) -> Mapping[str, Any]:
    """Boxes, and at most one finder."""
    boxes = tuple(filter(BOX.fullmatch, told))
    finders = [each for each in told if each not in boxes]
    if len(finders) > 1:
        raise MaquetteError(f"--detail takes one finder beside boxes, got {' and '.join(finders)}")
    return {"boxes": boxes, "finder": finders[0] if finders else None}


def _read_variation(text: str) -> Mapping[str, Any]:
    before, _, tail = text.rpartition(":")
    counts = before.strip().isdecimal() or re.fullmatch(r"\d*\.?\d+", tail.strip())  # other colons are words'
    other, amount = split_number("--vary", text, 0.1) if counts else (text, 0.1)
    return {"seed": int(other), "amount": amount} if other.strip().isdecimal() else {"prompt": other, "amount": amount}


def _read_regions(told: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
    pairs = (split_pair("--region", each, "BOX=WORDS or MASK=WORDS") for each in told)
    return tuple({"box" if BOX.fullmatch(place) else "mask": place, "prompt": words} for place, words in pairs)


def read_refiner(text: str) -> Mapping[str, Any]:
    """The model of the last steps, and from when on."""
    model, at = (text, 0.8) if existing(text) else split_number("--refiner", text, 0.8)
    return {"model": model, "at": at}


READERS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "hires": ("hires", _read_hires),
    "detail": ("detail", read_detail),
    "vary": ("variation", _read_variation),
    "region": ("regions", _read_regions),
    "refiner": ("refiner", read_refiner),
    "tiles": ("tiles", lambda side: {"size": side, "overlap": side // 64 * 8}),
    "interval": ("interval", partial(read_interval, "--interval")),
    **{option: (option, read) for option, read in GUIDANCE.items()},
}
"""For each option with a form of its own, the field of a request and what reads it."""


def paint_and_write(fields: dict[str, Any], painting: Painting, opening: Opening, *, repainted: bool = False) -> None:
    """Validate, open, paint and write, saying what is done, and print the paths of the pictures.

    A whole picture that is begun with is `repainted` even if no strength is given: elsewhere one may leave that out to
    enlarge or detail alone.
    """
    from maquette.cli.progress import PaintingBar

    with PaintingBar() as bar:
        from maquette.workflows.deviation import deviation
        from maquette.workflows.loop import batches, resolve, run
        from maquette.workflows.paint import count_steps, paint
        from maquette.workflows.picture import check_out, checked_names, free_name
        from maquette.workflows.request import Request

        request, out = Request.read(fields), painting.out
        if out is None:
            check_out(OUTPUTS / "picture.png")
        names, maps = (checked_names(file, request.count) if file else [] for file in (out, painting.attention))
        taken = {path.resolve() for path in maps}
        if both := next((path for path in names if path.resolve() in taken), None):
            raise MaquetteError(f"--out and --attention would both write {both}; give them different names")
        bar.say(f"opening {request.model}")
        model = open_from_options(request.model, opening)
        if repainted and request.strength is None:
            request = request.model_copy(update={"strength": model.family.defaults.strength})
        resolved = resolve(request, model)
        bar.begin(count_steps(resolved), len(batches(model, resolved)))
        if painting.preview:
            bar.watch(model.preview)
        result = run(paint(model, resolved), bar.count)
        bar.say("writing")
        paths = result.save(out or free_name(OUTPUTS, resolved, taken))
        if painting.attention is not None:
            paths += result.save_attention(painting.attention)
        said = ["approximate; --deviation says how far from exact"] if result.approximate else []
        if painting.deviation:
            bar.begin(count_steps(resolved), len(batches(model, resolved)))
            said = [f"approximate: {each.psnr:.1f} dB PSNR to exact" for each in deviation(model, result, bar.count)]
    for path in paths:
        typer.echo(path)
    for line in said:
        typer.echo(line, err=True)
