"""What a model computes on and in, where nobody says."""

from pathlib import Path

import pytest
import torch

import maquette
from maquette.engine import device
from maquette.engine.device import bfloat16_unit, fitting_precision, read_precision
from maquette.errors import MaquetteError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAQUETTE_DTYPE")


@pytest.mark.parametrize(("unit", "precision"), [("AMX", torch.bfloat16), (None, torch.float32)])
def test_a_processor_computes_in_what_it_has_a_unit_for(monkeypatch, unit: str | None, precision: torch.dtype) -> None:
    monkeypatch.setattr(device, "bfloat16_unit", lambda: unit)
    assert fitting_precision(CPU, torch.float16) == precision
    assert maquette.open("mini", device="cpu").dtype == precision
    assert maquette.open("mini", device="cpu", dtype="float32").dtype == torch.float32


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_an_accelerator_computes_in_the_models_half_precision(half: torch.dtype) -> None:
    assert fitting_precision(GPU, half) == half


def test_the_environment_says_it(monkeypatch) -> None:
    monkeypatch.setenv("MAQUETTE_DTYPE", "float16")
    assert {fitting_precision(each, torch.bfloat16) for each in (CPU, GPU)} == {torch.float16}
    monkeypatch.setenv("MAQUETTE_DTYPE", "int8")
    with pytest.raises(MaquetteError, match="unknown precision 'int8'"):
        fitting_precision(CPU, torch.float16)


@pytest.mark.parametrize(
    ("flags", "unit"),
    [("fma avx512_bf16 amx_bf16", "AMX"), ("avx512_bf16", "AVX-512"), ("avx512f bf16", None)],
)
def test_the_unit_is_read_from_the_processors_flags(monkeypatch, flags: str, unit: str | None) -> None:
    monkeypatch.setattr(device.sys, "platform", "linux")
    monkeypatch.setattr(Path, "read_text", lambda self: f"flags\t\t: fpu {flags} sse\n")
    bfloat16_unit.cache_clear()
    assert bfloat16_unit() == unit
    monkeypatch.setattr(device.sys, "platform", "darwin")
    bfloat16_unit.cache_clear()
    assert bfloat16_unit() is None
    bfloat16_unit.cache_clear()


@pytest.mark.parametrize("name", ["half", torch.int8, torch.float8_e4m3fn])
def test_what_networks_cannot_compute_in_is_refused(name: str | torch.dtype) -> None:
    with pytest.raises(MaquetteError, match="unknown precision"):
        read_precision(name)
