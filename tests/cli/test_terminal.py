"""Pictures in a terminal: what is written is read back, by the rules of each protocol, as the same picture."""

import io
import re
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image
from rich.console import Console, Group
from rich.live import Live

from maquette.cli import terminal
from maquette.cli.terminal import TerminalPicture, half_blocks, iterm, kitty, place, protocol, show, sixel

PLAIN = {"TERM": "xterm-256color"}


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def console(**options: object) -> Console:
    told = {"force_terminal": True, "color_system": "truecolor", "width": 80, "height": 30, "_environ": PLAIN}
    return Console(file=io.StringIO(), **(told | options))


def written(of: Console) -> str:
    return of.file.getvalue()


def same(found: Image.Image, expected: Image.Image) -> bool:
    return found.size == expected.size and found.convert("RGB").tobytes() == expected.tobytes()


def read_half_blocks(text: str) -> Image.Image:
    pattern = r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀\x1b\[0m"
    lines = [re.findall(pattern, line) for line in text.splitlines()]
    rows = [[list(map(int, cell[3 * half : 3 * half + 3])) for cell in line] for line in lines for half in (0, 1)]
    return Image.fromarray(np.array(rows, dtype=np.uint8))


def read_kitty(text: str) -> tuple[dict[str, str], bytes]:
    parts = re.findall(r"\x1b_G([^;\x1b]*);([A-Za-z0-9+/=]*)\x1b\\", text)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in parts) == text
    keys = [dict(pair.split("=") for pair in each.split(",")) for each, _ in parts]
    assert [each["m"] for each in keys] == ["1"] * (len(parts) - 1) + ["0"]
    assert all(len(data) <= 4096 for _, data in parts)
    return keys[0], b64decode("".join(data for _, data in parts))


def read_sixel(text: str) -> Image.Image:
    match = re.fullmatch(r'\x1bP0;1;0q"1;1;(\d+);(\d+)((?:#\d+;2;\d+;\d+;\d+)+)(.*)\x1b\\', text, re.DOTALL)
    width, height, head, body = int(match[1]), int(match[2]), match[3], match[4]
    palette = {int(c): [int(v) * 2.55 for v in rgb] for c, *rgb in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", head)}
    canvas, top, left, colour = np.full((height, width, 3), np.nan), 0, 0, []
    for number, count, letter in re.findall(r"#(\d+)|!(\d+)(?=.)|(.)", body):
        if number:
            colour = palette[int(number)]
        elif count:
            times = int(count)
            continue
        elif letter in "$-":
            left, top = 0, top + 6 * (letter == "-")
        else:
            for bit in (bit for bit in range(6) if ord(letter) - 63 >> bit & 1):
                assert np.isnan(canvas[top + bit, left : left + times]).all()
                canvas[top + bit, left : left + times] = colour
            left += times
        times = 1
    return canvas


def test_half_blocks_are_the_pixels() -> None:
    out, image = console(), noise(12, 8)
    out.print(TerminalPicture(image, "blocks", 12, 4))
    assert same(read_half_blocks(written(out)), image)
    assert len(list(half_blocks(image, 12, 4))) == 4 * 13


@pytest.mark.parametrize("side", [8, 120])
def test_kitty_sends_the_png_in_chunks(side: int) -> None:
    keys, data = read_kitty(kitty(noise(side, side), 20, 10))
    assert (keys["a"], keys["f"], keys["c"], keys["r"], keys["C"]) == ("T", "100", "20", "10", "1")
    assert same(Image.open(io.BytesIO(data)), noise(side, side))


def test_iterm_sends_the_png() -> None:
    match = re.fullmatch(r"\x1b\]1337;File=([^:]*):([A-Za-z0-9+/=]*)\x07", iterm(noise(9, 7), 20, 10))
    data = b64decode(match[2])
    assert dict(pair.split("=") for pair in match[1].split(";")) == {
        "inline": "1", "size": str(len(data)), "width": "20", "height": "10", "preserveAspectRatio": "0",
    }  # fmt: skip
    assert same(Image.open(io.BytesIO(data)), noise(9, 7))


@pytest.mark.parametrize("size", [(9, 7), (40, 13), (64, 6)])
def test_sixel_paints_every_pixel_once(size: tuple[int, int]) -> None:
    image = noise(*size).quantize(16).convert("RGB")
    assert np.abs(read_sixel(sixel(image)) - np.asarray(image)).max() <= 1.3  # colours are given in percent
    assert np.abs(read_sixel(sixel(Image.new("RGB", size, "red"))) - [255, 0, 0]).max() <= 1.3


@pytest.mark.parametrize(
    ("environment", "options", "expected"),
    [
        ({"KITTY_WINDOW_ID": "1"}, {}, "kitty"),
        ({"TERM": "xterm-ghostty"}, {}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, {}, "iterm"),
        ({"TERM_PROGRAM": "WezTerm"}, {}, "iterm"),
        ({"LC_TERMINAL": "iTerm2"}, {}, "iterm"),
        ({"TERM": "foot"}, {}, "sixel"),
        ({}, {}, "blocks"),
        ({"KITTY_WINDOW_ID": "1", "TMUX": "/tmp/x"}, {}, "blocks"),
        ({"KITTY_WINDOW_ID": "1", "TERM": "screen-256color"}, {}, "blocks"),
        ({}, {"color_system": "256"}, None),
        ({}, {"_environ": {"TERM": "dumb"}}, None),
        ({"KITTY_WINDOW_ID": "1"}, {"force_terminal": False}, None),
    ],
)
def test_the_terminal_is_told_by_its_environment(environment, options, expected) -> None:
    assert protocol(console(**options), PLAIN | environment) == expected


def test_a_picture_takes_the_room_there_is() -> None:
    def size(image: Image.Image, **options: object) -> tuple[int, int] | None:
        found = place(image, console(**options), PLAIN)
        return None if found is None else (found.columns, found.rows)

    assert size(noise(16, 16)) == (32, 16)
    assert size(noise(16, 16), height=12) == (16, 8)
    assert size(noise(64, 16), width=60) == (60, 8)
    assert size(noise(16, 16), height=6) is size(noise(64, 16), width=10) is None
    assert size(noise(8, 8 * 60)) == (1, 16)
    assert size(noise(8, 8 * 66)) is None


def test_nothing_is_shown_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMUX", "KITTY_WINDOW_ID", "TERM_PROGRAM", "LC_TERMINAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    here, nowhere = console(), console(force_terminal=False)
    assert (show(noise(16, 16), here), show(noise(16, 16), nowhere)) == (True, False)
    assert same(read_half_blocks(written(here)).resize((16, 16), Image.Resampling.NEAREST), noise(16, 16)) is False
    assert read_half_blocks(written(here)).size == (32, 32)
    assert written(nowhere) == ""


@pytest.mark.parametrize("how", ["kitty", "iterm", "sixel"])
def test_pictures_take_their_lines_in_a_live_display(how: terminal.Protocol) -> None:
    """Lines are made, the picture is painted from the first of them, the text stands below, the cursor returns."""
    out, line, saved, painted, below = console(), 0, 0, [], []
    with Live(auto_refresh=False, transient=True, console=out) as live:
        for _ in range(3):
            live.update(Group(TerminalPicture(noise(4, 4), how, 12, 6), "words"), refresh=True)
    for token in re.findall(r"\n|\x1b\[\d+A|\x1b[78]|\x1b_G|\x1b\]|\x1bP|words", written(out)):
        if token == "\x1b7":
            saved = line
        elif token.endswith("A"):
            line -= int(token[2:-1])
        line = {"\n": line + 1, "\x1b8": saved}.get(token, line)
        painted += [line] if token[1:] in ("_G", "]", "P") else []
        below += [line] if token == "words" else []
    assert set(painted) == {0}
    assert set(below) == {6}
    assert line == 0
