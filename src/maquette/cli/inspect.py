"""`maquette inspect`: what a file is and why, without reading its tensors or running anything in it."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from maquette import collector_paused
from maquette.cli.plain import one_line
from maquette.errors import MaquetteError
from maquette.weights.place import ASSETS, expanded

SHOWN = 5  # names of a list that are printed
GB = 1e9


def inspect(
    file: Annotated[Path, typer.Argument(help="A model's file or folder (or mini), a LoRA or an embedding.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    lora: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Say which keys of this LoRA the model would use.")
    ] = None,
    averaged: Annotated[bool, typer.Option(help="Look at the moving average in a training checkpoint.")] = False,
) -> None:
    """Say what a file is: family, layout, precision, what decided, what is missing, the memory it takes."""
    file = expanded(file)
    if not file.exists() and (packaged := ASSETS / file).is_dir():
        file = packaged
    report = _report_on_paper(file, averaged) if not lora and "torch" not in sys.modules else None
    if report is None:
        report = _report(file, averaged, lora or ())
    typer.echo(json.dumps(report, indent=2, ensure_ascii=False) if as_json else "\n".join(lines(report)))


def _report(file: Path, averaged: bool, loras: Iterable[Path]) -> dict[str, Any]:
    with collector_paused():
        from maquette.engine.recognise import Wishes
        from maquette.engine.report import describe_file

        return describe_file(file, Wishes(averaged=averaged), loras)


def _report_on_paper(file: Path, averaged: bool) -> dict[str, Any] | None:
    """The report without importing PyTorch; None if it is needed after all."""
    from maquette.cli.paper import on_paper

    with on_paper():
        try:
            return _report(file, averaged, ())
        except MaquetteError:
            raise
        except Exception:  # whatever the stand-in lacks
            return None


def lines(report: dict[str, Any]) -> list[str]:
    """A report in words, a line for each thing worth knowing."""
    said = [("what", report["title"])]
    if report.get("family"):
        said.append(("family", report["family"]))
    for name, part in report.get("parts", {}).items():
        precision = ", ".join(f"{count} {encoding}" for encoding, count in part["precision"].items())
        size = f"{part['parameters'] / 1e6:,.1f}M parameters"
        said.append((name, f"{part['kind']}, {part['layout']} layout, {size}, tensors: {precision}"))
        said += [(word, shorten(part[word])) for word in ("missing", "surplus") if part[word]]
    for found in report.get("evidence", []):
        assumed = "; assumed, for nothing tells it" if found["assumed"] else ""
        said.append((found["what"], f"{found['value']} (from: {found['why']}{assumed})"))
    for word in ("absent", "surplus"):
        if report.get(word):
            said.append((word, shorten(report[word])))
    for word in ("modules", "ranks", "vectors"):
        if report.get(word):
            said.append((word, str(report[word])))
    said += report.get("training", {}).items()
    memory = ", ".join(f"{size / GB:.2f} GB in {name}" for name, size in report.get("memory", {}).items())
    if memory:
        said.append(("memory", memory))
    for found in report.get("loras", []):
        keys = f"{found['matched']} keys matched, {len(found['unmatched'])} not {shorten(found['unmatched'])}".strip()
        said.append(("LoRA", f"{found['path']}: {found['problem'] or keys}"))
    return [f"{name:<15} {one_line(value)}" for name, value in said]


def shorten(names: list[str]) -> str:
    """The first of some names."""
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
