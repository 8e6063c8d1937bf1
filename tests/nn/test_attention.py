"""Attention by products of matrices beside PyTorch's kernel."""

import pytest
import torch
import torch.nn.functional as F

from maquette.nn import attention
from maquette.nn.attention import attend, attend_by_products, attend_causal, split_heads


def tokens(batch: int, heads: int, length: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """As a product of q, k and v gives them: heads beside each other."""
    return split_heads(torch.randn(batch, length, heads * width).to(dtype), heads)


@torch.no_grad()
@pytest.mark.parametrize("length, keys", [(50, 50), (33, 70)])
def test_products_give_what_the_kernel_gives(length: int, keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SCORES", 20 * keys)  # several strips, the last one shorter
    monkeypatch.setattr(attention, "ROWS", 1)
    torch.manual_seed(0)
    q = tokens(2, 3, length, 10, torch.float64)
    k, v = (tokens(2, 3, keys, 10, torch.float64) for _ in range(2))
    torch.testing.assert_close(attend_by_products(q, k, v), F.scaled_dot_product_attention(q, k, v))


@torch.no_grad()
def test_rounded_scores_err_no_more_than_rounded_inputs_do() -> None:
    torch.manual_seed(0)
    exact = [tokens(1, 2, 512, 40, torch.float32) for _ in range(3)]
    q, k, v = (each.bfloat16() for each in exact)
    assert attention.LONG <= 512
    truth = F.scaled_dot_product_attention(*exact)
    of_inputs = (F.scaled_dot_product_attention(q.float(), k.float(), v.float()) - truth).norm()
    assert (attend(q, k, v) - truth).norm() < 2.5 * of_inputs


@pytest.mark.parametrize("causal", [False, True])
def test_what_learns_gets_the_kernels_values_and_gradients(causal: bool) -> None:
    torch.manual_seed(0)
    exact = [tokens(2, 3, 20, 16, torch.float32).bfloat16().float().requires_grad_() for _ in range(3)]
    rounded = [each.detach().bfloat16().requires_grad_() for each in exact]
    weights = tokens(2, 3, 20, 16, torch.float32)
    expected = F.scaled_dot_product_attention(*exact, is_causal=causal)
    found = (attend_causal if causal else attend)(*rounded)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    for one, other in zip(
        [expected.detach(), *(e.grad for e in exact)], [found.detach(), *(r.grad for r in rounded)], strict=True
    ):
        assert float((one - other).norm() / one.norm()) < 0.01


def test_scores_too_many_to_keep_are_left_to_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    q = tokens(1, 2, 30, 8, torch.bfloat16).requires_grad_()
    asked: list[int] = []
    monkeypatch.setattr(attention, "attend_and_learn", lambda q, k, v: asked.append(q.shape[2]) or q)
    for most in (2 * 30 * 30, 2 * 30 * 30 - 1):
        monkeypatch.setattr(attention, "KEPT", most)
        attend(q, q, q)
    assert asked == [30]


@torch.no_grad()
def test_only_long_sequences_in_bfloat16_go_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(attention, "attend_by_products", lambda q, k, v: asked.append(q.shape[2]) or q)
    for length, dtype in ((600, torch.bfloat16), (100, torch.bfloat16), (601, torch.float32)):
        q = tokens(1, 1, length, 8, dtype)
        attend(q, q, q)
    assert asked == [600]
