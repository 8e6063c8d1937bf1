import hashlib
import math

import pytest
import torch

from maquette.diffusion.noise import SeededNoise, slerp
from maquette.diffusion.process import RectifiedFlow
from maquette.errors import MaquetteError

FROM, TO = RectifiedFlow().at(0.9), RectifiedFlow().at(0.8)
SHAPE = (4, 8, 8)


def test_a_seed_gives_the_numbers_of_torch_and_of_diffusers() -> None:
    expected = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))
    assert torch.equal(SeededNoise([7]).start(SHAPE)[0], expected)
    assert expected.flatten()[:3].tolist() == pytest.approx(
        torch.randn(1, *SHAPE, generator=torch.manual_seed(7)).flatten()[:3].tolist()
    )


def test_golden_values() -> None:
    first = SeededNoise([0, 1]).start(SHAPE)
    assert first[:, 0, 0, :4].tolist() == [
        pytest.approx([-1.1258398, -1.1523602, -0.2505786, -0.4338788], abs=1e-6),
        pytest.approx([-1.5255959, -0.7502318, -0.6539809, -1.6094848], abs=1e-6),
    ]


def test_every_draw_is_the_same_whatever_the_batch() -> None:
    batch, alone = SeededNoise([5, 6, 7]), SeededNoise([6])
    assert torch.equal(batch.start(SHAPE)[1:2], alone.start(SHAPE))
    x = torch.zeros(3, *SHAPE)
    for _ in range(3):
        assert torch.equal(batch(x, FROM, TO)[1:2], alone(x[:1], FROM, TO))


def test_draws_follow_each_other_and_take_the_type_of_x() -> None:
    noise = SeededNoise([1, 2])
    first, second = noise.start(SHAPE), noise(torch.zeros(2, *SHAPE, dtype=torch.float64), FROM, TO)
    assert second.dtype == torch.float64
    assert not torch.equal(first, second)
    assert torch.equal(second, second.float().double())  # drawn in float32 whatever the type


def test_a_saved_state_goes_on_where_it_was() -> None:
    noise = SeededNoise([1, 2])
    noise.start(SHAPE)
    saved = noise.state()
    expected = noise.start(SHAPE)
    other = SeededNoise([8, 9])
    other.restore(saved)
    assert torch.equal(other.start(SHAPE), expected)


def test_slerp_goes_from_one_noise_to_the_other_and_keeps_the_length() -> None:
    a, b = SeededNoise([1, 2]).start(SHAPE), SeededNoise([3, 4]).start(SHAPE)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    lengths = slerp(a, b, 0.5).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths / math.sqrt(math.prod(SHAPE)), torch.ones(2), rtol=0, atol=0.1)


def test_mistakes_say_what_to_do() -> None:
    with pytest.raises(MaquetteError, match="2 seeds but a batch of 3"):
        SeededNoise([1, 2])(torch.zeros(3, 1), FROM, TO)
    with pytest.raises(MaquetteError, match="seed -1"):
        SeededNoise([-1])
    with pytest.raises(MaquetteError, match="state of 1 pictures for 2"):
        SeededNoise([1, 2]).restore(SeededNoise([1]).state())


def test_golden_hashes() -> None:
    """The start and the first step, in quarters, so that the last bits of a machine's logarithm do not count."""
    noise = SeededNoise([0, 7, 2**63 - 1])
    draws = [noise.start(SHAPE), noise(torch.zeros(3, *SHAPE), FROM, TO)]
    digests = [hashlib.sha256(draw.mul(4).round().to(torch.int32).numpy().tobytes()).hexdigest() for draw in draws]
    assert [digest[:12] for digest in digests] == ["e98862f655da", "122528038e47"]
