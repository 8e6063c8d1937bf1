"""Compilation block by block (`torch.compile`): blocks that are alike share what was compiled, which is kept on disk.

A block is small, so that a network of 25 blocks is compiled as fast as the few kinds of blocks that it has. PyTorch
keeps what it compiled in its own folder (TORCHINDUCTOR_CACHE_DIR), where the next process finds it.
"""

from typing import Any

import torch
from torch import nn

from maquette.nn.network import Network

KINDS = 512  # of blocks, by shape, that are compiled: a U-Net has about 20 for each size of pictures
LIMITS = {  # how often PyTorch compiles what is one in the source, by default 8 and 256 times; their names in 2.6
    "recompile_limit": "cache_size_limit",
    "accumulated_recompile_limit": "accumulated_cache_size_limit",
}


def compile_blocks(network: Network, backend: str = "inductor") -> None:
    """Let a network run each of its blocks compiled, for the shapes that it meets; beyond `KINDS` of them, as it is.

    On the CPUs that were measured this wins nothing (docs/benchmarks.md).
    """
    config = torch._dynamo.config
    for name, older in LIMITS.items():
        limit = name if hasattr(config, name) else older
        setattr(config, limit, max(getattr(config, limit), KINDS))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # compiled code leaves weights alone
    before, compiled = network.run, {}

    def run(block: nn.Module, *args: Any) -> Any:
        if block not in compiled:
            # Not as a full graph, with which a block beyond the limit would fail.
            compiled[block] = torch.compile(block, dynamic=False, backend=backend)
        return before(compiled[block], *args)

    network.run = run
