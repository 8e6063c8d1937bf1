"""Muon: updates of matrices with all their singular values brought near one (Jordan et al. 2024).

AdamW scales each number by itself; here the whole matrix is turned into the nearest one with orthogonal rows or
columns, so that directions that are rare in the gradient count as much as the common ones. A convolution is the matrix
of its outputs by all it reads.
"""

from collections import defaultdict

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
"""The coefficients of each step: the singular value s becomes a s + b s^3 + c s^5, which drives it towards one."""
ITERATIONS = 5
MOMENTUM = 0.95


def orthogonal(matrices: Tensor) -> Tensor:
    """U V^T, roughly, of the matrices U S V^T: their singular values come to lie between 0.7 and 1.2.

    By Newton and Schulz' iteration in bfloat16, which needs products alone; (n, rows, columns) float32 in and out.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = (matrices if wide else matrices.mT).to(torch.bfloat16)
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        square = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).float()


def muon(
    weights: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    rate: float,
    weight_decay: float,
) -> None:
    """One update of weights of two or more dimensions, in place, with Nesterov's momenta, which are updated too."""
    torch._foreach_lerp_(momenta, gradients, 1.0 - MOMENTUM)
    ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
    torch._foreach_mul_(weights, 1.0 - rate * weight_decay)
    alike = defaultdict(list)  # matrices of one shape are multiplied together
    for weight, gradient in zip(weights, ahead, strict=True):
        matrix = gradient.flatten(1)
        alike[matrix.shape].append((weight, matrix))
    for (rows, columns), pairs in alike.items():
        tall = max(1.0, rows / columns) ** 0.5  # so that outputs change alike, whatever the shape
        for (weight, _), update in zip(pairs, orthogonal(torch.stack([m for _, m in pairs])), strict=True):
            weight.add_(update.view(weight.shape), alpha=-rate * tall)
