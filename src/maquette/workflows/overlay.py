"""Heat maps over a picture, one for each word: where the model looked while it painted."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling

from maquette.engine.attention_maps import AttentionMaps

LEAST = 256  # pixels: smaller pictures are enlarged by a whole number, or captions would not fit
WIDEST = 2048  # pixels of a sheet, unless one picture is wider
CAPTION, MARGIN = 24, 6  # pixels
DIMMED = 0.55  # light left of the picture where the model did not look
RAMP = np.array([[20, 10, 80], [130, 20, 130], [235, 80, 60], [255, 225, 80]], dtype=np.float64)  # cold to hot
Caption = tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, str]
CHINESE_FONTS = (
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-zenhei.ttc", "wqy-microhei.ttc"),
    *("DroidSansFallbackFull.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "msyh.ttc", "simhei.ttf"),
)


def sheet(image: Image.Image, maps: AttentionMaps, words: Sequence[str] = ()) -> Image.Image:
    """The picture, and beside it where the model looked for each word (by default, each of the prompt), captioned.

    Raises:
        MaquetteError: a word is not in the prompt, or the maps are not those of one picture.
    """
    words = words or maps.words
    scale = -(-LEAST // min(image.size)) if min(image.size) < LEAST else 1
    picture = image.convert("RGB").resize((image.width * scale, image.height * scale), Resampling.NEAREST)
    cells = [(picture, ""), *((heated(picture, maps[word].numpy()), word) for word in words)]
    columns = min(len(cells), max(WIDEST // (picture.width + MARGIN), 1))
    width, height = picture.width + MARGIN, picture.height + CAPTION + MARGIN
    page = Image.new("RGB", (columns * width - MARGIN, -(-len(cells) // columns) * height - MARGIN), "white")
    pen = ImageDraw.Draw(page)
    for number, (cell, word) in enumerate(cells):
        left, top = number % columns * width, number // columns * height
        page.paste(cell, (left, top))
        font, text = caption(word, f"word {number}")
        pen.text((left + 2, top + cell.height + CAPTION // 2), text, "black", font, anchor="lm")
    return page


def heated(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    """The picture under a heat map (h, w) from 0, where it is only dimmed, to 1, where it hardly shows."""
    smooth = Image.fromarray(heat.astype(np.float32)).resize(picture.size, Resampling.BICUBIC)
    share = np.asarray(smooth, dtype=np.float64).clip(0, 1)
    stops = np.linspace(0, 1, len(RAMP))
    colours = np.stack([np.interp(share, stops, RAMP[:, channel]) for channel in range(3)], axis=-1)
    cover = 0.8 * share[..., None]
    mixed = (1 - cover) * DIMMED * np.asarray(picture, dtype=np.float64) + cover * colours
    return Image.fromarray(mixed.round().astype(np.uint8))


def caption(text: str, instead: str, size: int = round(CAPTION * 0.7)) -> Caption:
    """A font of so many pixels and the text; what is said `instead` where no font here has its letters."""
    latin = ImageFont.load_default(size)
    if all(ord(letter) < 0x250 for letter in text):
        return latin, text
    font = chinese_font()
    return (latin, instead) if font is None else (font.font_variant(size=size), text)


@cache
def chinese_font() -> ImageFont.FreeTypeFont | None:
    """A font of this machine that has Chinese letters."""
    for name in CHINESE_FONTS:
        try:
            return ImageFont.truetype(name, round(CAPTION * 0.7))
        except OSError:
            continue
    return None
