"""Compilation block by block (`torch.compile`): blocks that are alike share what was compiled, which is kept on disk.

A block is small, so that a network of 25 blocks is compiled as fast as the few kinds of blocks that it has. PyTorch
keeps what it compiled in its own folder (TORCHINDUCTOR_CACHE_DIR), where the next process finds it.
"""

from typing import Any

import torch
from torch import nn

from maquette.nn.network import Network

KINDS = 64  # of blocks, by shape, in one network: a U-Net has about 20, and PyTorch gives up after 8


def compile_blocks(network: Network, backend: str = "inductor") -> None:
    """Let a network run each of its blocks compiled, for the shapes that it meets.

    On the CPUs that were measured this wins nothing (docs/benchmarks.md).
    """
    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # its name in PyTorch 2.6
    setattr(config, limit, max(getattr(config, limit), KINDS))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # compiled code leaves weights alone
    before, compiled = network.run, {}

    def run(block: nn.Module, *args: Any) -> Any:
        if block not in compiled:
            compiled[block] = torch.compile(block, fullgraph=True, dynamic=False, backend=backend)
        return before(compiled[block], *args)

    network.run = run
