"""Drawing scenes: premultiplied sprites laid over a background, in integers, about a third of a millisecond each."""

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from maquette.training.emoji import sprite
from maquette.training.scenes import LARGE, MEDIUM, Background, Scene, Thing
from maquette.training.words import BACKGROUNDS, RECOLOURS

Pixels = NDArray[np.uint8]
LUMA = np.array([77, 150, 29], np.uint16)  # Rec. 601 weights in 256ths
NEON_TUBE, NEON_GLOW = np.array([255, 225, 255]), np.array([255, 40, 200])


def draw(scene: Scene) -> Pixels:
    """The picture, (extent, extent, 3) RGB."""
    canvas = _background(scene.background, scene.extent).copy()
    dark = bool(canvas.mean() < 110)
    for thing in scene.things:
        pixels = styled(thing, scene.style, dark)
        box = canvas[thing.y : thing.y + thing.size, thing.x : thing.x + thing.size]
        # over: c = s + b (255 - a) / 255, where s is premultiplied; (v + 128) * 257 >> 16 divides by 255
        behind = box.astype(np.uint32) * (255 - pixels[..., 3:])
        box[:] = np.minimum(pixels[..., :3] + ((behind + 128) * 257 >> 16), 255)
    return canvas


def semantic_map(scene: Scene) -> NDArray[np.int16]:
    """What is where, (extent, extent): 0 for background, else emoji index + 1 where the bare sprite's alpha > 1/2."""
    labels = np.zeros((scene.extent, scene.extent), np.int16)
    for thing in scene.things:
        box = labels[thing.y : thing.y + thing.size, thing.x : thing.x + thing.size]
        box[sprite(thing.emoji, thing.size)[..., 3] > 127] = thing.emoji + 1
    return labels


def styled(thing: Thing, style: str | None, dark: bool = False) -> Pixels:
    """The thing's sprite recoloured and in a style, (size, size, 4) premultiplied; `dark` says what lies behind."""
    rim = (2 if thing.size < MEDIUM else 3 if thing.size < LARGE else 5) if style == "sticker" else 0
    pixels = sprite(thing.emoji, thing.size - 2 * rim)
    if thing.recolour is not None:
        pixels = _recoloured(pixels, thing.recolour)
    ink = 255 if dark else 0
    match style:
        case "pixel art":
            return _pixelated(pixels)
        case "outline":
            return _filled(_lines(pixels), (ink, ink, ink))
        case "silhouette":
            return _filled(pixels[..., 3], (ink, ink, ink))
        case "black and white":
            return _grey(pixels)
        case "neon":
            return _neon(pixels)
        case "sticker":
            return _sticker(pixels, rim)
    return pixels


@lru_cache(maxsize=512)
def _background(background: Background, extent: int) -> Pixels:
    start = np.array(BACKGROUNDS[background.colour][0], np.float64)
    end = np.array(BACKGROUNDS[background.to or background.colour][0], np.float64)
    ramp = np.linspace(0, 1, extent)[:, None]
    line = np.rint(start + (end - start) * ramp).astype(np.uint8)
    shaped = line[None, :] if background.horizontal else line[:, None]
    return np.ascontiguousarray(np.broadcast_to(shaped, (extent, extent, 3)))


def _luminance(pixels: Pixels) -> Pixels:
    """Of the premultiplied colour, (size, size)."""
    return np.asarray((pixels[..., :3].astype(np.uint16) @ LUMA) >> 8, np.uint8)


@cache
def _ramp(colour: str) -> NDArray[np.uint16]:
    """(511, 3): the colour itself in the middle, dark and light 150 steps of luminance away."""
    knots = np.array(RECOLOURS[colour][0], np.float64)
    return np.stack([np.interp(np.arange(-255, 256), (-150, 0, 150), channel) for channel in knots.T], 1).astype(
        np.uint16
    )


def _recoloured(pixels: Pixels, colour: str) -> Pixels:
    """Luminance mapped through the colour's ramp; the sprite's median luminance becomes the colour itself."""
    alpha = pixels[..., 3].astype(np.int32)
    straight = np.minimum(_luminance(pixels).astype(np.int32) * 255 // np.maximum(alpha, 1), 255)
    inside = straight[alpha > 127]
    middle = int(np.median(inside)) if inside.size else 128
    colours = _ramp(colour)[straight - middle + 255]
    premultiplied = (colours * alpha[..., None] // 255).astype(np.uint8)
    return np.concatenate([premultiplied, pixels[..., 3:]], -1)


def _pixelated(pixels: Pixels) -> Pixels:
    """Blocks of 4 pixels; alpha is all or nothing."""
    size, block = pixels.shape[0], 4
    means = pixels.reshape(size // block, block, size // block, block, 4).mean((1, 3))
    solid = means[..., 3:] > 110
    colours = np.where(solid, means[..., :3] * (255 / np.maximum(means[..., 3:], 1)), 0).clip(0, 255)
    small = np.concatenate([colours, solid * 255], -1).astype(np.uint8)
    return small.repeat(block, 0).repeat(block, 1)


def _filled(alpha: Pixels, colour: tuple[int, int, int]) -> Pixels:
    tint = np.array([*colour, 255], np.uint16)
    return (alpha[..., None].astype(np.uint16) * tint // 255).astype(np.uint8)


def _grey(pixels: Pixels) -> Pixels:
    grey = _luminance(pixels)
    return np.stack([grey, grey, grey, pixels[..., 3]], -1)


def _lines(pixels: Pixels) -> Pixels:
    """A line drawing, (size, size): where alpha or the luminance changes fast."""
    alpha = pixels[..., 3].astype(np.int16)
    light = _luminance(pixels).astype(np.int16)
    padded_alpha, padded_light = np.pad(alpha, 1), np.pad(light, 1, mode="edge")
    edges = np.zeros(alpha.shape, np.int16)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        window = np.s_[dy : dy + alpha.shape[0], dx : dx + alpha.shape[1]]
        edges = np.maximum(edges, alpha - padded_alpha[window])
        edges = np.maximum(edges, (np.abs(light - padded_light[window]) - 14) * 5 * (alpha > 200))
    return edges.clip(0, 255).astype(np.uint8)


def _neon(pixels: Pixels) -> Pixels:
    """A bright tube along the lines, and a soft glow around it."""
    lines = Image.fromarray(_lines(pixels))
    glow = np.asarray(lines.filter(ImageFilter.BoxBlur(3)), np.float32) / 255
    tube = np.asarray(lines, np.float32) / 255
    alpha = np.maximum(tube, np.minimum(glow * 1.6, 0.7))[..., None]
    colour = NEON_GLOW + (NEON_TUBE - NEON_GLOW) * tube[..., None]
    return np.concatenate([colour * alpha, 255 * alpha], -1).clip(0, 255).astype(np.uint8)


def _sticker(pixels: Pixels, rim: int) -> Pixels:
    """The sprite within a white rim with a thin grey edge; the rim adds to all sides."""
    small = np.pad(pixels, ((rim, rim), (rim, rim), (0, 0)))
    alpha = Image.fromarray(small[..., 3])
    border = np.asarray(alpha.filter(ImageFilter.MaxFilter(2 * rim + 1)))
    white = np.asarray(alpha.filter(ImageFilter.MaxFilter(2 * rim - 1)))
    paper = np.maximum(white, border // 2 + border // 8)
    under = np.stack([paper, paper, paper, border], -1).astype(np.uint16)
    over = small.astype(np.uint16)
    return np.minimum(over + under * (255 - over[..., 3:]) // 255, 255).astype(np.uint8)
