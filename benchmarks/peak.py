"""The memory that one whole picture takes, from the start of the process to its pixels, beside diffusers.

    python benchmarks/peak.py sd1 [--contestants ours diffusers] [--dtype NAME] [--storage NAME] [--stream] [--rounds N]
    python benchmarks/peak.py sdxl --contestants ours --steps 2

Models of the published shapes, with random weights in half precision and tokenizers of CLIP's size, are written to
build/ once, as one file and, for diffusers, as a folder. Each picture is painted in a process of its own:

    peak        the most of its memory that was resident, mapped pages of the file included (VmHWM)
    anonymous   the most that belongs to no file; mapped pages can be dropped at any time, these cannot
    opened      the anonymous memory when the model is ready
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opening import in_file, tokenizer

BUILD = Path(__file__).resolve().parents[1] / "build"
SIDES = {"sd1": 512, "sdxl": 1024}
GUIDANCE = 5.0
COMMON = """
import sys, json, time; sys.path.insert(0, HERE)
from memory import Anonymous, status
start = time.monotonic()
with Anonymous() as watched:
    {work}
cpu = time.process_time()
clock = time.monotonic() - start
print(json.dumps({{"peak": status("VmHWM"), "anonymous": watched.most, "opened": opened, "clock": clock, "cpu": cpu}}))
"""
OURS = """
    import maquette
    model = maquette.open(FILE, device="cpu", dtype=DTYPE, tokenizer=TOKENIZER, storage=STORAGE, stream=STREAM)
    opened = status("RssAnon")
    model.txt2img("a lighthouse", width=SIDE, height=SIDE, steps=STEPS, guidance=GUIDANCE, sampler="euler")
"""
DIFFUSERS = """
    import torch
    from diffusers import DiffusionPipeline
    model = DiffusionPipeline.from_pretrained(FOLDER, torch_dtype=getattr(torch, DTYPE), local_files_only=True)
    opened = status("RssAnon")
    model("a lighthouse", width=SIDE, height=SIDE, num_inference_steps=STEPS, guidance_scale=GUIDANCE)
"""
PROGRAM = {"ours": OURS, "diffusers": DIFFUSERS}


def places(family: str) -> tuple[tuple[str, Any, str, str], ...]:
    """The networks of a family: kind, spec, layout and prefix in its original file."""
    from maquette.models.published import CLIP_L_TEXT, OPEN_CLIP_G_TEXT, SD1_UNET, SD_VAE, SDXL_UNET

    stage = ("KL_STAGE", SD_VAE, "original", "first_stage_model.")
    unet = ("UNET", {"sd1": SD1_UNET, "sdxl": SDXL_UNET}[family], "original", "model.diffusion_model.")
    if family == "sd1":
        return unet, stage, ("CLIP", CLIP_L_TEXT, "transformers", "cond_stage_model.transformer.")
    text = ("CLIP", CLIP_L_TEXT, "transformers", "conditioner.embedders.0.transformer.")
    return unet, stage, text, ("CLIP", OPEN_CLIP_G_TEXT, "OpenCLIP", "conditioner.embedders.1.model.")


def written(family: str, dtype: str, *, folder: bool) -> dict[str, str]:
    """A model's file and folder, made where they are not there; all rows of a matrix are the same random ones."""
    import torch

    from maquette.engine.convert import convert
    from maquette.engine.recognise import recognise
    from maquette.weights.safetensors_file import write_safetensors

    numbers = torch.randn(1 << 17, generator=torch.Generator().manual_seed(0))

    def drawn(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim < 2:
            return (1 + 0.1 * numbers[: tensor.numel()]).to(getattr(torch, dtype)).reshape(tensor.shape)
        row = numbers[: tensor[0].numel()] * tensor[0].numel() ** -0.5
        return row.to(getattr(torch, dtype)).reshape(1, *tensor.shape[1:]).expand(tensor.shape)

    file, words = BUILD / f"{family}-{dtype}.safetensors", BUILD / "tokenizer"
    if not words.is_dir():
        tokenizer().write(words)
    if not file.is_file():
        write_safetensors(file, in_file(places(family), drawn))
    if folder and not file.with_suffix("").is_dir():
        convert(recognise(file), file.with_suffix(""), "diffusers", None, [words])
    return {"FILE": str(file), "FOLDER": str(file.with_suffix("")), "TOKENIZER": str(words)}


def run(program: str, settings: dict[str, Any]) -> dict[str, float]:
    """What one picture took."""
    names = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    code = names + COMMON.format(work=PROGRAM[program].strip())
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=quiet)
    if done.returncode:
        raise SystemExit(f"{program}:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def lines(rounds: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """The table: medians, and ours over the others'."""
    yield f"{'':<12}{'peak MB':>10}{'anonymous':>11}{'opened':>9}{'seconds':>9}{'CPU s':>8}"
    middle = {
        name: {key: statistics.median(each[key] for each in found) for key in found[0]}
        for name, found in rounds.items()
    }
    for name, told in middle.items():
        sizes = [told[key] / 1e6 for key in ("peak", "anonymous", "opened")]
        yield f"{name:<12}{sizes[0]:>10,.0f}{sizes[1]:>11,.0f}{sizes[2]:>9,.0f}{told['clock']:>9.1f}{told['cpu']:>8.1f}"
    if len(middle) == 2:
        a, b = middle.values()
        yield f"{'ratio':<12}{a['peak'] / b['peak']:>10.2f}{a['anonymous'] / b['anonymous']:>11.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=SIDES)
    parser.add_argument("--contestants", nargs="+", choices=PROGRAM, default=list(PROGRAM))
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="to compute in")
    parser.add_argument("--file", choices=("bfloat16", "float16"), default="bfloat16", help="the type in the file")
    parser.add_argument("--storage", choices=("float8", "int8"))
    parser.add_argument("--stream", action="store_true", default=None)
    parser.add_argument("--side", type=int)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    told = parser.parse_args()
    settings: dict[str, Any] = {
        "HERE": str(Path(__file__).parent),
        "DTYPE": told.dtype,
        "STORAGE": told.storage,
        "STREAM": told.stream,
        "SIDE": told.side or SIDES[told.family],
        "STEPS": told.steps,
        "GUIDANCE": GUIDANCE,
        **written(told.family, told.file, folder="diffusers" in told.contestants),
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in told.contestants}
    for _ in range(told.rounds):
        for name, found in rounds.items():
            found.append(run(name, settings))
    print("\n".join(lines(rounds)))


if __name__ == "__main__":
    main()
