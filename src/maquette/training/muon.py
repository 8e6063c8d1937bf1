"""Muon: updates of matrices with all their singular values brought near one (Jordan et al. 2024).

AdamW scales each number by itself; here the whole matrix is turned into the nearest one with orthogonal rows or
columns, so that directions that are rare in the gradient count as much as the common ones. A convolution is the matrix
of its outputs by all it reads.
"""

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
"""The coefficients of each step: the singular value s becomes a s + b s^3 + c s^5, which drives it towards one."""
ITERATIONS = 5
MOMENTUM = 0.95


def orthogonal(matrix: Tensor) -> Tensor:
    """U V^T, roughly, of the matrix U S V^T: its singular values come to lie between 0.7 and 1.2.

    By Newton and Schulz' iteration in bfloat16, which needs products alone; (rows, columns) float32 in and out.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.t()).to(torch.bfloat16)
    x = x / (x.norm() + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        square = x @ x.t()
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.t()).float()


def muon(weight: Tensor, gradient: Tensor, momentum: Tensor, rate: float, weight_decay: float) -> None:
    """One update of a weight of two or more dimensions, in place, with Nesterov's momentum, which is updated too."""
    momentum.lerp_(gradient, 1.0 - MOMENTUM)
    ahead = gradient.lerp(momentum, MOMENTUM)
    update = orthogonal(ahead.flatten(1))
    tall = max(1.0, update.shape[0] / update.shape[1]) ** 0.5  # so that outputs change alike, whatever the shape
    weight.mul_(1.0 - rate * weight_decay).add_(update.view(weight.shape), alpha=-rate * tall)
