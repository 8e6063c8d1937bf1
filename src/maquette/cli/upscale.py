"""`maquette upscale`: a picture made larger by a network, with nothing painted anew."""

from pathlib import Path
from typing import Annotated

import typer

from maquette.errors import MaquetteError


def upscale(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The picture.")],
    network: Annotated[str, typer.Option("--by", metavar="PATH", help="The network: an ESRGAN or Real-ESRGAN file.")],
    scale: Annotated[
        float | None, typer.Option(help="How much larger both sides become. [default: the network's]")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="A .png file. [default: IMAGE-large.png]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps. [default: the fastest here]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: float32]")] = None,
) -> None:
    """Make a picture larger by a network such as Real-ESRGAN and print its path."""
    from maquette.cli.progress import PaintingBar

    with PaintingBar() as bar:
        from maquette.engine.device import fastest_device, read_device, read_precision
        from maquette.engine.upscale import open_upscaler
        from maquette.weights.atomic_file import replacing
        from maquette.workflows.canvas import fit, read_image
        from maquette.workflows.picture import check_out, make_folder
        from maquette.workflows.upscale import check_size, enlarge

        if out is not None:
            check_out(out)
        if scale is not None and not 1 <= scale <= 16:
            raise MaquetteError(f"--scale must be from 1 to 16, got {scale:g}")
        given = read_image(image)
        to = out or Path(image).with_name(f"{Path(image).stem}-large.png")
        check_out(to)
        check_size(given.size, scale or 1)
        bar.say(f"opening {network}")
        place = fastest_device() if device is None else read_device(device)
        upscaler = open_upscaler(network, place, read_precision(dtype or "float32"))
        bar.say(f"enlarging {given.width}x{given.height}")
        [large] = enlarge(upscaler, [given])
        if scale is not None:
            large = fit(large, round(given.width * scale), round(given.height * scale), "stretch")
        make_folder(to.parent)
        with replacing(to) as file:
            large.save(file, "PNG")
    typer.echo(to)
