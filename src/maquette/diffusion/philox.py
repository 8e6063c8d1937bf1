"""Philox 4x32-10 and its normal numbers, as an NVIDIA GPU draws them, on any machine.

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is a cipher: it scrambles a counter with a
key, and so every number of a stream can be had at once. cuRAND, and PyTorch on CUDA with it, gives each number of a
draw its own stream: the key is the seed, the upper half of the counter says which number, the lower half which draw.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maquette.errors import MaquetteError

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # added to the key after each round: the golden ratio, and sqrt(3) - 1
LOW = 0xFFFFFFFF

Words = NDArray[np.uint32]


def philox(counter: Words, key: Words) -> Words:
    """Scramble counters (4, n) with keys (2, n) or (2, 1): ten rounds of the paper's section 4.3."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        low0, high0 = _multiply(c0, MULTIPLIERS[0])
        low1, high1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + np.uint32(WEYL[0]), k1 + np.uint32(WEYL[1])  # modulo 2^32
    return np.stack([c0, c1, c2, c3])


def _multiply(words: Words, by: int) -> tuple[Words, Words]:
    """The lower and the upper 32 bits of a product."""
    product = words.astype(np.uint64) * np.uint64(by)
    return product.astype(np.uint32), (product >> np.uint64(32)).astype(np.uint32)


def box_muller(first: Words, second: Words) -> NDArray[np.float32]:
    """Unit normals from two words each: the sine of Box and Muller's pair, with cuRAND's float32 constants.

    Computed in float64 and rounded: the GPU's own float32 logarithm and sine differ from this in the last bits.
    """
    to_unit, to_angle = np.float32(2.3283064e-10), np.float32(2.3283064e-10 * 6.2831855)  # 2^-32, 2 pi 2^-32
    u = first.astype(np.float64) * to_unit + np.float64(to_unit / np.float32(2))
    angle = second.astype(np.float64) * to_angle + np.float64(to_angle / np.float32(2))
    return (np.sqrt(-2.0 * np.log(u)) * np.sin(angle)).astype(np.float32)


class Philox:
    """The normal numbers that ``torch.randn`` draws on CUDA with this seed, one draw after another.

    They are those of a GPU that runs at least as many threads as a draw has numbers, which is true of a latent of 512 x
    512 (16,384) everywhere, and of one of 1024 x 1024 (65,536) on all but small GPUs.
    """

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < 2**64:
            raise MaquetteError(f"Philox: got seed {seed}; give whole numbers from 0 to 2^64 - 1")
        self.seed, self.draws = seed, 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        """The next draw, float32 on the CPU."""
        count = math.prod(shape)
        counter = np.zeros((4, count), dtype=np.uint32)
        counter[0], counter[1] = self.draws & LOW, self.draws >> 32
        counter[2] = np.arange(count)
        self.draws += 1
        key = np.array([[self.seed & LOW], [self.seed >> 32]], dtype=np.uint32)
        words = philox(counter, key)
        return torch.from_numpy(box_muller(words[0], words[1])).reshape(tuple(shape))

    def get_state(self) -> Tensor:
        """Seed and number of draws so far, as bytes."""
        return torch.tensor(list(self.seed.to_bytes(8, "little") + self.draws.to_bytes(8, "little")), dtype=torch.uint8)

    def set_state(self, state: Tensor) -> None:
        """Go on from a saved `get_state`."""
        saved = bytes(state.tolist())
        self.seed, self.draws = int.from_bytes(saved[:8], "little"), int.from_bytes(saved[8:], "little")
