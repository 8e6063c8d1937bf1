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
in a process of its own, in the same run; a ratio is the median of the rounds' ratios, in brackets are the least and
the largest. The processor's seconds are summed over its cores; what else runs on the machine disturbs them less.
Weights are random, of the published shapes: time does not depend on them.
"""
TRIED = """
## What was tried

Kept, measured by itself on two cores of an AMD EPYC with AVX512-BF16 and without AMX, in bfloat16; layers on one core,
the others in the processor's seconds, on a machine that did other things too:

| what | before | after |
|---|---|---|
| convolutions behind a doubling folded to 2 x 2: 640 channels, 32 to 64, two pictures | 283 ms | 145 ms |
| the same, 512 channels, 64 to 128, one picture | 372 ms | 177 ms |
| that, and what precedes the first cross-attention once for both halves of guidance: a step | 13.0 s | 12.2 s |
| folding, then activations and sums in place: a decode | 14.6 s | 12.9 s, 12.4 s |

Not kept:

- Attention is a third of a step and runs at 60 GFLOP/s a core, where products of large matrices reach 205: without
  AMX, PyTorch's kernel multiplies small blocks slowly. Products in bfloat16 around a softmax take 0.75 of its time but
  round the scores, so that the error is 1.5 to 2.3 times as large; in float32, or in float32 that oneDNN multiplies in
  bfloat16, nothing is won.
- GEGLU by parts of the tokens: 0.92 of the time at 320 channels, 1.07 at 640.
- Convolution weights in oneDNN's own order: 0.93 to 0.99 of the time, for a second copy of the weights.
- Heads padded to a width of 64, 96 or 192: slower.
- Keys and values of the text once a picture: 0.4 % of the products, not worth a cache.

Without AMX bfloat16 products are 2.2 times as fast as those in float32, not 8: the targets that compare the two
precisions cannot be met on this machine.
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
    write()


def write() -> None:
    """Write the page from all figures that were kept."""
    sections = [compared, picture]
    found = [(json.loads(path.read_text()), path.stem) for path in sorted(FIGURES.glob("*.json"))]
    text = "".join(sections[stem == "picture"](each) for each, stem in found)
    with replacing(PAGE) as file:
        file.write((INTRODUCTION + text + TRIED).encode())


def compared(figures: dict[str, Any]) -> str:
    """The section of a comparison: a row for each contestant."""
    rounds, rates = figures["rounds"], figures["ceiling"]
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    lines = [
        f"\n## {figures['title']}\n\n    {figures['command']}\n\n{figures['machine']}; {versions}; threads: "
        f"{figures['threads']}. Ceiling in the same "
        f"run: {rates['bfloat16']:.2f} TFLOP/s in bf16, {rates['float32']:.2f} in float32, copies {rates['copy']:.0f} "
        "GB/s.\n\n| contestant | seconds | ours / this | processor's seconds | ours / this | peak memory, GB |\n",
        "|---|---|---|---|---|---|\n",
    ]
    first = next(iter(rounds))
    for name, told in rounds.items():
        cells = []
        for clock in ("wall", "cpu"):
            ours, times = ([each[clock] for each in rounds[who]] for who in (first, name))
            ratios = [a / b for a, b in zip(ours, times, strict=True)]
            cells += [spread(times), "" if name == first else spread(ratios)]
        lines.append(f"| {name} | {' | '.join(cells)} | {max(each['peak'] for each in told) / 1e9:.2f} |\n")
    total = sum(figures["profile"].values())
    kinds = sorted(figures["profile"].items(), key=lambda item: -item[1])
    lines.append("\nWhere ours goes: " + ", ".join(f"{kind} {time / total:.0%}" for kind, time in kinds) + ".\n")
    return "".join([*lines, f"\n{figures['note']}\n" if figures["note"] else ""])


def picture(figures: dict[str, Any]) -> str:
    """The section of a whole picture."""
    phases = "".join(f"| {name} | {spread(times)} |\n" for name, times in figures["phases"].items())
    return (
        f"\n## {figures['title']}\n\n    {figures['command']}\n\n{figures['machine']}.\n\n"
        f"| phase | seconds |\n|---|---|\n{phases}"
    )


def spread(values: list[float]) -> str:
    """The median, the least and the largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    write()
