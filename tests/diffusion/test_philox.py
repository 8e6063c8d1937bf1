import math

import numpy as np
import pytest
import torch

from maquette.diffusion.philox import Philox, philox
from maquette.errors import MaquetteError

KNOWN = [  # counter, key, output: kat_vectors of Random123, "philox4x32 10"
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(*texts: str) -> np.ndarray:
    return np.array([[int(word, 16) for word in text.split()] for text in texts], dtype=np.uint32).T


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_known_answers(counter: str, key: str, output: str) -> None:
    assert np.array_equal(philox(words(counter), words(key)), words(output))


def test_every_counter_is_scrambled_by_itself() -> None:
    counters, keys, outputs = zip(*KNOWN, strict=True)
    assert np.array_equal(philox(words(*counters), words(*keys)), words(*outputs))


def test_the_numbers_that_a1111_publishes() -> None:
    published = [
        [-0.92466259, -0.42534415, -2.6438457, 0.14518388],
        [-0.12086647, -0.57972564, -0.62285122, -0.32838709],
        [-1.07454231, -0.36314407, -1.67105067, 2.26550497],
    ]  # modules/rng_philox.py: Generator(seed=0).randn(shape=(3, 4)); the first draw of a CUDA generator with seed 0
    # They were printed with 2 pi in float64; in float32, as in cuRAND and the code since, an angle is up to 2e-7 more.
    torch.testing.assert_close(Philox(0).normal((3, 4)), torch.tensor(published), rtol=0, atol=3e-7)


def test_draws_differ_and_a_longer_one_begins_as_a_shorter() -> None:
    long, short = Philox(7), Philox(7)
    for _ in range(3):
        assert torch.equal(long.normal((40,))[:10], short.normal((10,)))
    assert not torch.equal(long.normal((10,)), long.normal((10,)))
    assert not torch.equal(Philox(7).normal((4,)), Philox(7 + 2**32).normal((4,)))


def test_the_numbers_are_normal() -> None:
    x = Philox(3).normal((200_000,)).double()
    moments = [(x**k).mean().item() for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.05)
    below = (x < 0.5).double().mean().item()
    assert below == pytest.approx(0.5 * (1 + math.erf(0.5 / math.sqrt(2))), abs=0.005)


def test_a_saved_state_goes_on_where_it_was() -> None:
    source, other = Philox(2**63 + 5), Philox(0)
    source.normal((3,))
    other.set_state(source.get_state())
    assert torch.equal(source.normal((2, 2)), other.normal((2, 2)))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_is_none_is_refused(seed: int) -> None:
    with pytest.raises(MaquetteError, match="give whole numbers from 0"):
        Philox(seed)
