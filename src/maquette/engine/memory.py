"""How much memory there is, and what is done when it does not suffice."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    import torch

GIB = 2**30
WORKING_MEMORY = GIB  # left free for the program itself and for what a picture of common size needs
SHORT = "memory ran out"
# In the errors of torch's allocators, of cuBLAS and of cuDNN.
SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")

T = TypeVar("T")


class Place(NamedTuple):
    """Somewhere a model can run; bytes of memory there are, and how many are free."""

    device: str
    what: str
    total: int
    free: int


def memory() -> tuple[int, int]:
    """The machine's memory and what is free of it, in bytes; a container's limit counts as the machine's."""
    if sys.platform != "linux":
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total // 2  # no portable way to ask; half is a careful guess
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kilobytes = {line[0].rstrip(":"): int(line[1]) for line in lines}
    total, free = 1024 * kilobytes["MemTotal"], 1024 * kilobytes["MemAvailable"]
    limit, used = (read_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is None or used is None or limit >= total:
        return total, free
    return limit, min(free, max(limit - used, 0))


def read_number(file: Path) -> int | None:
    """The number that a file holds, or None."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def free_memory(device: "torch.device") -> int:
    """The bytes that are free where a model is to run, with those that PyTorch holds in reserve."""
    import torch

    if device.type != "cuda":
        return memory()[1]
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserve


def or_else(call: Callable[[], T], smaller: Callable[[], bool]) -> T:
    """The call's answer; where memory runs out, `smaller` makes it need less and says so, and it is tried again.

    Where `smaller` answers False, there is nothing left to try, and the error is raised.
    """
    while True:
        try:
            return call()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not smaller():
                raise
        # Outside of the handler: the error's traceback would keep the tensors that were being computed.


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the processor or of an accelerator."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)
