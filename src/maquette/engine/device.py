"""What computes: the accelerator or the processor, and the precision that suits it."""

import os
import sys
from functools import cache
from pathlib import Path

import torch

from maquette.errors import MaquetteError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
PRECISION = "MAQUETTE_DTYPE"  # the environment's name for the precision where none is asked for
UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512"}  # that multiply bfloat16, by the processor's flags; fastest first


def fastest_device() -> torch.device:
    """The accelerator where there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def read_device(name: str) -> torch.device:
    """A device by its name.

    Raises:
        MaquetteError: it cannot be used here.
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise MaquetteError(f"device {name!r} cannot be used here ({reason}); try cpu") from None
    return device


@cache
def bfloat16_unit() -> str | None:
    """The unit of the processor that multiplies bfloat16 in hardware, as far as Linux tells of one."""
    flags = Path("/proc/cpuinfo").read_text().split() if sys.platform == "linux" else []
    return next((unit for flag, unit in UNITS.items() if flag in flags), None)


def read_precision(name: str | torch.dtype) -> torch.dtype:
    """A precision by its name.

    Raises:
        MaquetteError: there is none of that name, or networks cannot compute in it.
    """
    wanted = DTYPES.get(name) if isinstance(name, str) else name
    if wanted is not None and wanted in DTYPES.values():
        return wanted
    raise MaquetteError(f"unknown precision {str(name)!r}; use {', '.join(DTYPES)}")


def fitting_precision(device: torch.device, half: torch.dtype) -> torch.dtype:
    """What a model computes in where nobody says: $MAQUETTE_DTYPE, else what `device` multiplies fastest.

    On accelerators it is the model's own `half` precision, on a processor bfloat16 if it has a unit for it (measured
    with AVX-512: half of float32's time or less), else float32: float16 and bfloat16 without a unit are slower.
    """
    if name := os.environ.get(PRECISION):
        return read_precision(name)
    if device.type == "cpu":
        return torch.bfloat16 if bfloat16_unit() else torch.float32
    return half
