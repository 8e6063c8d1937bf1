"""Our convolution against torch's, and what it does to its weights."""

import pytest
import torch
from torch import Tensor, nn

from maquette.nn.conv import Conv2d

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
