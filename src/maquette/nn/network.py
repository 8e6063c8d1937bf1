"""The base of every network here: a flat list of blocks, each run through one replaceable function.

Replacing `run` is how streaming of weights, gradient checkpointing, block caching and compilation per block are
added; the networks do not know.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[..., Any]


def call(block: nn.Module, *args: Any) -> Any:
    """Run a block as it is: the default of `Network.run`."""
    return block(*args)


class Network(nn.Module):
    """A network whose blocks are run through `self.run(block, *args)`."""

    run: Run

    def __init__(self) -> None:
        super().__init__()
        self.run = call

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights, in which the network computes."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def to_input(self, x: Tensor) -> Tensor:
        """Bring an input to the device and precision of the weights; pictures become channels-last."""
        x = x.to(self.device, self.dtype)
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


@contextmanager
def running(network: Network, other: Callable[..., Any]) -> Iterator[None]:
    """Let a network run its blocks by `other(run, block, *args)` meanwhile, where `run` is how it ran them before.

    What replaces `run` in that time, such as streaming where memory runs out, stays, and runs them as before then.
    """
    before, over = network.run, False

    def run(block: nn.Module, *args: Any) -> Any:
        return before(block, *args) if over else other(before, block, *args)

    network.run = run
    try:
        yield
    finally:
        over = True
        if network.run is run:
            network.run = before


def zero(module: nn.Module) -> nn.Module:
    """Set all parameters of a layer to zero, so that its residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
