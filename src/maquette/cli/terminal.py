"""Pictures in a terminal: as pictures where it can show them, else as half blocks in 24-bit colour.

Protocols: kitty's graphics protocol, iTerm2's inline images, and sixel (VT340). Which one is told by the environment;
nothing is asked of the terminal.
"""

import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from PIL.Image import Image, Resampling
from rich.color import Color
from rich.console import Console, ConsoleOptions
from rich.segment import ControlType, Segment
from rich.style import Style

Protocol = Literal["kitty", "iterm", "sixel", "blocks"]

HEIGHT, LEAST = 16, 4  # lines that a picture takes at most, and at least
SPARE = 4  # lines left to the text around it
CELL = 8, 16  # pixels of a character, as sixel has to assume; the others are told characters
KITTY_CHUNK = 4096  # bytes of one escape sequence, at most
KITTY_ID = 7447  # a picture with this number takes the place of the one before
INVISIBLE = [(ControlType.CARRIAGE_RETURN,)]  # tells rich that a segment takes no place
FORGET = Segment(
    f"\x1b_Ga=d,d=I,i={KITTY_ID},q=2\x1b\\", None, INVISIBLE
)  # kitty keeps pictures whose lines are erased


def protocol(console: Console, environment: Mapping[str, str] = os.environ) -> Protocol | None:
    """How a terminal shows pictures; None where it does not, or where nobody looks."""
    if not console.is_terminal or console.is_dumb_terminal or console.legacy_windows:
        return None
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" not in environment and not term.startswith(("screen", "tmux")):  # these would swallow the sequences
        if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
            return "kitty"
        if program in ("iTerm.app", "WezTerm", "mintty") or environment.get("LC_TERMINAL") == "iTerm2":
            return "iterm"
        if "sixel" in term or term.split("-")[0] in ("foot", "mlterm", "contour"):
            return "sixel"
    return "blocks" if console.color_system == "truecolor" else None


def show(image: Image, console: Console) -> bool:
    """Show a picture in the terminal, if it can show one; whether it could."""
    picture = place(image, console)
    if picture is not None:
        console.print(picture)
    return picture is not None


def place(image: Image, console: Console, environment: Mapping[str, str] = os.environ) -> "TerminalPicture | None":
    """A picture that rich prints, as large as the terminal has room for; None where it cannot be shown."""
    how = protocol(console, environment)
    rows = min(HEIGHT, console.height - SPARE)
    columns = round(2 * rows * image.width / image.height)  # characters are twice as high as they are wide
    if columns > console.width:
        columns, rows = console.width, round(console.width * image.height / image.width / 2)
    if how is None or rows < LEAST or columns < 1:
        return None
    return TerminalPicture(image.convert("RGB"), how, columns, rows)


@dataclass(frozen=True)
class TerminalPicture:
    """A picture of so many characters and lines; what is printed next stands below it."""

    image: Image
    protocol: Protocol
    columns: int
    rows: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        if self.protocol == "blocks":
            yield from half_blocks(self.image, self.columns, self.rows)
            return
        # The lines first: at the bottom of the screen they scroll it. Then up, and back to where the cursor was.
        yield from [Segment.line()] * self.rows
        yield Segment(f"\x1b7\r\x1b[{self.rows}A{self._sequence()}\x1b8", None, INVISIBLE)

    def _sequence(self) -> str:
        if self.protocol == "kitty":
            return kitty(self.image, self.columns, self.rows)
        if self.protocol == "iterm":
            return iterm(self.image, self.columns, self.rows)
        width, height = CELL
        return sixel(self.image.resize((self.columns * width, self.rows * height), Resampling.BICUBIC))


def half_blocks(image: Image, columns: int, rows: int) -> Iterator[Segment]:
    """Lines of upper half blocks: the colour of the letter is the upper pixel, that behind it the lower one."""
    pixels = np.asarray(image.resize((columns, 2 * rows), Resampling.BICUBIC)).tolist()
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for front, back in zip(upper, lower, strict=True):
            yield Segment("▀", Style(color=Color.from_rgb(*front), bgcolor=Color.from_rgb(*back)))
        yield Segment.line()


def kitty(image: Image, columns: int, rows: int) -> str:
    """sw.kovidgoyal.net/kitty/graphics-protocol: show a PNG, scaled to characters, without moving the cursor."""
    data = b64encode(_png(image)).decode()
    chunks = [data[start : start + KITTY_CHUNK] for start in range(0, len(data), KITTY_CHUNK)]
    keys = [f"a=T,f=100,i={KITTY_ID},p=1,c={columns},r={rows},C=1,q=2,"] + [""] * (len(chunks) - 1)
    more = [1] * (len(chunks) - 1) + [0]
    return "".join(f"\x1b_G{key}m={m};{chunk}\x1b\\" for key, m, chunk in zip(keys, more, chunks, strict=True))


def iterm(image: Image, columns: int, rows: int) -> str:
    """iterm2.com/documentation-images: show a PNG, scaled to characters."""
    data = _png(image)
    options = f"inline=1;size={len(data)};width={columns};height={rows};preserveAspectRatio=0"
    return f"\x1b]1337;File={options}:{b64encode(data).decode()}\x07"


def sixel(image: Image) -> str:
    """Bands of six lines; in each, for every colour of the palette, which of the six pixels of a column have it."""
    indexed = image.quantize(256)
    palette, pixels = indexed.getpalette() or [], np.asarray(indexed)
    parts = [f'\x1bP0;1;0q"1;1;{image.width};{image.height}']
    for c in range(len(palette) // 3):
        red, green, blue = (round(level / 2.55) for level in palette[3 * c : 3 * c + 3])  # percent
        parts.append(f"#{c};2;{red};{green};{blue}")
    for top in range(0, image.height, 6):
        band = pixels[top : top + 6]
        bits = 1 << np.arange(len(band))[:, None]
        lines = (f"#{c}" + "".join(map(chr, 63 + ((band == c) * bits).sum(0))) for c in np.unique(band))
        parts.append("$".join(re.sub(r"([?-~])\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", line) for line in lines))
        parts.append("-")
    return "".join(parts) + "\x1b\\"


def _png(image: Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
