"""What the workflows make of drawn scenes that training never showed, as the judge reads it.

python benchmarks/workflows.py [seam] [replace] [words] [img2img] [detail] [attention] [--count N]

seam       one object's region (its box, or its outline) is repainted: is there a seam, does the rest stay as it was
replace    in one of two objects' boxes another one is asked for: is it found, is the untouched one still found
words      single objects from words alone, to compare `replace` with
img2img    at strengths of 0.3 and 0.9, without words, with those of another thing there, and of another scene: does the
           layout stay, are the words followed
detail     objects of 24 pixels, spoiled by img2img at 0.5 and then repainted as details: are they better
attention  "A to the left of B": does each word's map lie on its side

Case k has the seed + k and is the same whatever the count. Every case is kept as it is done, so that a run that was
stopped, or a larger count, goes on; other weights, another judge, seed, setting or measurement starts anew. The
pictures, a strip for each case, lie beside the figures, which are in report.json.
"""

import argparse
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table
from workflow_attention import EACH, attention_cases, attention_rows
from workflow_cases import Bench, Measure, Record, Row
from workflow_masks import replace_cases, replace_rows, seam_cases, seam_rows, words_cases, words_rows
from workflow_repaints import detail_cases, detail_rows, img2img_cases, img2img_rows

import maquette
from maquette.training.evaluate import Setting, counting
from maquette.training.judge import judge_hash, load_judge
from maquette.weights.atomic_file import replacing
from maquette.workflows.request import Request

HERE = Path(__file__).parent
SHOWN = 12  # details on a sheet
MEASURES = {
    "seam": Measure(50, 1, seam_cases, seam_rows),
    "replace": Measure(100, 1, replace_cases, replace_rows),
    "words": Measure(100, 10, words_cases, words_rows),
    "img2img": Measure(50, 1, img2img_cases, img2img_rows),
    "detail": Measure(50, 1, detail_cases, detail_rows),
    "attention": Measure(168, EACH, attention_cases, attention_rows),  # of which the judge confirms about 100
}


def kept(file: Path, told: Record) -> list[Record]:
    """The cases done before with the same model, judge, setting and program."""
    if not file.exists():
        return []
    whole, _, _ = file.read_text("utf-8").rpartition("\n")  # what was being written when it was stopped is left out
    first, *records = [json.loads(line) for line in whole.splitlines()] or [None]
    return records if first == told else []


def measure(bench: Bench, name: str, count: int, told: Record, out: Path, console: Console) -> list[Record]:
    """The cases of a measure, those done before among them."""
    what, file, folder = MEASURES[name], out / f"{name}.jsonl", out / name
    records = kept(file, told)
    if len(records) >= count:
        return records[:count]
    del records[len(records) // what.at_once * what.at_once :]  # batches are painted whole
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as start:
        start.write("".join(json.dumps(each) + "\n" for each in (told, *records)).encode())
    with counting(name, count, console) as advance, file.open("a", encoding="utf-8") as lines:
        advance(len(records))
        for first in range(len(records), count, what.at_once):
            for record, images in what.cases(bench, range(first, min(first + what.at_once, count))):
                strip(images).save(folder / f"{len(records)}.png")
                records.append(record)
                lines.write(json.dumps(record) + "\n")
                advance(1)
            lines.flush()
    return records


def strip(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size side by side."""
    width, height = images[0].size
    row = Image.new("RGB", (width * len(images), height))
    for k, image in enumerate(images):
        row.paste(image, (k * width, 0))
    return row


def stack(files: Sequence[Path]) -> Image.Image:
    """Strips as the columns of one sheet."""
    strips = [Image.open(file) for file in files]
    side = strips[0].height
    sheet = Image.new("RGB", (side * len(strips), strips[0].width))
    for column, each in enumerate(strips):
        for row in range(each.width // side):
            sheet.paste(each.crop((row * side, 0, (row + 1) * side, side)), (column * side, row * side))
    return sheet


def show(found: dict[str, list[Row]], told: Record, console: Console) -> None:
    """The table."""
    table = Table("", "figure", "value", "of", "goal", title=f"{told['setting']}, seed {told['seed']}")
    for name, rows in found.items():
        for k, (figure, value, of, goal) in enumerate(rows):
            table.add_row("" if k else name, figure, f"{value:.3f}", str(of), goal)
        table.add_section()
    console.print(table)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=f"all, or of {', '.join(MEASURES)}")
    parser.add_argument("--count", type=int, help="cases of each; by default as many as the goals name")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--steps", type=int, help="by default the model's")
    parser.add_argument("--guidance", type=float, help="by default the model's")
    parser.add_argument("--device", help="by default the fastest here")
    parser.add_argument("--out", type=Path, default=Path("outputs/workflows"))
    parser.add_argument("--sheet", type=Path, help="a PNG of the first details: drawn, before, after")
    told = parser.parse_args()
    if unknown := sorted(set(told.measures) - MEASURES.keys()):
        parser.error(f"there is no measure {unknown[0]!r}; known are {', '.join(MEASURES)}")
    if told.count is not None and told.count < 1:
        parser.error("--count must be at least 1")
    if told.sheet is not None and told.measures and "detail" not in told.measures:
        parser.error("--sheet shows what 'detail' painted; name it as well")
    return told


def main() -> None:
    asked = read_arguments()
    fields: dict[str, Any] = {name: getattr(asked, name) for name in ("steps", "guidance")}
    fields = {name: value for name, value in fields.items() if value is not None}
    Request.read(fields)  # complains of what cannot be
    model = maquette.open(asked.model, device=asked.device)
    setting = Setting.of(model.family.defaults).model_copy(update=fields)
    bench = Bench(model, load_judge(), asked.seed, setting)
    told = {"model": model.hash, "judge": judge_hash(), "seed": asked.seed, "setting": str(setting)}
    told["program"] = sha256(b"".join(file.read_bytes() for file in sorted(HERE.glob("workflow_*.py")))).hexdigest()[
        :10
    ]
    found = {}
    for name in asked.measures or MEASURES:
        count = asked.count or MEASURES[name].count
        found[name] = MEASURES[name].rows(measure(bench, name, count, told, asked.out, Console(stderr=True)))
    show(found, told, Console(width=100))
    report = {
        name: [
            {"figure": figure.strip(), "value": value if of else None, "of": of, "goal": goal}
            for figure, value, of, goal in rows
        ]
        for name, rows in found.items()
    }
    with replacing(asked.out / "report.json") as file:
        file.write((json.dumps({**told, "measures": report}, indent=2) + "\n").encode())
    if asked.sheet is not None:
        shown = min(asked.count or MEASURES["detail"].count, SHOWN)
        with replacing(asked.sheet) as file:
            stack([asked.out / "detail" / f"{k}.png" for k in range(shown)]).save(file, "PNG")
    print(asked.out / "report.json")


if __name__ == "__main__":
    main()
