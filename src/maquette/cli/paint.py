"""The commands that paint: from words, from a picture, a part of one, beyond its edges, or its details."""

from typing import Annotated, Any

import typer

from maquette.cli.opening import Opening
from maquette.cli.options import with_options
from maquette.cli.painting import Painting, paint_and_write, read_detail
from maquette.errors import MaquetteError

Prompt = Annotated[str, typer.Argument(help="What to paint, in English or Chinese; may be empty.")]
Image = Annotated[str, typer.Argument(metavar="IMAGE", help="The picture to begin with.")]
Depth = Annotated[str | None, typer.Option(metavar="IMAGE", help="Bright where things are near.")]
Strength = Annotated[float | None, typer.Option(help="How much of it is new: 0 to 1.")]
MaskBlur = Annotated[int, typer.Option(help="Pixels inside of the mask's edge over which old and new are mixed.")]
MaskGrey = Annotated[
    str | None,
    typer.Option(metavar="mix|strength", help="What grey in it does: mixes old and new, or is the strength."),
]
Beyond = Annotated[int, typer.Option(help="Pixels more on this side.")]

command = with_options(painting=Painting, opening=Opening)


@command
def txt2img(prompt: Prompt, *, painting: Painting, opening: Opening) -> None:
    """Paint what the words say and print the path of the picture."""
    _paint(painting, opening, prompt=prompt)


@command
def img2img(
    image: Image,
    prompt: Prompt = "",
    strength: Strength = None,
    depth: Depth = None,
    *,
    painting: Painting,
    opening: Opening,
) -> None:
    """Repaint a picture as the words say."""
    _paint(painting, opening, prompt=prompt, image=image, strength=strength, depth=depth, repainted=True)


@command
def inpaint(
    image: Image,
    mask: Annotated[str, typer.Argument(metavar="MASK", help="As large as the picture; white is repainted.")],
    prompt: Prompt = "",
    strength: Strength = None,
    mask_blur: MaskBlur = 4,
    mask_grey: MaskGrey = None,
    depth: Depth = None,
    *,
    painting: Painting,
    opening: Opening,
) -> None:
    """Repaint a part of a picture; every other pixel stays as it is."""
    given: dict[str, Any] = {
        "prompt": prompt,
        "image": image,
        "mask": mask,
        "strength": strength,
        "mask_blur": mask_blur,
        "mask_grey": mask_grey,
        "depth": depth,
    }
    _paint(painting, opening, **given)


@command
def outpaint(
    image: Image,
    prompt: Prompt = "",
    left: Beyond = 0,
    top: Beyond = 0,
    right: Beyond = 0,
    bottom: Beyond = 0,
    strength: Strength = None,
    depth: Depth = None,
    *,
    painting: Painting,
    opening: Opening,
) -> None:
    """Go on painting beyond a picture's edges."""
    extend = {"left": left, "top": top, "right": right, "bottom": bottom}
    _paint(painting, opening, prompt=prompt, image=image, extend=extend, strength=strength, depth=depth)


@command
def detail(
    image: Image,
    where: Annotated[list[str], typer.Argument(metavar="BOX|FINDER...", help="Such as 40,40,64,64 or a finder.")],
    prompt: Annotated[str, typer.Option(help="What is there.")] = "",
    strength: Strength = None,
    *,
    painting: Painting,
    opening: Opening,
) -> None:
    """Repaint parts of a picture enlarged, and paste them back."""
    if painting.size is not None:
        raise MaquetteError("detail paints in the picture's own size; leave out --size")
    told = {**read_detail([*where, *(painting.detail or ())])} | ({} if strength is None else {"strength": strength})
    _paint(painting, opening, prompt=prompt, image=image, detail=told)


def _paint(painting: Painting, opening: Opening, *, repainted: bool = False, **fields: Any) -> None:
    given = {name: value for name, value in fields.items() if value is not None}
    paint_and_write({**painting.fields(), **given}, painting, opening, repainted=repainted)
