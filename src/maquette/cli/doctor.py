"""`maquette doctor`: what this machine has, and what fits on it."""

import math
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maquette import __version__
from maquette.engine.memory import GIB, WORKING_MEMORY, Place, memory

if TYPE_CHECKING:
    import torch

    from maquette.engine.parts import Part

BYTES = {"float32": 4, "bfloat16 or float16": 2}  # of a parameter


def doctor(
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Say how this model, file or folder fits.")] = None,
) -> None:
    """Say what this machine has (devices, precision, memory), and which models fit."""
    for name, value in report() if model is None else fitting(model, places()):
        typer.echo(f"{name:<11} {value}")


def report() -> Iterator[tuple[str, str]]:
    """One line for each thing worth knowing."""
    import torch

    yield "maquette", __version__
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "torch", torch.__version__
    here = places()
    for place in here:
        yield place.device, f"{place.what}; {place.total / GIB:.1f} GiB of memory, {place.free / GIB:.1f} free"
    yield from models(here)
    for place in here:
        yield "room", f"on {place.device} for {room(place)}, leaving {WORKING_MEMORY / GIB:g} GiB to work in"


def places() -> list[Place]:
    """The processor and every accelerator."""
    import torch

    total, free = memory()
    threads = torch.get_num_threads()
    found = [Place("cpu", f"{os.cpu_count()} cores, {threads} threads, {cpu_features()}", total, free)]
    if torch.backends.mps.is_available():
        found.append(Place("mps", "Apple's accelerator, sharing the memory of the processor", total, free))
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        bfloat16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        found.append(Place(f"cuda:{number}", f"{torch.cuda.get_device_name(number)}, {bfloat16}", total, free))
    return found


def cpu_features() -> str:
    """The vector units of the processor, and the precision that models compute in there unless told otherwise."""
    import torch

    from maquette.engine.device import bfloat16_unit

    bfloat16 = bfloat16_unit()
    units = torch.backends.cpu.get_cpu_capability()
    return f"{units}, " + (f"bfloat16 by {bfloat16}" if bfloat16 else "float32, for it has no unit for bfloat16")


def room(place: Place) -> str:
    """How large a model can be, at each precision."""
    free = max(place.free - WORKING_MEMORY, 0)
    return ", ".join(f"{free / size / 1e9:.1f} billion parameters in {name}" for name, size in BYTES.items())


def models(here: list[Place]) -> Iterator[tuple[str, str]]:
    """The models in the package: their parameters, their size, and where they fit at which precision."""
    from maquette.engine.open import find, names

    for name in names():
        folder = find(name)
        files = sorted(folder.rglob("*.safetensors"))
        parts = {str(file.parent.relative_to(folder)): count_parameters(file) for file in files}
        count = sum(parts.values())
        sizes = ", ".join(f"{part} {each / 1e6:.1f}M" for part, each in parts.items())
        disk = sum(file.stat().st_size for file in files) / 1e6
        yield "model", f"{name}: {count / 1e6:.1f}M parameters ({sizes}), {disk:.1f} MB on disk"
        for place in here:
            yield "", f"{what_fits(count, place)} on {place.device}"


def fitting(name: str, here: list[Place]) -> Iterator[tuple[str, str]]:
    """How a model fits at each place, precision and storage: whole, in part read as it is used, or not."""
    from maquette.engine.fit import numbers
    from maquette.engine.open import find
    from maquette.engine.recognise import recognise
    from maquette.engine.storage import STORAGES

    found = recognise(find(name))
    sizes = {part: numbers(each) for part, each in found.parts.items()}
    yield "model", f"{found.title}: {sum(sizes.values()) / 1e6:,.1f}M parameters"
    yield "", ", ".join(f"{part} {size / 1e6:,.1f}M" for part, size in sizes.items())
    for place in here:
        yield place.device, f"{place.free / GIB:.1f} GiB free; {WORKING_MEMORY / GIB:g} GiB of each is to work in"
        for called in BYTES:
            yield "", f"in {called}: {how_it_fits(found.parts, called.split()[0], place)}"
        for storage, kept in STORAGES.items():
            yield "", f"in bfloat16, --storage {storage}: {how_it_fits(found.parts, 'bfloat16', place, kept)}"


def how_it_fits(parts: "Mapping[str, Part]", dtype: str, place: Place, storage: "torch.dtype | None" = None) -> str:
    """The memory that painting takes, of the whole model and with weights read as they are used, and which fits."""
    import torch

    from maquette.engine.fit import parts_to_stream, read_late, size, size_streamed

    computed = getattr(torch, dtype)
    late = read_late(parts, place.device)
    whole = sum(size(part, computed, storage) for name, part in parts.items() if name not in late) + WORKING_MEMORY
    least = size_streamed(parts, computed, storage) + WORKING_MEMORY
    streamed = parts_to_stream(parts, computed, place.free, place.device, storage)
    if streamed == late:
        return f"{whole / GIB:.2f} GiB, fits; --stream {least / GIB:.2f}"
    if "denoiser" not in streamed:
        return f"{whole / GIB:.2f} GiB, fits with all but the denoiser read as it is used, which is done by itself"
    fits = "which is done by itself and fits" if least <= place.free else "and does not fit either"
    return f"{whole / GIB:.2f} GiB does not fit; --stream {least / GIB:.2f}, {fits}"


def what_fits(parameters: int, place: Place) -> str:
    """The precisions in which a model of so many parameters fits."""
    names = [name for name, size in BYTES.items() if parameters * size + WORKING_MEMORY <= place.free]
    return f"fits in {', '.join(names)}" if names else "does not fit"


def count_parameters(file: Path) -> int:
    """The number of parameters in a safetensors file, from its header."""
    from maquette.weights.safetensors_file import SafetensorsFile

    tensors = SafetensorsFile(file)
    return sum(math.prod(tensors.shape(name)) for name in tensors)
