"""What this machine can do at most: its rate of matrix products in each precision, and of copies in memory.

python benchmarks/ceiling.py
"""

import time
from collections.abc import Callable
from typing import Any

SIDE, BYTES = 2048, 1 << 26


def ceiling(seconds: float = 1.0, device: str = "cpu") -> dict[str, float]:
    """TFLOP/s of products of square matrices, and GB/s read and written by a copy: the best seen in so many seconds."""
    import torch

    def settled(work: Callable[[], Any]) -> Callable[[], Any]:
        return work if device == "cpu" else lambda: (work(), torch.cuda.synchronize())

    side, size = (SIDE, BYTES) if device == "cpu" else (4 * SIDE, 64 * BYTES)
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.randn(side, side, device=device).to(dtype)
        rates[str(dtype).removeprefix("torch.")] = 2 * side**3 / best(settled(lambda m=matrix: m @ m), seconds) / 1e12
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rates["copy"] = 2 * size / best(settled(lambda: target.copy_(source)), seconds) / 1e9
    return rates


def best(work: Callable[[], Any], seconds: float) -> float:
    """The least time that `work` took."""
    times, end = [], time.monotonic() + seconds
    work()
    while time.monotonic() < end or not times:
        start = time.monotonic()
        work()
        times.append(time.monotonic() - start)
    return min(times)


if __name__ == "__main__":
    print(ceiling())
