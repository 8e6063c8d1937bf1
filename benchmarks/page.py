"""docs/benchmarks.md: each program writes its own section anew, of the figures that it keeps in build/benchmarks.

python benchmarks/page.py     writes those of all figures that are there
"""

import json
import re
import statistics
from collections.abc import Sequence
from os import cpu_count
from pathlib import Path
from platform import processor
from typing import Any

from maquette.weights.atomic_file import replacing

ROOT = Path(__file__).resolve().parents[1]
FIGURES, PAGE = ROOT / "build" / "benchmarks", ROOT / "docs" / "benchmarks.md"
INTRODUCTION = """\
# Speed, beside others

Written by the programs named below, each its own section. Contestants take turns, each in a process of its own, in the
same run; a ratio is the median of the rounds' ratios, in brackets are the least and the largest. The processor's
seconds are summed over its cores; what else runs on the machine disturbs them less. The ceiling is what one core
reaches in those seconds, times the cores; copies are one core's.
Weights are random, of the published shapes: time does not depend on them.
"""
LAST = "## What was tried"
TRIED = f"""
{LAST}

Kept, measured by itself on two cores of an AMD EPYC with AVX512-BF16 and without AMX, in bfloat16; layers on one core,
the others in the processor's seconds, on a machine that did other things too:

| what | before | after |
|---|---|---|
| convolutions behind a doubling folded to 2 x 2: 640 channels, 32 to 64, two pictures | 283 ms | 145 ms |
| the same, 512 channels, 64 to 128, one picture | 372 ms | 177 ms |
| that, and what precedes the first cross-attention once for both halves of guidance: a step | 13.0 s | 12.2 s |
| folding, then activations and sums in place: a decode | 14.6 s | 12.9 s, 12.4 s |
| attention by products, 4096 places, 8 heads of 40, a core | 351 ms | 217 ms |
| the same, 4096 places, 10 heads of 64; 1100 places, 24 heads of 128 | 660; 192 ms | 415; 130 ms |
| 128 queries at a time at least, not 16: 16384 places, a head of 80; 65536 places, of 40 | 0.90; 13.5 s | 0.76; 8.6 s |
| GEGLU as two products changed in place, 320 channels, a core | 145 ms | 110 ms |
| attention and GEGLU so: a step, processor's seconds | 11.3 s | 9.5 s |
| decoding 2048 x 2048 by tiles: maps kept, a better guess, faster sums; processor's seconds | 1135 s | 528 s |

Attention by products rounds the scores to bfloat16, which doubles the error of the kernel alone where attention is
peaked. Of eight pictures of the shipped model (four prompts, 20 steps) the root mean square difference in levels of 255
to float32 is 0.75, 0.69, 0.55 and 0.47 with PyTorch's kernel, and 0.70, 0.67, 0.54 and 0.47 with products, at every
length; the two differ by 0.64, 0.55, 0.51 and 0.43.

OpenVINO runs a step at 8.5 of the processor's seconds, of which 45 % go to convolution, 26 % to linear layers and 25 %
to attention; what is left, all norms and element-wise work, is fused into them; of ours it was 15 %.

What is left lies near the ceiling: convolutions reach 180 to 229 GFLOP/s a core where a product of 2048 x 2048
reaches 206, linear layers as much, attention about 100. A step of 1.607 TFLOP (all of attention counted) takes 7.8
of the processor's seconds at the ceiling; 0.88 of OpenVINO's would be 7.5. A decode reaches 110 % of the ceiling, in
diffusers' products, for folded convolutions need fewer; 0.40 of diffusers' time would be 180 %.

Not kept:

- `torch.compile` block by block on this CPU: 1.06 and 1.03 of the time of residual blocks of 320 and 960 channels,
  1.03 and 0.91 of transformers of 320 and 640, for 17 to 57 s of compiling each on a busy core. It is not used.
- FlexAttention, compiled: 3.5 times PyTorch's kernel (19 to 31 GFLOP/s), for without AMX it multiplies by vectors.
- Memory from the heap instead of fresh pages (MALLOC_MMAP_MAX_=0): 0.95 of the time of a transformer of 320 channels
  by itself, nothing over a whole step.
- Convolutions of 3 x 3 as one product of gathered places: 0.58 of the time for 2560 channels at 8 x 8 and 0.88 at
  16 x 16, but 1.05 to 1.5 elsewhere; a saving of 1 % of a step.
- Keys shifted by their mean, which softmax does not see: scores are rounded less where keys have much in common (0.87
  of the error), more where they do not (1.05).
- Time embeddings ahead: a few products of one row in a step.
- GEGLU by parts of the tokens: 0.92 of the time at 320 channels, 1.07 at 640.
- Convolution weights in oneDNN's own order: 0.93 to 0.99 of the time, for a second copy of the weights.
- Winograd's F(2 x 2, 3 x 3) by products of matrices: 0.57 to 0.63 of the time of a convolution of 512 to 1280
  channels, 0.80 of 256, 0.89 of 320 and 1.07 of 128, so about 0.86 of a decode and 0.91 of a step; but 2.4 times a
  convolution's error in bfloat16, and 1.8 times the memory of its weights.
- Heads padded to a width of 64, 96 or 192: slower.
- Keys and values of the text once a picture: 0.4 % of the products, not worth a cache.

Without AMX bfloat16 products are 2.2 times as fast as those in float32, not 8: the targets that compare the two
precisions cannot be met on this machine.
"""


def machine(device: str = "cpu") -> str:
    """The processor's name and its cores, or the GPU's name."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor())
    flags = next((line for line in lines if line.startswith("flags")), "")
    has = [mark for mark in ("avx512_bf16", "amx_bf16") if mark in flags]
    return f"{name}, {cpu_count()} cores, {', '.join(has) or 'no instructions for bf16'}"


def keep(name: str, figures: dict[str, Any]) -> None:
    """Keep a program's figures, and write their section of the page anew."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    with replacing(FIGURES / f"{name}.json") as file:
        file.write(json.dumps(figures, indent=2).encode())
    write([name])


def write(names: Sequence[str]) -> None:
    """Write the sections of figures that were kept; all others stay as the page has them, in the order of titles."""
    makers = {"picture": picture, "approximate-mini": approximate, "approximate-sd1": approximate}
    makers |= {"scale": grown, "scale-cuda": grown}
    _, *there = re.split(r"^(?=## )", PAGE.read_text("utf-8") if PAGE.is_file() else "", flags=re.MULTILINE)
    sections = {each.partition("\n")[0]: each.rstrip() for each in there}
    for name in names:
        made = makers.get(name, compared)(json.loads((FIGURES / f"{name}.json").read_text("utf-8"))).strip()
        sections[made.partition("\n")[0]] = made
    sections.pop(LAST, None)
    text = "\n\n".join([INTRODUCTION.strip(), *(sections[title] for title in sorted(sections)), TRIED.strip()])
    with replacing(PAGE) as file:
        file.write(f"{text}\n".encode())


def compared(figures: dict[str, Any]) -> str:
    """The section of a comparison: a row for each contestant."""
    rounds, rates = figures["rounds"], figures["ceiling"]
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    tflop = figures.get("tflop")
    flop = f" Products and sums: {tflop} TFLOP." if tflop else ""
    lines = [
        f"\n## {figures['title']}\n\n    {figures['command']}\n\n{figures['machine']}; {versions}; threads: "
        f"{figures['threads']}. Ceiling in the same "
        f"run: {rates['bfloat16']:.2f} TFLOP/s in bf16, {rates['float32']:.2f} in float32, copies {rates['copy']:.0f} "
        f"GB/s.{flop}\n\n| contestant | seconds | ours / this | processor's seconds | ours / this | of the ceiling "
        "| peak memory, GB |\n|---|---|---|---|---|---|---|\n",
    ]
    first, cpu = next(iter(rounds)), not figures.get("device", "cpu").startswith("cuda")
    for name, told in rounds.items():
        cells = []
        for clock in ("wall", "cpu"):
            ours, times = ([each[clock] for each in rounds[who]] for who in (first, name))
            ratios = [a / b for a, b in zip(ours, times, strict=True)]
            cells += [spread(times), "" if name == first else spread(ratios)]
        took = min(each["cpu"] / figures["threads"] if cpu else each["wall"] for each in told)
        cells.append(f"{tflop / took / rates[name.rpartition(', ')[2]]:.0%}" if tflop else "")
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


def approximate(figures: dict[str, Any]) -> str:
    """The section of approximate speed: a row for each way; PSNR in decibels, the judge's figures in percent."""
    judged = list(next(iter(figures["judge"].values()), {}))
    heads = ["way", "time / exact", *(["PSNR: mean, least"] if figures["psnr"] else []), *judged]
    lines = [
        f"\n## {figures['title']}\n\n    {figures['command']}\n\n{figures['machine']}.\n\n",
        f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n",
    ]
    for name, ratios in figures["ratios"].items():
        cells = [name, spread(ratios)]
        if figures["psnr"]:
            values = figures["psnr"][name]
            cells.append("" if name == "exact" else f"{statistics.mean(values):.1f}, {min(values):.1f}")
        cells += [f"{each:.1f}" for each in figures["judge"].get(name, {}).values()]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join([*lines, f"\n{figures['note']}\n" if figures.get("note") else ""])


def grown(figures: dict[str, Any]) -> str:
    """The section of scale: each series as a row, its exponents, and the charts."""
    from scale import CHARTS, NAMES, exponents

    lines = [
        f"\n## How time and memory grow\n\n    {figures['command']}\n\n{figures['machine']}. Time is the processor's "
        "(a GPU's by the clock), memory what is needed beside the network. Exponents are slopes of the lines that fit "
        "best in logarithms.\n\n| what | against | seconds | exponent | GB | exponent |\n|---|---|---|---|---|---|\n"
    ]
    against = {what: across for _, across, whats in CHARTS.values() for what in whats}
    for what, powers in exponents(figures["series"]).items():
        points = figures["series"][what]
        seconds, sizes = (
            ", ".join(f"{x}: {each[clock] / unit:.2f}" for x, each in points.items())
            for clock, unit in (("seconds", 1), ("bytes", 1e9))
        )
        lines.append(f"| {NAMES[what]} | {against[what]} | {seconds} | {powers[0]:.2f} | {sizes} | {powers[1]:.2f} |\n")
    images = sorted((ROOT / "docs" / "images").glob(f"scale-*s{figures['suffix']}.svg"))
    return "".join([*lines, "\n", *(f"![{path.stem}](images/{path.name})\n" for path in images)])


def spread(values: list[float]) -> str:
    """The median, the least and the largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    write([path.stem for path in sorted(FIGURES.glob("*.json"))])
