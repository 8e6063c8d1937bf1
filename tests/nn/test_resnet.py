"""Residual blocks compute in their own memory where nothing learns, and only there."""

import pytest
import torch

from maquette.nn.resnet import ResBlock


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("width", [8, 12])
def test_computing_in_place_changes_neither_the_answer_nor_what_was_given(width: int, adaptive: bool) -> None:
    torch.manual_seed(0)
    block = ResBlock(8, width, groups=4, eps=1e-5, emb=6, adaptive=adaptive)
    torch.nn.init.normal_(block.conv2.weight)
    x, emb = torch.randn(2, 8, 6, 6), torch.randn(2, 6)
    given = x.clone(), emb.clone()
    expected = block(x, emb)
    with torch.no_grad():
        assert torch.equal(block(x, emb), expected)
    assert torch.equal(x, given[0]) and torch.equal(emb, given[1])
    expected.sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
