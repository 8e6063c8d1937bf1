"""Streaming: each block of a network is read from its file just before it runs, and let go afterwards.

Only what stands outside the blocks stays in memory, so that a network may be larger than the memory. It is read through
the same view as a whole network: renaming, dequantising and LoRAs apply as tensors are read, and pictures are the same.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from maquette.engine.build import fill, precision
from maquette.nn.network import Network, Run
from maquette.weights.view import Weights


def blocks_of(network: nn.Module) -> dict[nn.Module, str]:
    """The blocks that networks run one by one, and what stands before the names of each one's tensors."""
    return {
        block: f"{name}.{child}.{index}.".lstrip(".")
        for name, part in network.named_modules()
        if isinstance(part, Network)
        for child, blocks in part.named_children()
        if isinstance(blocks, nn.ModuleList)
        for index, block in enumerate(blocks)
    }


class Streamed:
    """A network whose blocks are read from `weights` whenever they run; assign others to change it."""

    def __init__(self, network: Any, weights: Weights, device: torch.device, dtype: torch.dtype) -> None:
        """Let go of the blocks of a network, whose rest stays; or be those of one without memory, and read its rest."""
        self.weights, self._device, self._dtype = weights, device, dtype
        self._prefixes = blocks_of(network)
        self.names = frozenset(prefix + name for block, prefix in self._prefixes.items() for name in block.state_dict())
        if any(parameter.is_meta for parameter in network.parameters()):
            fill(network, weights, device, dtype, but=self.names)
        for block in self._prefixes:
            block.to("meta")
        for part in network.modules():
            if isinstance(part, Network):
                part.run = partial(self._run, part.run)

    def _run(self, run: Run, block: nn.Module, *args: Any) -> Any:
        prefix = self._prefixes.get(block)
        if prefix is None:
            return run(block, *args)
        tensors = {
            name: self.weights[prefix + name].to(self._device, precision(parameter, self._dtype))
            for name, parameter in block.state_dict().items()
        }
        block.load_state_dict(tensors, assign=True)
        del tensors
        try:
            return run(block, *args)
        finally:
            block.to("meta")
