"""docs/benchmarks.md, made of the figures that each program kept in build/benchmarks."""

import json
import statistics
from os import cpu_count
from pathlib import Path
from platform import processor
from typing import Any

from maquette.weights.atomic_file import replacing

ROOT = Path(__file__).resolve().parents[1]
FIGURES, PAGE = ROOT / "build" / "benchmarks", ROOT / "docs" / "benchmarks.md"
INTRODUCTION = """\
# Speed, beside others

Written by the programs named below, which keep what they measured in `build/benchmarks`. Contestants take turns, each
in a process of its own, in the same run; a ratio is the median of the rounds' ratios, with its least and largest.
Weights are random, of the published shapes: time does not depend on them.
"""


def machine() -> str:
    """The processor's name and its cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor())
    flags = next((line for line in lines if line.startswith("flags")), "")
    has = [mark for mark in ("avx512_bf16", "amx_bf16") if mark in flags]
    return f"{name}, {cpu_count()} cores, {', '.join(has) or 'no instructions for bf16'}"


def keep(name: str, figures: dict[str, Any]) -> None:
    """Keep a program's figures, and write the page anew."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    with replacing(FIGURES / f"{name}.json") as file:
        file.write(json.dumps(figures, indent=2).encode())
    sections = [compared, picture]
    found = [(json.loads(path.read_text()), path.stem) for path in sorted(FIGURES.glob("*.json"))]
    text = "".join(sections[stem == "picture"](each) for each, stem in found)
    with replacing(PAGE) as file:
        file.write((INTRODUCTION + text).encode())


def compared(figures: dict[str, Any]) -> str:
    """The section of a comparison: a row for each contestant."""
    clock, rounds = figures["clock"], figures["rounds"]
    what = "seconds" if clock == "wall" else f"seconds of the processor, {figures['threads']} thread(s)"
    rates = figures["ceiling"]
    first, times = next(iter(rounds)), {name: [each[clock] for each in told] for name, told in rounds.items()}
    lines = [
        f"\n## {figures['title']}\n\n    {figures['command']}\n\n{figures['machine']}; "
        f"{', '.join(f'{name} {number}' for name, number in figures['versions'].items())}. Ceiling in the same run: "
        f"{rates['bfloat16']:.2f} TFLOP/s in bf16, {rates['float32']:.2f} in float32, copies {rates['copy']:.0f} "
        "GB/s.\n\n",
        f"| contestant | {what} | least | largest | peak memory, GB | ours / this | least | largest |\n",
        "|---|---|---|---|---|---|---|---|\n",
    ]
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(times[first], seconds, strict=True)]
        peak = max(each["peak"] for each in rounds[name]) / 1e9
        cells = (*spread(seconds), f"{peak:.2f}", *(spread(ratios) if name != first else ("", "", "")))
        lines.append(f"| {name} | {' | '.join(cells)} |\n")
    total = sum(figures["profile"].values())
    kinds = sorted(figures["profile"].items(), key=lambda item: -item[1])
    lines.append("\nWhere ours goes: " + ", ".join(f"{kind} {time / total:.0%}" for kind, time in kinds) + ".\n")
    return "".join([*lines, f"\n{figures['note']}\n" if figures["note"] else ""])


def picture(figures: dict[str, Any]) -> str:
    """The section of a whole picture."""
    phases = "".join(f"| {name} | {' | '.join(spread(times))} |\n" for name, times in figures["phases"].items())
    return (
        f"\n## {figures['title']}\n\n    {figures['command']}\n\n{figures['machine']}.\n\n"
        f"| phase | seconds | least | largest |\n|---|---|---|---|\n{phases}"
    )


def spread(values: list[float]) -> tuple[str, str, str]:
    """The median, the least and the largest."""
    return tuple(f"{each:.2f}" for each in (statistics.median(values), min(values), max(values)))  # type: ignore[return-value]
