"""The catalogue of emoji: which there are, what they are called in English and Chinese, and their sprites.

Glyphs come from the font Noto Color Emoji (bitmaps of 136 x 128 pixels), names and keywords from the Unicode CLDR
annotations. Both are read from the system; nothing of them is stored here.
"""

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from maquette.errors import MaquetteError
from maquette.training import words
from maquette.training.grammar import countable

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
CLDR = Path("/usr/share/unicode/cldr/common/annotations")
FONT_SIZE = 109  # the one size at which the font has bitmaps

THING, PERSON, SIGN = "thing", "person", "sign"
RARE_WEIGHT = 0.25  # people and signs are drawn a quarter as often as things


KNOWN = "Debian 12's fonts-noto-color-emoji 2.042 and unicode-cldr-core 41"
"""The versions that the shipped judge, and the palette of semantic maps, were made with."""


@dataclass(frozen=True, slots=True)
class Emoji:
    """One emoji: a single code point with a glyph and with names in both languages."""

    index: int
    character: str
    group: str  # thing, person or sign
    weight: float  # how often scenes choose it, relative to 1
    names_en: tuple[str, ...]  # the CLDR name first, then everyday names; lower case
    names_zh: tuple[str, ...]
    base_en: str  # the name without its colour: "apple" for "red apple"
    base_zh: str
    countable: bool  # whether "two ..." can be said of it in English
    colour: str | None  # the colour in its name
    keywords_en: tuple[str, ...]
    keywords_zh: tuple[str, ...]
    measure: str  # the Chinese measure word


def font_path() -> Path:
    """The emoji font: $MAQUETTE_EMOJI_FONT, or where Debian puts it; raises MaquetteError if it is missing."""
    path = Path(os.environ.get("MAQUETTE_EMOJI_FONT", FONT))
    if not path.is_file():
        raise MaquetteError(
            f"the emoji font is not at {path}: install the Debian package fonts-noto-color-emoji, "
            "or name the file in MAQUETTE_EMOJI_FONT"
        )
    return path


def annotations_path(language: str) -> Path:
    """The CLDR annotations of a language, from the folder $MAQUETTE_CLDR or where Debian puts them."""
    path = Path(os.environ.get("MAQUETTE_CLDR", CLDR)) / f"{language}.xml"
    if not path.is_file():
        raise MaquetteError(
            f"the Unicode names are not at {path}: install the Debian package unicode-cldr-core, "
            "or name the folder with en.xml and zh.xml in MAQUETTE_CLDR"
        )
    return path


@functools.cache
def catalogue() -> tuple[Emoji, ...]:
    """All emoji in the order of their code points; raises MaquetteError if the font or the CLDR is missing."""
    english, chinese = _annotations("en"), _annotations("zh")
    font = _font()
    excluded = _ranges(words.EXCLUDED)
    found: list[Emoji] = []
    seen: set[str] = set()
    for character in sorted(english.keys() & chinese.keys()):
        if ord(character) in excluded or not _has_glyph(font, character):
            continue
        emoji = _describe(len(found), character, english[character], chinese[character])
        if emoji.names_en[0] not in seen and emoji.names_zh[0] not in seen:  # a name means one picture
            seen |= {emoji.names_en[0], emoji.names_zh[0]}
            found.append(emoji)
    if not found:
        raise MaquetteError(f"the font {font_path()} has no emoji: name Noto Color Emoji in MAQUETTE_EMOJI_FONT")
    return tuple(found)


@functools.cache
def fingerprint() -> str:
    """Sixteen hexadecimal digits that change with the catalogue: indices agree only where these agree."""
    text = "\n".join(f"{e.character} {e.names_en[0]} {e.names_zh[0]}" for e in catalogue())
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@functools.cache
def names_in_use() -> frozenset[str]:
    """Every name and alias, in both languages."""
    return frozenset(name for emoji in catalogue() for name in emoji.names_en + emoji.names_zh)


@functools.lru_cache(maxsize=64)
def glyph(index: int) -> Image.Image:
    """The emoji's bitmap, (128, 128) RGBA; all lie within the middle 128 of the font's 136 columns."""
    image = Image.new("RGBA", (136, 128))
    ImageDraw.Draw(image).text((0, 0), catalogue()[index].character, font=_font(), embedded_color=True)
    return image.crop((4, 0, 132, 128))


@functools.cache
def sprite(index: int, size: int) -> NDArray[np.uint8]:
    """The emoji at a size, (size, size, 4) premultiplied RGBA; kept once made (150 MB for all of them)."""
    small = glyph(index).convert("RGBa").resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.array(small)
    np.minimum(pixels[..., :3], pixels[..., 3:], out=pixels[..., :3])  # the filter overshoots at edges
    return pixels


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(str(font_path()), FONT_SIZE)
    except OSError as error:
        raise MaquetteError(f"{font_path()} is not a bitmap emoji font ({error}): use NotoColorEmoji.ttf") from error


def _has_glyph(font: ImageFont.FreeTypeFont, character: str) -> bool:
    _, top, _, bottom = font.getbbox(character)
    return bottom > top


def _annotations(language: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Character to (name, keywords), for the single code points that have a name."""
    path = annotations_path(language)
    names: dict[str, str] = {}
    keywords: dict[str, tuple[str, ...]] = {}
    try:
        entries = list(ElementTree.parse(path).iter("annotation"))
    except ElementTree.ParseError as error:
        raise MaquetteError(f"{path} is not readable XML ({error}): reinstall unicode-cldr-core") from error
    for entry in entries:
        character = (entry.get("cp") or "").removesuffix("\N{VARIATION SELECTOR-16}")
        if len(character) != 1 or not entry.text:
            continue
        if entry.get("type") == "tts":
            names[character] = _clean(entry.text)
        else:
            keywords[character] = tuple(_clean(word) for word in entry.text.split("|"))
    return {character: (name, keywords.get(character, ())) for character, name in names.items()}


def _clean(text: str) -> str:
    """Lower case, plain apostrophes, no quotation marks, nothing in brackets."""
    text = text.replace("’", "'").translate({ord(mark): None for mark in "“”!"})
    return text.split("(")[0].strip().lower()


def _describe(
    index: int, character: str, english: tuple[str, tuple[str, ...]], chinese: tuple[str, tuple[str, ...]]
) -> Emoji:
    group = _group(ord(character))
    name_en, name_zh = _names(character, english[0], chinese[0])
    colour = _leading_colour(name_en) if character not in words.KEEP_COLOUR else None
    base_en, base_zh = name_en, words.BASE_ZH.get(character, name_zh)
    if colour:
        base_en = name_en.removeprefix(colour).strip()
        prefix = next((p for p in words.COLOUR_PREFIXES_ZH[colour] if name_zh.startswith(p)), "")
        base_zh = name_zh.removeprefix(prefix)
    elif name_zh.startswith("红") and base_zh != name_zh:
        colour = "red"
    return Emoji(
        index=index,
        character=character,
        group=group,
        weight=1.0 if group == THING or character in words.COMMON else RARE_WEIGHT,
        names_en=(name_en, *words.ALIASES_EN.get(character, ())),
        names_zh=(name_zh, *words.ALIASES_ZH.get(character, ())),
        base_en=base_en,
        base_zh=base_zh,
        countable=countable(name_en),
        colour=colour,
        keywords_en=english[1],
        keywords_zh=chinese[1],
        measure=_measure(character),
    )


def _names(character: str, english: str, chinese: str) -> tuple[str, str]:
    """The CLDR's names as nouns."""
    code, group = ord(character), _group(ord(character))
    english, chinese = words.NAMES_EN.get(character, english), chinese.replace(" ", "")
    if character in words.NOUNS_ZH:
        return english, words.NOUNS_ZH[character]
    if code in _ranges(words.CLOCKS):
        return f"clock at {english}", f"{chinese}的时钟"
    if code in _ranges(words.ZODIAC):
        return f"{english} symbol", f"{chinese}符号"
    if group == SIGN and english.startswith("no "):
        return f"{english} sign", f"{chinese}标志"
    if code in _ranges(words.FACES) and not chinese.endswith(("脸", "人")):
        return english, f"{chinese}表情"
    return english, chinese


def _group(code: int) -> str:
    if code in _ranges(words.PEOPLE):
        return PERSON
    return SIGN if code in _ranges(words.SIGNS) else THING


def _leading_colour(name: str) -> str | None:
    first, _, rest = name.partition(" ")
    return first if first in words.COLOUR_PREFIXES_ZH and rest else None


def _measure(character: str) -> str:
    for measure, characters in words.MEASURES_ZH.items():
        if character in characters:
            return measure
    return "只" if ord(character) in _ranges(words.ANIMALS) else "个"


@functools.cache
def _ranges(table: str) -> frozenset[int]:
    """Code points of a table such as "A9-AE 2122"."""
    points: set[int] = set()
    for item in table.split():
        first, _, last = item.partition("-")
        points.update(range(int(first, 16), int(last or first, 16) + 1))
    return frozenset(points)
