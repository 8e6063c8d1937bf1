"""Copies from the CPU to where a network computes."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str | None, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on a device, cast if a type is given; CUDA is not waited for.

    Elsewhere it is: a copy to MPS that nobody waits for reads its source when that may be gone already (PyTorch's
    issue 189690), and the numbers that arrive are others.
    """
    to_cuda = device is not None and torch.device(device).type == "cuda"
    return tensor.to(device=device, dtype=dtype, non_blocking=to_cuda)
