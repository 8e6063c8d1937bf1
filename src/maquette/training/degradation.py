"""Spoiling drawn pictures a little, so that a network trained on them also reads decoded and compressed ones."""

import math
from functools import cache

import torch
from torch import Generator, Tensor

SHARE = 0.5  # of the pictures that each kind of damage befalls
NOISE, TINT = 0.08, 0.06  # largest standard deviation of the noise, largest shift of a colour, for a range of 2
COARSENESS = 0.35  # largest step of the quantised cosine transform
BLOCK = 8  # pixels a side of its blocks, as in JPEG


def degrade(x: Tensor, generator: Generator) -> Tensor:
    """Blur, tint, quantise and roughen pictures (B, 3, H, W) in [-1, 1], each its own way; float32, channels-last.

    The generator is the CPU's. Noise, a number for every pixel, is drawn where the pictures are: an accelerator's
    differs from the CPU's, and hangs on the generator all the same.
    """
    device = x.device

    def amounts(largest: float) -> Tensor:
        """For each picture 0 or, with probability SHARE, uniform up to the largest; (B, 1, 1, 1)."""
        draws = torch.rand(2, len(x), 1, 1, 1, generator=generator)
        return draws[0] * largest * (draws[1] < SHARE)

    x = torch.lerp(x, blurred(x), amounts(1.0).to(device))
    tint = amounts(TINT) * torch.empty(len(x), 3, 1, 1).uniform_(-1, 1, generator=generator)
    x = quantised(x + tint.to(device), amounts(COARSENESS))
    noise = torch.randn(x.shape, generator=_there(generator, device), dtype=torch.float32, device=device)
    return torch.addcmul(x, noise, amounts(NOISE).to(device)).contiguous(memory_format=torch.channels_last)


def _there(generator: Generator, device: torch.device) -> Generator:
    """The generator itself on the CPU; elsewhere one that it seeds."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


def blurred(x: Tensor) -> Tensor:
    """Pixels mixed with their neighbours by 1 2 1, twice along each axis; edges are repeated."""
    for axis in (2, 2, 3, 3):
        size = x.shape[axis]
        before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, size - 1)], axis)
        after = torch.cat([x.narrow(axis, 1, size - 1), x.narrow(axis, size - 1, 1)], axis)
        x = before.add_(after).add_(x, alpha=2).mul_(0.25)
    return x


def quantised(x: Tensor, step: Tensor) -> Tensor:
    """Round the coefficients of each block's cosine transform to multiples of `step` (B, 1, 1, 1); 0 changes nothing.

    `step` is on the CPU, so that nobody waits to learn which pictures are meant.

    High frequencies are rounded more coarsely than low ones, as in JPEG (Wallace 1992, section 4).
    """
    chosen = (step.flatten() > 0).nonzero().flatten()
    if not len(chosen):
        return x
    some, basis = chosen.to(x.device), cosine_basis(BLOCK).to(x.device)
    transform = torch.kron(basis, basis)  # of a block's 64 pixels, row by row
    tiles = x[some].unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)  # (n, 3, h, w, 8, 8)
    frequency = torch.arange(BLOCK, dtype=torch.float32)
    steps = (step[chosen][..., None] * ((1 + frequency[:, None] + frequency) / BLOCK).flatten()).to(x.device)
    rounded = (tiles.flatten(4) @ transform.T / steps).round_() * steps
    result = x.clone()
    result[some] = (rounded @ transform).unflatten(4, (BLOCK, BLOCK)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return result


@cache
def cosine_basis(size: int) -> Tensor:
    """The orthonormal DCT-II: row k is the k-th cosine."""
    k, n = torch.arange(size)[:, None], torch.arange(size)
    basis = torch.cos(math.pi / size * (n + 0.5) * k) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis
