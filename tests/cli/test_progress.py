import io

from rich.console import Console

from maquette.cli import progress
from maquette.workflows.loop import run
from maquette.workflows.request import Request
from maquette.workflows.txt2img import txt2img


def shown(monkeypatch, model, terminal: bool) -> str:
    """What the bar writes while two batches of three steps are painted."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    monkeypatch.setattr("maquette.workflows.loop.BATCH_PIXELS", 1)
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
