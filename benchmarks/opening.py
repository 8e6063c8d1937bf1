"""Opening a whole SD 1.5: time from process start to a model that is ready, and the memory it takes, beside diffusers.

    python benchmarks/opening.py [--layouts NAME ...] [--dtype NAME] [--rounds N] [--no-step] [--json FILE]

A model of the published shapes with random weights in half precision (2 GB) is written to a folder for temporary files
as one file and as a diffusers folder, and removed afterwards. Then both programs open it in turn, each in a process of
its own and with all files in the page cache:

    start     the interpreter starts
    ready     the model is there: a prompt could be conditioned
    step      two prompts are conditioned, and the U-Net has answered for both at 16 x 16

CPU seconds are told too: unlike the clock's they hardly change when others use the machine.
Memory is of the whole process, as the kernel counts it: its peak until then, and at that moment the part that belongs
to no file (anonymous; mapped pages of the file are shared with the page cache and can be dropped at any time).
`inspect` is timed on a sparse file of 7 GB (SDXL's shapes in half precision, without data).
"""

import argparse
import json
import math
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LAYOUTS = ("file", "folder")
PROGRAMS = ("ours", "diffusers")
FILE, FOLDER, TOKENIZER, SPARSE = "sd15.safetensors", "sd15", "tokenizer", "sparse.safetensors"
PROMPTS = ("a lighthouse on a cliff, oil painting", "")
LETTERS = 256  # of a byte-level alphabet
WORDS = 49408

# What each program runs; `moment` prints what the process has taken until then.
MOMENT = """
import json, time
from pathlib import Path
def moment(name):
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    sizes = {line[0]: int(line[1]) * 1024 for line in lines if len(line) == 3 and line[2] == "kB"}
    told = {"time": time.monotonic(), "cpu": time.process_time()}
    told |= {"peak": sizes["VmHWM:"], "anonymous": sizes["RssAnon:"]}
    print(json.dumps({name: told}), flush=True)
"""
OURS = """
import maquette
model = maquette.open(PATH, dtype=DTYPE, tokenizer=TOKENIZER, device="cpu")
moment("ready")
if STEP:
    import torch
    with torch.no_grad():
        model.network(torch.randn(2, 4, 16, 16), 500.0, model.condition(PROMPTS))
    moment("step")
"""
DIFFUSERS = """
import torch
from diffusers import StableDiffusionPipeline as Pipeline
options = {"torch_dtype": getattr(torch, DTYPE), "safety_checker": None, "local_files_only": True}
if Path(PATH).is_dir():
    model = Pipeline.from_pretrained(PATH, **options)
else:
    model = Pipeline.from_single_file(PATH, config=CONFIG, **options)
model.set_progress_bar_config(disable=True)
moment("ready")
if STEP:
    with torch.no_grad():
        texts = torch.cat(model.encode_prompt(PROMPTS[0], "cpu", 1, True, PROMPTS[1])[:2])
        model.unet(torch.randn(2, 4, 16, 16, dtype=model.dtype), 500, texts)
    moment("step")
"""
PROGRAM = {"ours": OURS, "diffusers": DIFFUSERS}


@contextmanager
def model_files(folder: Path, dtype: str) -> Iterator[dict[str, Path]]:
    """SD 1.5 with random weights, as one file and as a folder."""
    import torch

    from maquette.engine.convert import convert
    from maquette.engine.recognise import recognise
    from maquette.weights.safetensors_file import write_safetensors

    with tempfile.TemporaryDirectory(dir=folder, prefix="opening.") as name:
        place = Path(name)
        tokenizer().write(place / TOKENIZER)
        write_safetensors(place / FILE, random_weights(getattr(torch, dtype)))
        convert(recognise(place / FILE), place / FOLDER, "diffusers", None, [place / TOKENIZER])
        yield {"file": place / FILE, "folder": place / FOLDER, TOKENIZER: place / TOKENIZER}


def tokenizer() -> Any:
    """One with as many words and merges as CLIP's, whose letters are joined in pairs."""
    from tokenizers import pre_tokenizers

    from maquette.text.tokenizer import END, START, WORD_END, CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [letter + WORD_END for letter in letters]
    merges = [(left, right) for left in letters for right in ends][: WORDS - 2 * LETTERS - 2]
    words = [*letters, *ends, *(left + right for left, right in merges), START, END]
    return CLIPTokenizer({word: index for index, word in enumerate(words)}, merges, length=77)


def random_weights(dtype: Any) -> Any:
    """The tensors of SD 1.5 in the original names, small enough that nothing overflows."""
    import torch

    from maquette.models.published import CLIP_L_TEXT, SD1_UNET, SD_VAE

    def drawn(tensor: torch.Tensor) -> torch.Tensor:
        numbers = torch.randn(tensor.shape, dtype=torch.float32)
        return (numbers * tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 1 + 0.1 * numbers).to(dtype)

    torch.manual_seed(0)
    places = (
        ("UNET", SD1_UNET, "original", "model.diffusion_model."),
        ("KL_STAGE", SD_VAE, "original", "first_stage_model."),
        ("CLIP", CLIP_L_TEXT, "transformers", "cond_stage_model.transformer."),
    )
    return in_file(places, drawn)


def in_file(places: Iterable[tuple[str, Any, str, str]], make: Callable[[Any], Any]) -> Any:
    """Networks as one file names their tensors: each a kind, a spec, a layout and a prefix; `make` fills a shape."""
    from maquette.engine import kinds
    from maquette.engine.build import outline
    from maquette.weights.view import InMemory, prefixed, union

    views = []
    for name, spec, layout, prefix in places:
        kind = getattr(kinds, name)
        network = outline(kind.network, spec)
        ours = InMemory({name: make(tensor) for name, tensor in network.state_dict().items()})
        dialect = next(each for each in kind.dialects if each.name == layout)
        views.append(prefixed(dialect.write(ours, network), prefix))
    return union(views)


def run(program: str, path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The moments of one process: seconds since its start, and bytes of memory."""
    names = {"PATH": str(path), "PROMPTS": PROMPTS, **settings}
    code = "\n".join(f"{name} = {value!r}" for name, value in names.items()) + MOMENT + PROGRAM[program]
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=quiet)
    if done.returncode:
        raise SystemExit(f"{program}, {path}:\n{done.stderr}")
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line) if line.startswith("{") else {}
    for told in found.values():
        told["time"] -= start
    return found


def compare(files: dict[str, Path], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """For each layout the figures of both programs, which took turns."""
    settings = {
        "DTYPE": arguments.dtype,
        "STEP": arguments.step,
        "TOKENIZER": str(files[TOKENIZER]),
        "CONFIG": str(files["folder"]),
    }
    for layout in arguments.layouts:
        runs: dict[str, list[dict[str, Any]]] = {program: [] for program in PROGRAMS}
        for number in range(arguments.rounds + 1):
            for program in PROGRAMS:
                found = run(program, files[layout], settings)
                if number:  # the first time fills the caches
                    runs[program].append(found)
                print(f"{layout}, {program}, {number}: {found['ready']['time']:.2f} s", file=sys.stderr)
        weights = files[layout].rglob("*.safetensors") if files[layout].is_dir() else [files[layout]]
        size = sum(each.stat().st_size for each in weights)
        for moment in ("ready", "step") if arguments.step else ("ready",):
            programs = {program: summary([each[moment] for each in found]) for program, found in runs.items()}
            ratios = {
                what: statistics.median(a[moment][what] / b[moment][what] for a, b in zip(*runs.values(), strict=True))
                for what in ("time", "cpu")
            }
            yield {"layout": layout, "moment": moment, "weights": size, **programs, "ratios": ratios}


def summary(moments: list[dict[str, float]]) -> dict[str, Any]:
    """Medians, and the spread of the times."""
    times = [each["time"] for each in moments]
    middle = {name: statistics.median(each[name] for each in moments) for name in moments[0]}
    return {**middle, "fastest": min(times), "slowest": max(times)}


def inspecting(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds that `maquette inspect` takes on a file of 7 GB with a header and no data."""
    path = folder / SPARSE
    size = write_sparse(path)
    moments = []
    for _ in range(rounds + 1):
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "maquette", "inspect", str(path)], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        moments.append({"time": time.monotonic() - start, "cpu": cpu})
    path.unlink()
    return {"bytes": size, **summary(moments[1:])}


def write_sparse(path: Path) -> int:
    """SDXL in half precision, its bytes never written; the file's size."""
    import torch

    from maquette.models.published import CLIP_L_TEXT, OPEN_CLIP_G_TEXT, SD_VAE, SDXL_UNET

    places = (
        ("UNET", SDXL_UNET, "original", "model.diffusion_model."),
        ("KL_STAGE", SD_VAE, "original", "first_stage_model."),
        ("CLIP", CLIP_L_TEXT, "transformers", "conditioner.embedders.0.transformer."),
        ("CLIP", OPEN_CLIP_G_TEXT, "OpenCLIP", "conditioner.embedders.1.model."),
    )
    view = in_file(places, lambda tensor: tensor.to(torch.float16))
    fields, end = {}, 0
    for name in view:
        begin, end = end, end + 2 * math.prod(view.shape(name))
        fields[name] = {"dtype": "F16", "shape": view.shape(name), "data_offsets": (begin, end)}
    header = json.dumps(fields).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        return file.truncate(file.tell() + end)


def report(rows: list[dict[str, Any]], inspected: dict[str, Any]) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table

    table = Table("layout", "moment", "program", "s", "from", "to", "CPU s", "peak MB", "over weights", "anonymous MB")
    for row in rows:
        for program in PROGRAMS:
            told = row[program]
            sizes = (told["peak"], told["peak"] - row["weights"], told["anonymous"])
            times = (f"{told[name]:.2f}" for name in ("time", "fastest", "slowest", "cpu"))
            table.add_row(row["layout"], row["moment"], program, *times, *(f"{size / 1e6:,.0f}" for size in sizes))
        ratios = row["ratios"]
        table.add_row("", "", "ratio", f"{ratios['time']:.2f}", "", "", f"{ratios['cpu']:.2f}", end_section=True)
    console = Console(width=110)
    console.print(table)
    times = [f"{inspected[name]:.2f}" for name in ("time", "fastest", "slowest", "cpu")]
    size = f"{inspected['bytes'] / 1e9:.1f} GB"
    console.print(f"inspect, {size}: {times[0]} s ({times[1]} to {times[2]}; CPU {times[3]} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-step", dest="step", action="store_false", help="stop when the model is ready")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the model is written")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()

    with model_files(arguments.folder, arguments.dtype) as files:
        rows = list(compare(files, arguments))
        inspected = inspecting(files["folder"].parent, arguments.rounds)
    report(rows, inspected)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"opening": rows, "inspect": inspected}, indent=2) + "\n")


if __name__ == "__main__":
    main()
