"""`maquette doctor`: what this machine has, and what fits on it."""

import os
import platform
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import typer

from maquette import __version__

GIB = 2**30
WORKING_MEMORY = GIB  # left free for the program itself and for what a picture of common size needs
BYTES = {"float32": 4, "bfloat16": 2}  # a parameter's


def doctor() -> None:
    """Say what this machine has: device, threads, precision, memory, models, and what fits."""
    for name, value in report():
        typer.echo(f"{name:<11}{value}")


def report() -> Iterator[tuple[str, str]]:
    """One line for each thing worth knowing."""
    import torch

    yield "maquette", __version__
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "torch", torch.__version__
    yield "processor", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {cpu_features()}"
    yield from accelerators()
    total, free = memory()
    yield "memory", f"{total / GIB:.1f} GiB, {free / GIB:.1f} GiB free"
    yield from models(free)
    room = max(free - WORKING_MEMORY, 0)
    parameters = ", ".join(f"{room / size / 1e9:.1f} billion parameters in {name}" for name, size in BYTES.items())
    yield "room for", f"{parameters}, with {WORKING_MEMORY / GIB:g} GiB left to work in"


def cpu_features() -> str:
    """The vector units of the processor, and whether it multiplies bfloat16 in hardware."""
    import torch

    flags = Path("/proc/cpuinfo").read_text().split() if sys.platform == "linux" else []
    bfloat16 = next((unit for flag, unit in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512")) if flag in flags), None)
    return f"{torch.backends.cpu.get_cpu_capability()}, bfloat16 " + (f"by {bfloat16}" if bfloat16 else "emulated")


def accelerators() -> Iterator[tuple[str, str]]:
    """Every CUDA device and Apple's, or a line that there is none."""
    import torch

    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        bfloat16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        name = torch.cuda.get_device_name(number)
        yield f"cuda:{number}", f"{name}, {total / GIB:.1f} GiB, {free / GIB:.1f} GiB free, {bfloat16}"
    if torch.backends.mps.is_available():
        yield "mps", "Apple's, with the memory of the machine"
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        yield "device", "cpu (no CUDA and no MPS device is seen)"


def memory() -> tuple[int, int]:
    """The machine's memory and what is free of it, in bytes; a container's limit counts as the machine's."""
    if sys.platform != "linux":
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total // 2  # no portable way to ask; half is a careful guess
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kilobytes = {line[0].rstrip(":"): int(line[1]) for line in lines}
    total, free = 1024 * kilobytes["MemTotal"], 1024 * kilobytes["MemAvailable"]
    limit, used = (read_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is None or used is None or limit >= total:
        return total, free
    return limit, min(free, max(limit - used, 0))


def read_number(file: Path) -> int | None:
    """The number that a file holds, or None."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def models(free: int) -> Iterator[tuple[str, str]]:
    """The models that are in the package: parameters, size, and whether they fit at each precision."""
    assets = Path(str(resources.files("maquette"))) / "assets"
    for folder in sorted(assets.iterdir()) if assets.is_dir() else []:
        files = sorted(folder.rglob("*.safetensors"))
        parts = {str(file.parent.relative_to(folder)): count_parameters(file) for file in files}
        total = sum(parts.values())
        sizes = ", ".join(f"{part} {count / 1e6:.1f}M" for part, count in parts.items())
        fits = ", ".join(
            f"{'fits' if total * size + WORKING_MEMORY <= free else 'does not fit'} in {name}"
            for name, size in BYTES.items()
        )
        disk = sum(file.stat().st_size for file in files) / 1e6
        yield f"model {folder.name}", f"{total / 1e6:.1f}M parameters ({sizes}), {disk:.1f} MB on disk; {fits}"


def count_parameters(file: Path) -> int:
    """The number of parameters in a safetensors file, from its header."""
    import math

    from safetensors import safe_open

    with safe_open(file, framework="np") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
