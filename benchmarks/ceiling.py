"""What this machine can do at most: its rate of matrix products in each precision, and of copies in memory.

python benchmarks/ceiling.py
"""

import time
from collections.abc import Callable
from typing import Any

SIDE, BYTES = 2048, 1 << 26


def ceiling(seconds: float = 1.0, device: str = "cpu") -> dict[str, float]:
    """TFLOP/s of products of square matrices, and GB/s read and written by a copy: the best seen in so many seconds.

    On a CPU one core is measured by the processor's seconds, whatever else runs there, and products are taken times the
    number of threads.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cores, side, size = (threads, SIDE, BYTES) if device == "cpu" else (1, 4 * SIDE, 64 * BYTES)
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.randn(side, side, device=device).to(dtype)
        took = best(lambda m=matrix: m @ m, seconds, device)
        rates[str(dtype).removeprefix("torch.")] = cores * 2 * side**3 / took / 1e12
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates["copy"] = 2 * size / best(lambda: target.copy_(source), seconds, device) / 1e9
    torch.set_num_threads(threads)
    return rates


def best(work: Callable[[], Any], seconds: float, device: str) -> float:
    """The least time that `work` took: the processor's, or a GPU's by the clock."""
    import torch

    clock = time.process_time if device == "cpu" else time.monotonic

    def once() -> float:
        start = clock()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        return clock() - start

    once()
    times, end = [once()], time.monotonic() + seconds
    while time.monotonic() < end:
        times.append(once())
    return min(times)


if __name__ == "__main__":
    print(ceiling())
