"""Distances between pictures, and between sets of pictures."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SPREAD = 11, 1.5  # of SSIM's Gaussian, in pixels
K1, K2 = 0.01, 0.03


def psnr(a: Tensor, b: Tensor, span: float = 2.0) -> Tensor:
    """Peak signal-to-noise ratio in decibels, (B,), of pictures (B, C, H, W) whose values span `span`."""
    error = (a.double() - b.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(span**2 / error)


def ssim(a: Tensor, b: Tensor, span: float = 2.0) -> Tensor:
    """Structural similarity, (B,), at most 1 (Wang et al. 2004, equation 13), the mean over channels and windows.

    Pictures (B, C, H, W) of at least 11 x 11 pixels; windows are Gaussian and lie within the picture.
    """
    a, b = a.double(), b.double()
    mean_a, mean_b = _smooth(a), _smooth(b)
    variance_a, variance_b = _smooth(a * a) - mean_a.square(), _smooth(b * b) - mean_b.square()
    covariance = _smooth(a * b) - mean_a * mean_b
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (luminance * structure).mean((1, 2, 3))


def _smooth(x: Tensor) -> Tensor:
    """The Gaussian mean around every pixel whose window lies within the picture."""
    offsets = torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SPREAD**2))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, WINDOW)
    return F.conv2d(F.conv2d(x, weights, groups=x.shape[1]), weights.transpose(2, 3), groups=x.shape[1])


class Moments(NamedTuple):
    """Mean (D,) and covariance (D, D) of features, in float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """The moments of features (N, D)."""
        features = features.double()
        return cls(features.mean(0), torch.cov(features.T).reshape(features.shape[1], -1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance of two Gaussians (Dowson & Landau 1982; Heusel et al. 2017, equation 6).

    ``|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)``: the root's trace is the sum of the roots of eigenvalues.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = torch.linalg.eigvalsh(root @ b.covariance @ root)
    overlap = float(product.clamp(min=0).sqrt().sum())
    apart = float((a.mean - b.mean).square().sum())
    distance = apart + float(a.covariance.trace() + b.covariance.trace()) - 2 * overlap
    return max(distance, 0.0)  # rounding may leave a little less
