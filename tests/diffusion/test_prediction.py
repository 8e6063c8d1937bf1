import pytest
import torch

from maquette.diffusion.prediction import EPSILON, PREDICTIONS, V
from maquette.diffusion.process import Discrete, Process, RectifiedFlow
from maquette.errors import MaquetteError


@pytest.mark.parametrize("process", [Discrete.scaled_linear(zero_terminal_snr=True), RectifiedFlow()], ids=str)
@pytest.mark.parametrize(
    ("name", "part"),
    # At pure noise the noise is the input, and says nothing of x0.
    [(name, part) for name in PREDICTIONS for part in (0.001, 0.4, 0.9995, 1.0) if (name, part) != ("epsilon", 1.0)],
)
def test_x0_is_read_from_what_was_regressed_on(name: str, process: Process, part: float) -> None:
    x0, noise = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    level, prediction = process.at(part * process.start), PREDICTIONS[name]
    target = prediction.target(x0, noise, level)
    torch.testing.assert_close(prediction.x0(target, level.mix(x0, noise), level), x0, rtol=0, atol=1e-10)


def test_noise_at_pure_noise_says_nothing_and_says_so() -> None:
    level = RectifiedFlow().at(1.0)
    x = torch.randn(1, 1, 2, 2)
    with pytest.raises(MaquetteError, match="pure noise"):
        EPSILON.x0(x, x, level)


def test_v_of_a_variance_preserving_process_is_the_turn_of_x_by_a_right_angle() -> None:
    level = Discrete.scaled_linear().at(700.0)
    x0, noise = torch.randn(2, 1, 1, 2, 2, dtype=torch.float64)
    x, v = level.mix(x0, noise), V.target(x0, noise, level)
    torch.testing.assert_close(x**2 + v**2, x0**2 + noise**2)
