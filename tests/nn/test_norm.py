"""Group normalisation: the fast backward pass gives PyTorch's values and gradients, large pictures the exact ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck

from maquette.nn.norm import GroupNorm, moments

LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
SHAPES = {"wide": (3, 12, 5, 8), "tall": (2, 12, 7, 2), "one picture": (1, 12, 4, 4), "one position": (4, 12, 1, 1)}


def norms(groups: int, channels: int, dtype: torch.dtype) -> tuple[GroupNorm, nn.GroupNorm]:
    ours, theirs = GroupNorm(groups, channels, eps=1e-5).to(dtype), nn.GroupNorm(groups, channels, eps=1e-5).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in ours.named_parameters():
        value = torch.randn(channels, generator=generator, dtype=dtype)
        parameter.data, theirs.get_parameter(name).data = value, value.clone()
    return ours, theirs


def picture(shape: tuple[int, ...], dtype: torch.dtype, seed: int, layout: torch.memory_format) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (2 * x + 0.7).to(dtype).contiguous(memory_format=layout)


def results(norm: nn.GroupNorm, x: Tensor, gradient: Tensor) -> list[Tensor]:
    leaf = x.detach().clone().requires_grad_()
    y = norm(leaf)
    return [y.detach(), *torch.autograd.grad(y, [leaf, norm.weight, norm.bias], gradient)]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("groups", [1, 3, 4, 12])
def test_values_and_gradients_are_those_of_pytorch(
    groups: int, layout: torch.memory_format, shape: tuple[int, ...]
) -> None:
    ours, theirs = norms(groups, 12, torch.float64)
    x, gradient = picture(shape, torch.float64, 2, layout), picture(shape, torch.float64, 3, layout)
    # PyTorch on contiguous tensors: of its two implementations the plain one
    reference = results(theirs, x.contiguous(), gradient.contiguous())
    for mine, other in zip(results(ours, x, gradient), reference, strict=True):
        assert torch.allclose(mine, other, rtol=1e-9, atol=1e-9)


def test_gradients_are_the_slopes() -> None:
    ours, _ = norms(2, 4, torch.float64)
    x = picture((2, 4, 2, 3), torch.float64, 5, torch.channels_last).requires_grad_()
    assert gradcheck(lambda x, w, b: torch.func.functional_call(ours, {"weight": w, "bias": b}, (x,)), (
        x, ours.weight, ours.bias,
    ))  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_in_bfloat16_gradients_are_near_the_exact_ones(layout: torch.memory_format) -> None:
    exact, _ = norms(4, 12, torch.float64)
    rounded, _ = norms(4, 12, torch.bfloat16)
    x, gradient = (picture((2, 12, 9, 6), torch.bfloat16, seed, layout) for seed in (2, 3))
    for mine, other in zip(results(rounded, x, gradient), results(exact, x.double(), gradient.double()), strict=True):
        assert mine.dtype == torch.bfloat16
        assert float((mine.double() - other).norm() / other.norm()) < 0.01


@pytest.mark.parametrize("channels", [12, 80], ids=["turned", "as it is"])
def test_small_pictures_in_bfloat16_keep_their_format_and_are_near_the_exact_ones(channels: int) -> None:
    exact, _ = norms(4, channels, torch.float64)
    rounded, _ = norms(4, channels, torch.bfloat16)
    exact.load_state_dict(rounded.state_dict())
    x = picture((2, channels, 9, 6), torch.bfloat16, 2, torch.channels_last)
    with torch.no_grad():
        y, other = rounded(x), exact(x.double())
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert float((y.double() - other).norm() / other.norm()) < 0.004
    assert torch.equal(rounded(x).detach(), y)


def test_an_input_that_needs_no_gradient_may_be_channels_last() -> None:
    """PyTorch's own backward pass writes through a null pointer here."""
    ours, theirs = norms(4, 12, torch.float64)
    x = picture((2, 12, 3, 5), torch.float64, 2, torch.channels_last)
    for norm, value in ((ours, x), (theirs, x.contiguous().requires_grad_())):
        norm(value).pow(3).sum().backward()
    assert torch.allclose(ours.weight.grad, theirs.weight.grad) and torch.allclose(ours.bias.grad, theirs.bias.grad)


def test_second_derivatives_are_refused_not_wrong() -> None:
    ours, _ = norms(2, 4, torch.float64)
    x = picture((1, 4, 2, 2), torch.float64, 5, torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_without_gradients_it_is_pytorchs() -> None:
    ours, theirs = norms(3, 12, torch.float32)
    x = picture((2, 12, 4, 6), torch.float32, 2, torch.channels_last)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval().requires_grad_(False)(x), theirs(x))


@pytest.mark.parametrize("shape", [(1, 8, 700, 512), (2, 8, 513, 300)])
def test_large_pictures_are_summed_up_exactly(shape: tuple[int, int, int, int]) -> None:
    """PyTorch's kernel for channels-last float32 is several times as far from the exact answer here."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 3
    x = x.contiguous(memory_format=torch.channels_last)
    norm = GroupNorm(2, 8)
    norm.weight.data, norm.bias.data = torch.linspace(-1, 2, 8), torch.linspace(1, -1, 8)
    norm.requires_grad_(False)
    exact = F.group_norm(x.double(), 2, norm.weight.double(), norm.bias.double(), norm.eps)
    answer = norm(x)
    assert answer.is_contiguous(memory_format=torch.channels_last)
    plain = F.group_norm(x, 2, norm.weight, norm.bias, norm.eps)
    ours, theirs = (float((each.double() - exact).abs().max()) for each in (answer, plain))
    assert ours < 2e-5
    assert theirs > 5 * ours, "PyTorch's own sums are exact now: use them again"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(2, 8, 40, 9), (1, 8, 300, 500)])
def test_moments_are_exact_in_every_precision(dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.2).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)[..., 1:]  # a part of a map
    groups = x.double().unflatten(1, (4, 2)).flatten(2)
    mean, variance = moments(x, 4)
    torch.testing.assert_close(mean, groups.mean(2), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(variance, groups.var(2, correction=0), atol=0, rtol=2e-4)


def test_moments_of_something_plain_have_hardly_a_variance() -> None:
    mean, variance = moments(torch.full((1, 4, 300, 300), 0.7), 2)
    torch.testing.assert_close(mean, torch.full((1, 2), 0.7, dtype=torch.float64), atol=1e-4, rtol=0)
    assert float(variance.max()) < 1e-4


@pytest.mark.parametrize(("mean", "deviation"), [(5.0, 1.0), (50.0, 1.0), (-100.0, 0.1)])
def test_moments_are_exact_where_the_mean_is_large(mean: float, deviation: float) -> None:
    """A mean of the squares less the square of the mean would lose the variance."""
    x = mean + deviation * torch.randn(1, 8, 190, 257, generator=torch.Generator().manual_seed(0))
    found = moments(x.contiguous(memory_format=torch.channels_last), 4)[1]
    exact = x.double().view(1, 4, -1).var(2, unbiased=False)
    assert float((found / exact - 1).abs().max()) < 1e-5
