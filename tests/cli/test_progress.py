import io

from PIL import Image
from rich.console import Console

from maquette.cli import progress
from maquette.diffusion.singlestep import Step
from maquette.workflows.loop import run
from maquette.workflows.paint import paint as txt2img
from maquette.workflows.request import Request


def shown(monkeypatch, model, terminal: bool) -> str:
    """What the bar writes while two batches of three steps are painted."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    resolved = Request(prompt="a red apple", steps=3, count=2).resolved(model.family.defaults)
    with progress.PaintingBar() as bar:
        for doing in ("opening [mini]", "reading the words"):
            bar.say(doing)
            bar._progress.refresh()
        bar.begin(resolved.steps, 2)

        def see(step) -> None:
            bar.count(step)
            bar._progress.refresh()

        run(txt2img(model, resolved), see)
        bar.say("writing")
        bar._progress.refresh()
    return stream.getvalue()


def test_the_bar_shows_what_happens(monkeypatch, model) -> None:
    text = shown(monkeypatch, model, terminal=True)
    for words in ("opening [mini]", "reading the words", "painting", "developing", "writing", "2/6", "6/6", "it/s"):
        assert words in text, words


def test_there_is_no_bar_where_nobody_looks(monkeypatch, model) -> None:
    assert shown(monkeypatch, model, terminal=False) == ""


def previewed(monkeypatch, terminal: bool, **environment: str) -> str:
    """What the bar writes when it is told of one step whose estimate is drawn in red."""
    for name in ("TMUX", "KITTY_WINDOW_ID", "TERM_PROGRAM", "LC_TERMINAL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    told = {"force_terminal": terminal, "color_system": "truecolor", "width": 100, "height": 30}
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=stream, **told))
    seen = []
    with progress.PaintingBar() as bar:
        bar.begin(2, 1)
        bar.watch(lambda x0: seen.append(x0) or [Image.new("RGB", (16, 16), "red")])
        bar.count(Step(x=["noisy"], x0=["first", "second"], level=None))
        bar._progress.refresh()
    assert seen == ([["first"]] if terminal else [])
    return stream.getvalue()


def test_the_estimate_is_shown_above_the_bar(monkeypatch) -> None:
    text = previewed(monkeypatch, True)
    assert text.count("\x1b[38;2;255;0;0;48;2;255;0;0m▀") % (32 * 16) == 0
    assert 0 < text.index("▀") < text.rindex("1/2")
    assert previewed(monkeypatch, False) == ""


def test_kitty_is_told_to_forget_the_picture(monkeypatch) -> None:
    text = previewed(monkeypatch, True, KITTY_WINDOW_ID="1")
    assert "▀" not in text
    assert 0 < text.rindex("\x1b_Ga=T") < text.rindex("\x1b_Ga=d,d=I")
