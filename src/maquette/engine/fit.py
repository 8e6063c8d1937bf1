"""Whether the parts of a model belong together, by their widths, and whether they fit into memory."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from maquette.engine.build import precision
from maquette.engine.kinds import TEXTS
from maquette.engine.memory import WORKING_MEMORY
from maquette.engine.parts import Part
from maquette.engine.recognise import Recognition
from maquette.engine.storage import ROLES, store
from maquette.engine.streaming import blocks_of
from maquette.errors import MaquetteError
from maquette.families.family import Family
from maquette.models.dit import DiTSpec
from maquette.models.flux import FluxSpec
from maquette.models.mmdit import MMDiTSpec
from maquette.models.unet import UNetSpec
from maquette.nn.pyramid import PyramidSpec

LARGE_TEXT = 50_000_000  # numbers


def check_complete(found: Recognition, family: Family) -> None:
    """Refuse a model that could not paint, saying what to give.

    Raises:
        MaquetteError: its first stage or one of its text encoders is missing.
    """
    missing = [] if "vae" in found.parts or family.pixels else ["a first stage (vae=FILE)"]
    for reading in family.readings:
        if reading.part not in found.parts and not reading.optional:
            missing.append(f"{reading.part} ({reading.kind.upper()}; text=FILE)")
    if missing:
        raise MaquetteError(f"{found.path}: {found.title} without {' and '.join(missing)}; give what is missing")


def check_fit(found: Recognition) -> None:
    """Refuse parts of different models.

    Raises:
        MaquetteError: two parts do not fit, with the widths of both; or one lacks what the model reads of it.
    """
    _check_projections(found)
    spec = found.parts["denoiser"].spec
    t5 = [part.spec for part in found.parts.values() if part.kind.role == "t5"]
    others = [part.spec for part in found.parts.values() if part.kind.role in TEXTS and part.kind.role != "t5"]
    stage = [("latent channels", *_channels(spec, found.parts["vae"].spec))] if "vae" in found.parts else []
    for what, wanted, given in (*stage, *_widths(spec, others, t5)):
        if wanted != given:
            raise MaquetteError(
                f"{found.path}: the {what} of its parts differ ({wanted} and {given}); use parts of one model"
            )


def _check_projections(found: Recognition) -> None:
    """Refuse a tower that was saved without the projection that is read."""
    for reading in found.family.readings if found.family is not None else ():
        part = found.parts.get(reading.part)
        needed = reading.pooled == "projected" and reading.pooled_in_files != "pooled"
        if needed and part is not None and part.spec.projection is None:
            raise MaquetteError(
                f"{part.path}: its {part.kind.name} was saved without the projection that {found.title} reads; give "
                "one with it (CLIPTextModelWithProjection)"
            )


def _channels(spec: Any, first_stage: PyramidSpec) -> tuple[int, int]:
    return spec.channels if isinstance(spec, DiTSpec) else spec.out_channels, first_stage.channels


def _widths(spec: Any, clip: list[Any], t5: list[Any]) -> Iterator[tuple[str, int, int]]:
    """(what, what the denoiser reads, what the text encoders give)."""
    if isinstance(spec, UNetSpec):
        yield "context widths", spec.context or 0, sum(each.width for each in clip)
    elif isinstance(spec, MMDiTSpec | FluxSpec):
        yield from (("context widths", spec.context, each.width) for each in t5)
        pooled = sum(each.projection or each.width for each in clip)
        yield "vector widths", spec.vector, clip[0].width if isinstance(spec, FluxSpec) else pooled


def parts_to_stream(
    parts: Mapping[str, Part], dtype: torch.dtype, free: int, device: str = "cpu", storage: torch.dtype | None = None
) -> frozenset[str]:
    """The parts whose blocks are to be read whenever they run, because not all fit into `free` bytes.

    First all but the denoiser: they run once for a picture, and take no memory while it is painted.
    """
    room = free - WORKING_MEMORY
    late = read_late(parts, device)
    sizes = {name: size(part, dtype, storage) for name, part in parts.items() if name not in late}
    if sum(sizes.values()) <= room:
        return late
    return frozenset(parts) - ({"denoiser"} if sizes.get("denoiser", math.inf) <= room else set())


def read_late(parts: Mapping[str, Part], device: str) -> frozenset[str]:
    """The large text encoders, where they compute in the memory that their file is mapped into.

    They are read as they are used whether memory is short or not: that costs next to nothing there, and they take no
    memory while a picture is painted, T5 as much as a denoiser.
    """
    texts = (name for name, part in parts.items() if part.kind.role in TEXTS and device == "cpu")
    return frozenset(name for name in texts if numbers(parts[name]) > LARGE_TEXT)


def size(part: Part, dtype: torch.dtype, storage: torch.dtype | None = None) -> int:
    """The bytes that a network's weights take, all of them in memory."""
    if storage is None or part.kind.role not in ROLES:
        return numbers(part) * dtype.itemsize
    return taken(stored(part, storage), dtype)


def size_streamed(parts: Mapping[str, Part], dtype: torch.dtype, storage: torch.dtype | None = None) -> int:
    """The bytes that are taken at a time if all blocks are read whenever they run."""
    networks = [stored(part, storage) for part in parts.values()]
    blocks = [taken(block, dtype) for network in networks for block in blocks_of(network)]
    return sum(taken(network, dtype) for network in networks) - sum(blocks) + max(blocks, default=0)


def stored(part: Part, storage: torch.dtype | None) -> Any:
    """The network of a part without memory, as it is kept."""
    network = part.network()
    if storage is not None and part.kind.role in ROLES:
        store(network, storage)
    return network


def taken(network: torch.nn.Module, dtype: torch.dtype) -> int:
    """The bytes that the weights of a network take which computes in `dtype`."""
    return sum(each.numel() * precision(each, dtype).itemsize for each in network.state_dict().values())


def numbers(part: Part) -> int:
    """How many numbers the weights of a network are."""
    return sum(math.prod(part.weights.shape(name)) for name in part.weights)
