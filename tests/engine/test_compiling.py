"""Blocks that are compiled give what they gave, and are compiled once for each kind."""

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import maquette
from maquette.diffusion.conditioning import Conditioning
from maquette.engine import compiling
from maquette.engine.compiling import compile_blocks
from maquette.models.mmdit import MMDiT, MMDiTSpec
from maquette.models.unet import UNet, UNetSpec
from maquette.nn.network import call

UNET = UNetSpec(widths=(32,), down=((1, 1),), middle=None, up=((1, 1, 1),), context=16, heads=2)
MMDIT = MMDiTSpec(width=32, layers=4, heads=2, context=16, vector=8, grid=8)


@torch.no_grad()
@pytest.mark.parametrize(
    "kind, spec, channels, kinds", [(UNet, UNET, 4, 2), (MMDiT, MMDIT, 16, 2)], ids=["unet", "mmdit"]
)
def test_blocks_that_are_alike_are_compiled_once(kind: Any, spec: Any, channels: int, kinds: int) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    torch.manual_seed(0)
    network = kind(spec).requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.2)
    x, told = torch.randn(2, channels, 8, 8), Conditioning(tokens=torch.randn(2, 5, 16), vector=torch.randn(2, 8))
    expected = network(x, 0.5, told)
    assert expected.std() > 0.1
    compile_blocks(network, backend=counter)
    for _ in range(2):
        torch.testing.assert_close(network(x, 0.5, told), expected)
    assert counter.frame_count == kinds


def test_a_model_is_compiled_only_where_asked_and_where_its_blocks_stay() -> None:
    compiled, plain = maquette.open("mini", compile=True), maquette.open("mini")
    assert compiled.network.run is not call and plain.network.run is call
    with pytest.raises(maquette.MaquetteError, match="leave out compile"):
        maquette.open("mini", compile=True, stream=True)


@torch.no_grad()
def test_sizes_beyond_the_limit_run_as_they_are(monkeypatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "KINDS", 2)
    counter, network = CompileCounter(), UNet(UNET).requires_grad_(False)
    told, sizes = Conditioning(tokens=torch.randn(1, 5, 16)), (4, 6, 8, 10)
    expected = [network(torch.ones(1, 4, side, side), 0.5, told) for side in sizes]
    with torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=3):
        compile_blocks(network, backend=counter)
        for side, wanted in zip(sizes, expected, strict=True):
            torch.testing.assert_close(network(torch.ones(1, 4, side, side), 0.5, told), wanted)
    assert 0 < counter.frame_count <= 3
