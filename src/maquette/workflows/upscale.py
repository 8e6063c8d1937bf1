"""Pictures made larger by a network that was trained to, with nothing painted anew."""

from collections.abc import Sequence

from PIL import Image

from maquette.engine.image import to_images
from maquette.engine.upscale import Upscaler
from maquette.errors import MaquetteError
from maquette.workflows.canvas import MAX_PIXELS, to_pixels


def check_size(size: tuple[int, int], scale: float) -> None:
    """Refuse to make a picture of `size` (width, height) larger than any may be."""
    width, height = (round(side * scale) for side in size)
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS / 2**20:g} megapixels"
        raise MaquetteError(
            f"enlarged the picture would be {width}x{height}, and the limit is {limit}; give a smaller one"
        )


def enlarge(upscaler: Upscaler, images: Sequence[Image.Image]) -> list[Image.Image]:
    """Pictures as many times larger as the network makes them; one at a time, for the memory of one.

    Raises:
        MaquetteError: one would become larger than any picture may be.
    """
    for image in images:
        check_size(image.size, upscaler.scale)
    return [large for image in images for large in to_images(2 * upscaler.enlarge((to_pixels([image]) + 1) / 2) - 1)]
