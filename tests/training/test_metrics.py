"""PSNR, SSIM and the Fréchet distance against second implementations and closed forms."""

import math

import pytest
import torch
from torch import Tensor

from maquette.training.metrics import Moments, frechet_distance, psnr, ssim


def pictures(seed: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, 20, 17, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def test_psnr_of_a_known_error() -> None:
    a = torch.zeros(2, 3, 4, 4)
    b = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 2.0)])
    torch.testing.assert_close(psnr(a, b), torch.tensor([20.0, 0.0], dtype=torch.float64), atol=1e-5, rtol=0)
    assert psnr(a, a).isinf().all()


def windowed_ssim(a: Tensor, b: Tensor) -> float:
    """One channel by the formula, window by window (Wang et al. 2004, equations 13 to 16)."""
    place = torch.arange(11, dtype=torch.float64) - 5
    weights = torch.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for top in range(a.shape[0] - 10):
        for left in range(a.shape[1] - 10):
            x, y = a[top : top + 11, left : left + 11], b[top : top + 11, left : left + 11]
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            both = (weights * (x - mx) * (y - my)).sum()
            c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
            values.append((2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(torch.stack(values).mean())


def test_ssim_equals_the_formula_window_by_window() -> None:
    a = pictures(0)
    b = 0.7 * a + 0.3 * pictures(1)
    wanted = [sum(windowed_ssim(x[c], y[c]) for c in range(3)) / 3 for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(ssim(a, b), torch.tensor(wanted, dtype=torch.float64))
    torch.testing.assert_close(ssim(a, a), torch.ones(2, dtype=torch.float64))


def spread(seed: int, width: int = 6) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    return Moments.of(torch.randn(50, width, generator=generator) @ torch.randn(width, width, generator=generator))


def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    assert frechet_distance(spread(0), spread(0)) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_independent_features_is_a_sum_over_them() -> None:
    """For diagonal covariances: |m - n|^2 + sum (s - t)^2."""
    m, n = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([0.0, 2.0, 3.0]).double()
    s, t = torch.tensor([1.0, 0.5, 0.0]).double(), torch.tensor([2.0, 0.5, 1.5]).double()
    found = frechet_distance(Moments(m, s.square().diag()), Moments(n, t.square().diag()))
    assert found == pytest.approx(10 + 1 + 2.25)


def test_frechet_distance_equals_that_by_the_product_s_own_eigenvalues() -> None:
    a, b = spread(1), spread(2)
    roots = torch.linalg.eigvals(a.covariance @ b.covariance).sqrt().sum().real
    wanted = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * roots
    assert frechet_distance(a, b) == pytest.approx(float(wanted))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_frechet_distance_with_fewer_samples_than_features() -> None:
    few = Moments.of(torch.randn(4, 10, generator=torch.Generator().manual_seed(3)))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert math.isfinite(frechet_distance(few, spread(0, 10)))
