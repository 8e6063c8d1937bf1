import pytest
import torch
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import bind, denoiser, translated
from maquette.diffusion.prediction import EPSILON, V
from maquette.diffusion.process import EDM, Discrete, Level, RectifiedFlow


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float64, torch.float32, torch.float64),
        (torch.float64, None, torch.float64),
        (torch.float16, None, torch.float32),
    ],
)
def test_the_network_keeps_its_type_and_the_outside_is_float32_at_least(
    outer: torch.dtype, inner: torch.dtype | None, expected: torch.dtype
) -> None:
    seen = []

    def network(x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.tokens is not None
        seen.append((x.dtype, conditioning.tokens.dtype, t.dtype, t.tolist()))
        return x

    denoise = denoiser(network, V, inner)
    level = Discrete.scaled_linear().at(999.0)
    x0 = denoise(torch.ones(2, 1, 2, 2, dtype=outer), level, Conditioning(tokens=torch.ones(2, 3, 4)))
    network_type = inner or outer
    assert seen == [(network_type, network_type, expected, [999.0, 999.0])]
    assert x0.dtype == expected


def test_x0_of_a_perfect_network_is_the_clean_data() -> None:
    x0, noise = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    level = Discrete.scaled_linear().at(321.5)
    guided = bind(denoiser(lambda x, t, conditioning: noise, EPSILON), Conditioning())
    torch.testing.assert_close(guided(level.mix(x0, noise), level), x0)


def test_a_process_is_asked_along_the_levels_of_another() -> None:
    """A perfect network of an EDM, or of flows, finds the clean data in what DDPM's noise was added to."""
    x0, noise = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64)
    levels = [Discrete.scaled_linear(zero_terminal_snr=True).at(t) for t in (999.0, 700.0, 20.0)]
    for process in (EDM(), RectifiedFlow(), Discrete.scaled_linear()):
        seen: list[Level] = []

        def network(x: Tensor, level: Level, conditioning: Conditioning, seen: list[Level] = seen) -> Tensor:
            seen.append(level)
            return (x - level.sigma * noise) / level.alpha if level.alpha else x0

        for level in levels:
            found = translated(network, process)(level.mix(x0, noise), level, Conditioning())
            if level.lam > process.at(process.start).lam:
                torch.testing.assert_close(found, x0)
        assert all(process.end <= level.t <= process.start for level in seen)


def test_a_batch_of_levels_is_answered_one_time_each() -> None:
    times = []
    denoise = denoiser(lambda x, t, conditioning: times.append(t) or x, V)
    x = torch.randn(3, 1, 2, 2)
    level = RectifiedFlow().at(torch.tensor([0.1, 0.5, 0.9]))
    answer = denoise(x, level, Conditioning())
    assert torch.equal(times[0], torch.tensor([0.1, 0.5, 0.9]))
    alone = denoise(x[1:2], RectifiedFlow().at(0.5), Conditioning())
    torch.testing.assert_close(answer[1:2], alone)
