"""Our convolution against torch's, and what it does to its weights."""

import pytest
import torch
from torch import Tensor, nn

from maquette.nn.conv import Conv2d, convolve_doubled
from maquette.nn.resnet import FOLDED_FROM, Upsample, double

LAYOUT = torch.channels_last


def pair(kernel: int, dtype: torch.dtype) -> tuple[Conv2d, nn.Conv2d]:
    """Our layer and torch's with the same weights, which lie as files keep them."""
    torch.manual_seed(0)
    ours, theirs = (kind(6, 10, kernel, padding=kernel // 2, dtype=dtype) for kind in (Conv2d, nn.Conv2d))
    theirs.load_state_dict(ours.state_dict())
    return ours.requires_grad_(False), theirs.requires_grad_(False)


def picture(dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 6, 8, 7, dtype=dtype).contiguous(memory_format=LAYOUT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_weights_are_turned_once_and_compute_the_same(mode: type, kernel: int, dtype: torch.dtype) -> None:
    ours, theirs = pair(kernel, dtype)
    x = picture(dtype)
    with mode():
        first = ours(x)
        turned = ours.weight.data_ptr()
        second = ours(x)
        expected = theirs.to(memory_format=LAYOUT)(x)
    assert torch.equal(first, expected) and torch.equal(second, expected)
    assert ours.weight.is_contiguous(memory_format=LAYOUT) and torch.equal(ours.weight, theirs.weight)
    assert ours.weight.data_ptr() == turned


def test_weights_that_learn_stay_where_they_are() -> None:
    ours, _ = pair(3, torch.float32)
    ours.requires_grad_(True)
    before = ours.weight.data_ptr()
    ours(picture(torch.float32)).sum().backward()
    assert ours.weight.data_ptr() == before and ours.weight.is_contiguous()
    assert ours.weight.grad is not None


def test_plain_pictures_turn_nothing() -> None:
    ours, theirs = pair(3, torch.float32)
    x = picture(torch.float32).contiguous()
    assert torch.equal(ours(x), theirs(x))
    assert ours.weight.is_contiguous()


def test_weights_turned_without_gradients_can_learn_afterwards() -> None:
    ours, _ = pair(3, torch.float32)
    x = picture(torch.float32)
    with torch.inference_mode():
        ours(x)
    ours.requires_grad_(True)
    ours(picture(torch.float32)).sum().backward()
    assert ours.weight.grad is not None


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 6e-3)], ids=str)
def test_a_doubled_picture_is_convolved_without_being_made(dtype: torch.dtype, bound: float) -> None:
    ours, theirs = pair(3, dtype)
    x = picture(dtype)
    got, expected = convolve_doubled(ours, x).float(), theirs.float()(double(x.float(), None))
    assert got.shape == expected.shape and (got - expected).norm() / expected.norm() < bound


def test_doubling_folds_where_that_saves_and_nothing_learns() -> None:
    layer = Upsample(4)
    large, small = torch.randn(1, 4, FOLDED_FROM // 16, 16), torch.randn(1, 4, FOLDED_FROM // 16 - 1, 16)
    odd = (2 * large.shape[2] - 1, 2 * large.shape[3] - 1)
    with torch.no_grad():
        assert not torch.equal(layer(large), layer.conv(double(large, None)))  # equal but for rounding
        assert torch.allclose(layer(large), layer.conv(double(large, None)), atol=1e-5)
        assert torch.equal(layer(small), layer.conv(double(small, None)))
        assert torch.equal(layer(large, odd), layer.conv(double(large, odd)))
    assert torch.equal(layer(large), layer.conv(double(large, None)))
