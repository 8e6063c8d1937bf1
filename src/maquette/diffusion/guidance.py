"""Guidance: push the answer away from a worse one.

Every function here takes guided denoisers, ``(x, level) -> x0``, and returns one, so they compose in any order. What
several of them need is asked of the network once: `Pair` remembers its answers for the last x.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from maquette.diffusion.compose import handover
from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Denoiser, Guided
from maquette.diffusion.prediction import SAMPLE, Prediction
from maquette.diffusion.process import Level
from maquette.errors import MaquetteError


class Pair:
    """The answers with the wanted and with the unwanted conditioning, each computed once for a given x and level.

    Several wanted conditionings, each with a weight, are meant together: the wanted answer is then
    ``negative + sum(weight * (each - negative))`` (Liu et al. 2022, 2206.01714, equation 11).
    """

    def __init__(
        self, denoise: Denoiser, positive: Conditioning | Sequence[tuple[Conditioning, float]], negative: Conditioning
    ) -> None:
        wanted = [(positive, 1.0)] if isinstance(positive, Conditioning) else list(positive)
        self._denoise = denoise
        self._weights = [weight for _, weight in wanted]
        self._several = self._weights != [1.0]
        self._wanted, self._unwanted = [told for told, _ in wanted], negative
        self._all = replace(Conditioning.cat([*self._wanted, negative]), repeats=len(wanted) + 1)
        self._asked: tuple[Tensor, Level] | None = None
        self._answers: dict[str, Tensor] = {}

    def of(self, denoise: Denoiser) -> "Pair":
        """The answers of another denoiser to the same questions."""
        return Pair(denoise, list(zip(self._wanted, self._weights, strict=True)), self._unwanted)

    def positive(self, x: Tensor, level: Level) -> Tensor:
        """What is wanted."""
        if self._several:
            return self.both(x, level)[0]
        return self._answer("positive", self._wanted[0], x, level)

    def negative(self, x: Tensor, level: Level) -> Tensor:
        """What is not."""
        return self._answer("negative", self._unwanted, x, level)

    def both(self, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Both, in one forward of twice the batch, or of more where several are meant together."""
        self._turn_to(x, level)
        if not self._answers or (self._several and "positive" not in self._answers):
            count = len(self._weights)
            *wanted, negative = self._denoise(torch.cat([x] * (count + 1)), level, self._all).chunk(count + 1)
            positive = self._together(wanted, negative) if self._several else wanted[0]
            self._answers = {"positive": positive, "negative": negative}
        if self._several:
            return self._answers["positive"], self._answers["negative"]
        return self.positive(x, level), self.negative(x, level)

    def _together(self, wanted: Sequence[Tensor], negative: Tensor) -> Tensor:
        pushes = [weight * (each - negative) for weight, each in zip(self._weights, wanted, strict=True)]
        return negative + torch.stack(pushes).sum(0)

    def _answer(self, which: str, told: Conditioning, x: Tensor, level: Level) -> Tensor:
        self._turn_to(x, level)
        if which not in self._answers:
            self._answers[which] = self._denoise(x, level, told)
        return self._answers[which]

    def _turn_to(self, x: Tensor, level: Level) -> None:
        if self._asked is None or self._asked[0] is not x or self._asked[1] != level:
            self._asked, self._answers = (x, level), {}


def cfg(pair: Pair, scale: float) -> Guided:
    """Classifier-free guidance, ``negative + scale * (positive - negative)`` (2207.12598, equation 6).

    Scale 1 asks only for what is wanted, scale 0 only for what is not.
    """
    if scale in (0.0, 1.0):
        return pair.positive if scale else pair.negative

    def guided(x: Tensor, level: Level) -> Tensor:
        positive, negative = pair.both(x, level)
        return negative + scale * (positive - negative)

    return guided


def zero_star(pair: Pair, scale: float, prediction: Prediction = SAMPLE) -> Guided:
    """CFG-Zero*: guidance away from the unwanted answer times the number that brings it nearest to the wanted one.

    ``prediction`` is what is measured: the network's output in the paper (2503.18886, equation 10), a flow's velocity.
    The paper's other half, first steps that stay where they are, is left to the schedule.
    """
    if scale in (0.0, 1.0):
        return cfg(pair, scale)

    def guided(x: Tensor, level: Level) -> Tensor:
        wanted, unwanted = (prediction.target(x0, level.noise(x, x0), level) for x0 in pair.both(x, level))
        nearest = unwanted * (_total(wanted * unwanted) / _total(unwanted**2).clamp(min=1e-12))
        return prediction.x0(nearest + scale * (wanted - nearest), x, level)

    return guided


def apg(pair: Pair, scale: float, *, parallel: float = 0.0, momentum: float = -0.5, threshold: float = 15.0) -> Guided:
    """Adaptive projected guidance: CFG whose push is averaged, bounded and orthogonal to what is wanted.

    ``parallel`` is the share kept of the part of the push along the wanted answer, ``threshold`` the largest norm of
    the push (2410.02416, algorithm 1). It remembers the last push: make a new one for every run.
    """
    if scale in (0.0, 1.0):
        return cfg(pair, scale)
    last: list[Tensor] = []

    def guided(x: Tensor, level: Level) -> Tensor:
        positive, negative = pair.both(x, level)
        push = positive - negative + (momentum * last.pop() if last else 0.0)
        last.append(push)
        push = push * (threshold / _norm(push)).clamp(max=1.0)
        direction = positive / _norm(positive)
        along = _total(push * direction) * direction
        return positive + (scale - 1.0) * (push - (1.0 - parallel) * along)

    return guided


def perturbed(guided: Guided, strong: Guided, weak: Guided, scale: float) -> Guided:
    """Add ``scale * (strong - weak)``; with a ``weak`` whose self-attention is the identity, PAG (2403.17377, eq. 15).

    ``strong`` is what ``weak`` is a perturbation of, `Pair.positive` as a rule.
    """
    if scale == 0.0:
        return guided
    return lambda x, level: guided(x, level) + scale * (strong(x, level) - weak(x, level))


def autoguided(strong: Guided, weak: Guided, scale: float) -> Guided:
    """Push ``strong`` away from a worse model's answer: ``weak + scale * (strong - weak)`` (2406.02507, equation 1)."""
    return perturbed(strong, strong, weak, scale - 1.0)


def rescaled(guided: Guided, positive: Guided, amount: float = 0.7, prediction: Prediction = SAMPLE) -> Guided:
    """Bring each picture's contrast back to that of the unguided answer (2305.08891, equations 15 and 16).

    ``amount`` 0 changes nothing, 1 matches the standard deviation. ``prediction`` is what is measured: the paper's code
    measures the network's output, `SAMPLE` measures the picture.
    """
    if amount == 0.0:
        return guided

    def rescale(x: Tensor, level: Level) -> Tensor:
        strong, plain = (
            prediction.target(x0, level.noise(x, x0), level) for x0 in (guided(x, level), positive(x, level))
        )
        factor = plain.flatten(1).std(1) / strong.flatten(1).std(1).clamp(min=1e-12)
        return prediction.x0(strong * (1.0 + amount * (_spread(factor, x) - 1.0)), x, level)

    return rescale


def during(inside: Guided, outside: Guided, *, first: float = math.inf, last: float = -math.inf) -> Guided:
    """``inside`` while ``first >= time > last``, ``outside`` before and after: a guidance interval (2404.07724).

    As a rule ``outside`` is `Pair.positive`. A process's ``time(-log(sigma))`` turns the paper's sigmas into times.
    """
    if not first > last:
        raise MaquetteError(f"during: got the times {first:g} to {last:g}; the first must be the larger, noisier one")
    return handover(handover(outside, inside, first), outside, last)


def _total(each: Tensor) -> Tensor:
    return _spread(each.flatten(1).sum(1), each)


def _norm(each: Tensor) -> Tensor:
    return _spread(each.flatten(1).norm(dim=1), each).clamp(min=1e-12)


def _spread(each: Tensor, like: Tensor) -> Tensor:
    """One number for each picture, (B,), in a shape that multiplies ``like``."""
    return each.reshape(-1, *[1] * (like.ndim - 1))
