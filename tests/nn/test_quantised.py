"""Layers in 8 bits against the same layers in floating point."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.nn.conv import Conv2d, convolve_doubled
from maquette.nn.quantised import (
    FEW,
    FLOAT8,
    INT8,
    ROWS,
    Int8Linear,
    QuantisedConv2d,
    QuantisedLinear,
    quantise,
    quantise_rows,
    spread,
    widen,
)

TYPES = [torch.float32, torch.bfloat16, torch.float16]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def filled(kind: type, layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A layer of one kind that stands for another one."""
    made = kind(layer, dtype)
    codes, scale = quantise(layer.weight.detach(), dtype)
    state = {
        "codes": codes,
        "scale": scale.to(layer.weight.dtype),
        **({} if layer.bias is None else {"bias": layer.bias}),
    }
    made.load_state_dict(state, assign=True)
    return made.requires_grad_(False)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_float8_is_widened_as_torch_does(dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(FLOAT8)
    codes = codes[codes.float().isfinite()].reshape(-1, 2)
    scale = torch.ones(len(codes), dtype=dtype)
    assert torch.equal(widen(codes, scale), codes.to(dtype))
    assert torch.equal(widen(codes, scale / 4), codes.to(dtype) / 4)


@pytest.mark.parametrize(("dtype", "bound"), [(FLOAT8, 2.0**-4), (INT8, 0.51 / 127)], ids=str)
def test_weights_come_back_within_half_a_step(dtype: torch.dtype, bound: float) -> None:
    weight = draw(40, 3, 5, 5) * torch.logspace(-6, 2, 40)[:, None, None, None]
    weight[3] = 0.0
    codes, scale = quantise(weight, dtype)
    back = widen(codes, scale)
    largest = weight.flatten(1).abs().amax(1)
    step = weight.abs() if dtype == FLOAT8 else spread(largest, 4)
    assert ((back - weight).abs() <= bound * step + spread(largest, 4) * 1e-5).all()
    assert torch.equal(scale, scale.bfloat16().float()), "exact in any precision"


def test_float8_weights_stay_where_they_are() -> None:
    weight = draw(8, 8).to(FLOAT8)
    codes, scale = quantise(weight, FLOAT8)
    assert codes.data_ptr() == weight.data_ptr() and torch.equal(widen(codes, scale), weight.float())


@pytest.mark.parametrize("dtype", [FLOAT8, INT8], ids=str)
def test_convolutions_compute_with_the_widened_weight(dtype: torch.dtype) -> None:
    plain = Conv2d(8, 16, 3, stride=2, padding=1)
    layer = filled(QuantisedConv2d, plain, dtype)
    x = draw(1, 8, 12, 12).contiguous(memory_format=torch.channels_last)
    expected = F.conv2d(x, layer.weight, plain.bias, stride=2, padding=1)
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert layer.codes.is_contiguous(memory_format=torch.channels_last)
    same = filled(QuantisedConv2d, Conv2d(8, 16, 3, padding=1), dtype)
    doubled = F.conv2d(F.interpolate(x, scale_factor=2.0), same.weight, same.bias, padding=1)
    assert torch.allclose(convolve_doubled(same, x), doubled, atol=1e-5)


@pytest.mark.parametrize("rows", [FEW, FEW + 1, ROWS, ROWS + 3, 2 * ROWS + 40])
def test_int8_products_are_the_integers_exactly(rows: int) -> None:
    layer = filled(Int8Linear, nn.Linear(32, 24), INT8)
    x = draw(rows, 32)
    codes, scale = quantise_rows(x)
    whole = (codes.long() @ layer.codes.long().t()).float() * scale * layer.scale + layer.bias
    expected = whole if rows > FEW else F.linear(x, layer.weight, layer.bias)
    assert torch.allclose(layer(x[None])[0], expected, atol=1e-6)


def test_int8_products_do_not_saturate() -> None:
    layer = filled(Int8Linear, nn.Linear(512, 8, bias=False), INT8)
    layer.codes.data.fill_(127)
    assert torch.allclose(layer(torch.ones(64, 512)), 512 * 127 * layer.scale.expand(64, -1))


@pytest.mark.parametrize(("kind", "dtype", "bound"), [(QuantisedLinear, FLOAT8, 0.035), (Int8Linear, INT8, 0.02)])
def test_the_error_of_a_layer_is_small(kind: type, dtype: torch.dtype, bound: float) -> None:
    plain = nn.Linear(256, 128).bfloat16().requires_grad_(False)
    x = draw(64, 256).bfloat16()
    error = relative(filled(kind, plain, dtype)(x), plain(x))
    assert 0 < error < bound


@pytest.mark.parametrize("dtype", [INT8, FLOAT8])
def test_a_damaged_weight_is_not_hidden(dtype: torch.dtype) -> None:
    """A channel with a weight that is not a number gives none, as it does in floating point; the others are whole."""
    weight = draw(3, 8)
    whole = widen(*quantise(weight, dtype))
    weight[1, 2] = torch.nan
    found = widen(*quantise(weight, dtype))
    assert bool(found[1].isnan().all())
    assert torch.equal(found[[0, 2]], whole[[0, 2]])
