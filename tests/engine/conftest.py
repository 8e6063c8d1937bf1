"""Lets the tests of this folder import `small_models`, and opens two of them for those about controls."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import maquette
from maquette.engine.model import Model

sys.path.insert(0, str(Path(__file__).parent))

from small_models import write_original


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return maquette.open(write_original("sd1", tmp_path_factory.mktemp("sd1")), device="cpu")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return maquette.open(write_original("sdxl", tmp_path_factory.mktemp("sdxl")), device="cpu")
