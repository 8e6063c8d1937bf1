"""One language against the other: the same scenes said in both, painted from the same noise, read by the same judge.

What is right in one language and wrong in the other is all that tells them apart, so that scenes which are hard in
either do not (McNemar 1947). Half of the scenes show one object, half two in a relation.
"""

import math
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from maquette.engine.model import Model
from maquette.training.evaluate import FIGURES, LANGUAGES, Setting, examples, judged, paint_all
from maquette.training.kept import Kept
from maquette.training.readings import Judging
from maquette.training.study import WORDS, Subject, markdown
from maquette.weights.atomic_file import make_folder, replacing


class Matched(BaseModel):
    """How often a figure was right in both languages, in English alone, in Chinese alone, and in neither."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    both: int = 0
    english: int = 0
    chinese: int = 0
    neither: int = 0

    @property
    def of(self) -> int:
        """The scenes that were asked about."""
        return self.both + self.english + self.chinese + self.neither

    @property
    def difference(self) -> float:
        """The share right in Chinese less that in English; NaN if there were none."""
        return (self.chinese - self.english) / self.of if self.of else math.nan

    @property
    def error(self) -> float:
        """The standard error of the difference; NaN if there were none."""
        if not self.of:
            return math.nan
        return math.sqrt((self.english + self.chinese) / self.of - self.difference**2) / math.sqrt(self.of)

    @classmethod
    def of_pair(cls, english: bool, chinese: bool) -> "Matched":
        """One scene's."""
        name = ("both" if chinese else "english") if english else ("chinese" if chinese else "neither")
        return cls(**{name: 1})

    def __add__(self, other: "Matched") -> "Matched":
        return Matched(**{name: getattr(self, name) + getattr(other, name) for name in type(self).model_fields})


class Languages(BaseModel):
    """What the judge says of scenes in both languages, by the figures of `FIGURES`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: Subject
    setting: Setting
    matched: dict[str, Matched] = Field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write NAME-languages.json, and the table as NAME-languages.md."""
        make_folder(folder)
        stem = f"{self.subject.model}-languages"
        for name, text in ((f"{stem}.json", self.model_dump_json(indent=1) + "\n"), (f"{stem}.md", summary(self))):
            with replacing(folder / name) as file:
                file.write(text.encode())


def compare_languages(
    model: Model, *, judge: Judging, subject: Subject, setting: Setting, folder: Path, console: Console | None = None
) -> Languages:
    """Paint the evaluation's scenes, `subject.count` of them, in both languages, and write what was right in which.

    It goes on from the pictures of a run that was broken off in the same folder.
    """
    console = console or Console(stderr=True)
    kept = {language: Kept(folder, f"{subject.model_dump_json()} {setting} {language}") for language in LANGUAGES}
    verdicts = []
    for language in LANGUAGES:
        wanted = examples(subject.count, subject.seed, language)
        pictures = paint_all(model, wanted, setting, subject.seed, console, kept[language])
        verdicts.append(judged(pictures, wanted, judge)[0])
    matched = dict.fromkeys(FIGURES, Matched())
    for english, chinese in zip(*verdicts, strict=True):
        for figure in english:
            matched[figure] += Matched.of_pair(english[figure], chinese[figure])
    result = Languages(subject=subject, setting=setting, matched=matched)
    result.write(folder)
    for pictures_of in kept.values():
        pictures_of.clear()
    return result


def table(found: Languages) -> Iterator[tuple[str, ...]]:
    """A header, then a row for each figure of which there was any."""
    yield ("", "English", "Chinese", "in both", "Chinese - English", "standard error", "of")
    for figure, matched in found.matched.items():
        if matched.of:
            shares = [(matched.both + alone) / matched.of for alone in (matched.english, matched.chinese)]
            shares.append(matched.both / matched.of)
            difference = [f"{100 * matched.difference:+.1f}", f"{100 * matched.error:.1f}"]
            yield (WORDS[figure], *(f"{100 * share:.1f} %" for share in shares), *difference, str(matched.of))


def summary(found: Languages) -> str:
    """The page that people read."""
    subject = found.subject
    lines = [
        f"# English and Chinese: {subject.model}",
        "",
        f"The {subject.count} held-out scenes of the evaluation (seed {subject.seed}), each said in both languages and",
        f"painted from the same noise, in {subject.precision} with {found.setting}.",
        "",
        *markdown(table(found)),
        "",
    ]
    return "\n".join(lines)
