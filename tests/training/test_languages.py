"""English against Chinese, with a painter that knows one of them and a judge that knows all."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from oracle import Oracle
from painter import Painter
from rich.console import Console

from maquette.diffusion.conditioning import Conditioning
from maquette.training.evaluate import FIGURES, Setting, examples
from maquette.training.languages import Languages, Matched, compare_languages, table
from maquette.training.study import Subject

COUNT = 8
SETTING = Setting.of(Painter.family.defaults).model_copy(update={"guidance": 1.0})

pytestmark = pytest.mark.usefixtures("drawable")


class Englishman(Painter):
    """Paints nothing for Chinese words."""

    def condition(self, captions: Sequence[str], *, chunks: int, negative: bool = False) -> Conditioning:
        return super().condition(
            [words if words.isascii() else "" for words in captions], chunks=chunks, negative=negative
        )


def compared(painter: Painter, folder: Path) -> Languages:
    subject = Subject.of(painter, "j", COUNT)  # type: ignore[arg-type]
    judge = Oracle([example.scene for example in examples(COUNT)])
    return compare_languages(
        painter,  # type: ignore[arg-type]
        judge=judge,
        subject=subject,
        setting=SETTING,
        folder=folder,
        console=Console(file=io.StringIO()),
    )


def test_both_languages_say_the_same_scenes() -> None:
    mixed, english, chinese = (examples(COUNT, language=language) for language in (None, "en", "zh"))
    assert [example.scene for example in english] == [example.scene for example in chinese]
    assert {example.language for example in english} == {"en"}
    for example, *alternatives in zip(mixed, english, chinese, strict=True):
        assert example in alternatives, "captions of the evaluation stay what they are"


def test_who_knows_both_is_right_in_both(tmp_path: Path) -> None:
    found = compared(Painter(), tmp_path)
    assert all(matched == Matched(both=matched.of) for matched in found.matched.values())
    assert found.matched["everything"].of == COUNT
    assert not list(tmp_path.glob("painted-*"))


def test_who_knows_one_is_right_in_that_one(tmp_path: Path) -> None:
    found = compared(Englishman(), tmp_path)
    assert found.matched["everything"] == Matched(english=COUNT)
    assert found.matched["object"] == Matched(english=COUNT // 2)
    assert found.matched["everything"].difference == -1
    assert Languages.model_validate_json((tmp_path / "painter-languages.json").read_bytes()) == found
    rows = [line for line in (tmp_path / "painter-languages.md").read_text().splitlines() if line.startswith("| the")]
    assert rows[0] == "| the single object is right | 100.0 % | 0.0 % | 0.0 % | -100.0 | 0.0 | 4 |"


def test_a_broken_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Englishman):
        def decode(self, latent):  # type: ignore[no-untyped-def]
            if self.painted >= COUNT:
                raise KeyboardInterrupt
            return super().decode(latent)

    with pytest.raises(KeyboardInterrupt):
        compared(Stopped(), tmp_path)
    painter = Englishman()
    assert compared(painter, tmp_path).matched["everything"] == Matched(english=COUNT)
    assert painter.painted == COUNT, "English had been painted"


def test_the_error_is_that_of_matched_pairs() -> None:
    found = Matched(both=10, english=6, chinese=2, neither=2)
    assert found.difference == pytest.approx(-0.2)
    each = [0] * 12 + [-1] * 6 + [1] * 2  # Chinese less English, scene by scene
    mean = sum(each) / 20
    variance = sum((value - mean) ** 2 for value in each) / 20
    assert found.error == pytest.approx(math.sqrt(variance / 20))
    assert math.isnan(Matched().error)
    assert Matched() + found == found


def test_figures_that_nobody_asked_for_are_left_out() -> None:
    subject = Subject(model="m", model_hash="h", judge_hash="j", precision="float32", count=8, seed=0)
    found = Languages(subject=subject, setting=SETTING, matched={figure: Matched() for figure in FIGURES})
    assert len(list(table(found))) == 1
