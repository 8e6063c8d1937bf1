"""Step caching: what the depths of a network say changes little from step to step, and is not computed at every one.

The first block always runs. How much its output changed is summed up (Liu et al. 2024, TeaCache), and while the sum is
small only the outer blocks run: of a U-Net those at the finest resolution, on what the deep ones said before (Ma et
al. 2023, DeepCache); of a transformer none but the first, and what the others added is added again. What was said
twice before goes on along half of its slope, between holding it and extrapolating it (Liu et al. 2025, TaylorSeer).

    denoise = cached(model.denoiser, model.network, threshold=0.25)
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Denoiser
from maquette.diffusion.process import Level
from maquette.errors import MaquetteError
from maquette.models.dit import DiT
from maquette.models.flux import Flux
from maquette.models.mmdit import MMDiT
from maquette.models.unet import UNet
from maquette.nn.joint import JointBlock
from maquette.nn.network import Run, running

MOST = 8  # things told that are remembered: words may change from step to step, and from place to place
SLOPE = 0.5  # at 0 what was said is held, at 1 extrapolated: the picture is then several dB further from the exact one


class Said(NamedTuple):
    """What the depths of a network said at a time: a U-Net's features, or what a transformer's blocks added."""

    time: float
    what: Tensor


class Memory:
    """What is remembered from step to step of one thing that the network is told over and over."""

    def __init__(self) -> None:
        self.change = 0.0  # of the first block's output, relative, summed since the depths were computed
        self.shapes: dict[int, torch.Size] = {}  # of what each block says
        self._first: Tensor | None = None
        self._deep: list[Said] = []

    def suffices(self, first: Tensor, threshold: float) -> bool:
        """Whether the depths need not be computed where the first block says this."""
        last, self._first = self._first, first
        if last is not None:
            self.change += float((first - last).abs().mean() / last.abs().mean().clamp(min=1e-12))
        return len(self._deep) == 2 and self.change <= threshold

    def keep(self, time: float, what: Tensor) -> None:
        """Remember what the depths say now, and what they said before that."""
        self.change = 0.0
        self._deep = [*(each for each in self._deep[-1:] if each.time != time), Said(time, what)]

    def at(self, time: float) -> Tensor:
        """What the depths are taken to say at a time."""
        before, last = self._deep
        return torch.lerp(before.what, last.what, 1.0 + SLOPE * (time - last.time) / (last.time - before.time))


class Pass:
    """A network's `run` while it answers once."""

    def __init__(self, blocks: dict[nn.Module, int], outer: int, memory: Memory, threshold: float, time: float) -> None:
        self.blocks, self.outer, self.memory = blocks, outer, memory
        self.threshold, self.time, self.skips = threshold, time, False

    def run(self, inner: Run, block: nn.Module, *args: Any) -> Any:
        """Run a block by `inner`, or answer in its place."""
        index = self.blocks[block]
        if self.skips and not self.is_outer(index):
            return self.skip(index, block, args)
        said = inner(block, *args)
        if index == 0:
            self.skips = self.memory.suffices(_picture(said), self.threshold)
        self.note(index, block, args, said)
        return said

    def is_outer(self, index: int) -> bool:
        """Whether a block runs at every step."""
        raise NotImplementedError

    def skip(self, index: int, block: nn.Module, args: tuple[Any, ...]) -> Any:
        """The answer in a block's place."""
        raise NotImplementedError

    def note(self, index: int, block: nn.Module, args: tuple[Any, ...], said: Any) -> None:
        """Remember what is needed of what a block said."""
        raise NotImplementedError


class UNetPass(Pass):
    """The last `outer` stages of the way up run at every step, and those of the way down that they read beside it."""

    def is_outer(self, index: int) -> bool:
        return index < max(self.outer - 1, 1) or index >= len(self.blocks) - self.outer

    def skip(self, index: int, block: nn.Module, args: tuple[Any, ...]) -> Tensor:
        if index == len(self.blocks) - self.outer - 1:
            return self.memory.at(self.time)
        x: Tensor = args[0]  # of the others only the shape is needed
        return x.new_zeros(()).expand(self.memory.shapes[index])

    def note(self, index: int, block: nn.Module, args: tuple[Any, ...], said: Tensor) -> None:
        self.memory.shapes[index] = said.shape
        if index == len(self.blocks) - self.outer - 1:
            self.memory.keep(self.time, said)


class TransformerPass(Pass):
    """The first block runs at every step; what a control adds between the others is no part of what is remembered."""

    first: Tensor
    last: Tensor
    between: Tensor | float

    def is_outer(self, index: int) -> bool:
        return index == 0

    def skip(self, index: int, block: nn.Module, args: tuple[Any, ...]) -> Any:
        given = _stream(block, args)
        if index + 1 == len(self.blocks):
            added = self.memory.at(self.time)
            given = torch.cat([given[:, : -added.shape[1]], given[:, -added.shape[1] :] + added], dim=1)
        return (args[0], given) if isinstance(block, JointBlock) else given

    def note(self, index: int, block: nn.Module, args: tuple[Any, ...], said: Any) -> None:
        given, places = _stream(block, args), self.first.shape[1] if index else 0
        if index == 0:
            self.first, self.between = _picture(said), 0.0
        elif given is not self.last:
            self.between = self.between + (given[:, -places:] - self.last[:, -places:])
        self.last = _picture(said)
        if index and index + 1 == len(self.blocks):
            self.memory.keep(self.time, self.last[:, -places:] - self.first - self.between)


def _stream(block: nn.Module, args: tuple[Any, ...]) -> Tensor:
    """Those of a transformer block's inputs that hold the picture's tokens, which come last."""
    stream: Tensor = args[1 if isinstance(block, JointBlock) else 0]
    return stream


def _picture(said: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """What a block says of the picture."""
    return said[1] if isinstance(said, tuple) else said


def cached(denoise: Denoiser, network: Any, threshold: float, *, outer: int = 1) -> Denoiser:
    """The answers of `denoise`, approximately, without all of `network` being computed for each.

    The depths are computed anew when the relative changes of the first block's output, of step after step, add up to
    more than `threshold`; `outer` stages of a U-Net's way up are always computed. Make one for every picture. It
    answers for whole pictures, and decides for all rows of a batch together.

    Raises:
        MaquetteError: the network cannot be divided so.
    """
    blocks, kind = _blocks(network, outer)
    memories: dict[tuple[int, ...], tuple[Conditioning, Memory]] = {}

    def answer(x: Tensor, level: Level, told: Conditioning) -> Tensor:
        key = (id(told.tokens), id(told.vector), len(told.control), len(told.features), *x.shape)
        _, memory = memories[key] = memories.pop(key, (told, Memory()))  # the last asked stands last
        if len(memories) > MOST:
            del memories[next(iter(memories))]
        with running(network, kind(blocks, outer, memory, threshold, float(level.t)).run):
            return denoise(x, level, told)

    return answer


def _blocks(network: Any, outer: int) -> tuple[dict[nn.Module, int], type[Pass]]:
    """The blocks in the order in which they run, numbered, and how they are gone through."""
    match network:
        case UNet():
            if not 1 <= outer < len(network.up):
                raise MaquetteError(
                    f"cache: got {outer} outer stages; this U-Net's way up has {len(network.up)}: give 1 to "
                    f"{len(network.up) - 1}"
                )
            blocks = [*network.down, *network.middle, *network.up]
        case DiT() | MMDiT():
            blocks = [*network.blocks]
        case Flux():
            blocks = [*network.double_blocks, *network.single_blocks]
        case _:
            raise MaquetteError(f"cache: a {type(network).__name__} cannot be divided into depths; leave out the cache")
    if len(blocks) < 2:
        raise MaquetteError("cache: this network has a single block, so that nothing can be left out; leave it out")
    return {block: index for index, block in enumerate(blocks)}, UNetPass if isinstance(
        network, UNet
    ) else TransformerPass
