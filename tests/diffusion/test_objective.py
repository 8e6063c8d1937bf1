import math

import pytest
import torch
from torch import Generator, Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.objective import (
    Objective,
    capped_snr,
    logit_normal,
    losses_by_time,
    min_snr,
    mode,
    p2,
    stratified,
    towards_noise,
    uniform,
)
from maquette.diffusion.prediction import EPSILON, PREDICTIONS, SAMPLE, VELOCITY, V
from maquette.diffusion.process import Discrete, RectifiedFlow
from maquette.errors import MaquetteError

SD = Discrete.scaled_linear()
FLOW = RectifiedFlow(shift=3.0)


def seeded() -> Generator:
    return Generator().manual_seed(0)


def test_discrete_times_are_whole_and_uniform() -> None:
    t = Objective(process=SD, prediction=EPSILON).draw_times(100_000, seeded())
    assert t.dtype == torch.float32 and torch.equal(t, t.round())
    assert t.min() == 0 and t.max() == 999
    assert t.mean().item() == pytest.approx(499.5, abs=3)


def test_continuous_times_are_shifted() -> None:
    t = Objective(process=FLOW, prediction=VELOCITY, continuous=True).draw_times(100_000, seeded())
    assert t.min() >= 0.0 and t.max() <= 1.0
    assert t.median().item() == pytest.approx(0.75, abs=0.005)  # half of them beyond the shifted half


@pytest.mark.parametrize(
    ("density", "quantiles"),
    [
        (uniform, lambda u: u),
        (stratified, lambda u: u),
        # The quantile of a logit-normal is the logistic function of the normal's.
        (logit_normal(0.5, 0.8), lambda u: torch.sigmoid(0.5 + 0.8 * torch.special.ndtri(u))),
        (towards_noise(stratified, 2.0), lambda u: 1 - (1 - u) / (1 + u)),  # the odds of the noise doubled
        (mode(0.81), lambda u: (u - 0.81 * (torch.cos(math.pi / 2 * (1 - u)) ** 2 - u)).sort().values),
    ],
    ids=["uniform", "stratified", "logit-normal", "towards-noise", "mode"],
)
def test_densities_have_their_quantiles(density, quantiles) -> None:
    u = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    drawn = density(200_000, seeded()).quantile(u)
    torch.testing.assert_close(drawn, quantiles(u), rtol=0, atol=0.006)


def test_stratified_times_fill_every_stratum() -> None:
    assert stratified(8, seeded()).mul(8).floor().sort().values.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("name", "process"),
    [*((name, SD) for name in PREDICTIONS), *((name, FLOW) for name in PREDICTIONS if name != "epsilon")],
)
def test_a_perfect_network_loses_nothing(name: str, process: Discrete | RectifiedFlow) -> None:
    objective = Objective(process=process, prediction=PREDICTIONS[name], weight=min_snr())
    t = objective.draw_times(6, seeded())
    x0, noise = torch.randn(2, 6, 4, 8, 8, generator=seeded())
    answer = PREDICTIONS[name].target(x0, noise, process.at(t))
    losses = objective.losses(lambda x, t, conditioning: answer, x0, Conditioning(), t, noise)
    assert losses.shape == (6,)
    assert losses.max() < 1e-10


def test_the_network_sees_the_mixture_and_its_time() -> None:
    def network(x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        torch.testing.assert_close(x, SD.at(times).mix(x0, noise))
        assert torch.equal(t, times)
        return noise + 2.0

    times = torch.tensor([0.0, 500.0, 999.0])
    x0, noise = torch.randn(2, 3, 1, 4, 4, generator=seeded())
    losses = Objective(process=SD, prediction=EPSILON).losses(network, x0, Conditioning(), times, noise)
    torch.testing.assert_close(losses, torch.full((3,), 4.0))


# Each paper's own formula for each prediction, in terms of the signal-to-noise ratio.
@pytest.mark.parametrize(
    ("prediction", "weight", "formula"),
    [
        (SAMPLE, min_snr(5.0), lambda snr: snr.clamp(max=5.0)),
        (EPSILON, min_snr(5.0), lambda snr: snr.clamp(max=5.0) / snr),
        (V, min_snr(5.0), lambda snr: snr.clamp(max=5.0) / (snr + 1.0)),
        (V, capped_snr(5.0), lambda snr: (snr + 1.0).clamp(max=5.0) / (snr + 1.0)),
        (EPSILON, p2(1.0, 1.0), lambda snr: 1.0 / (1.0 + snr)),
        (V, None, torch.ones_like),
    ],
    ids=["min-SNR x0", "min-SNR epsilon", "min-SNR v", "capped v", "P2 epsilon", "none"],
)
def test_weights_are_the_papers(prediction, weight, formula) -> None:
    level = SD.at(torch.tensor([0.0, 10.0, 300.0, 700.0, 999.0], dtype=torch.float64))
    snr = (level.alpha / level.sigma).square().flatten()
    weights = Objective(process=SD, prediction=prediction, weight=weight).weights(level)
    torch.testing.assert_close(weights, formula(snr), rtol=1e-9, atol=0)


@pytest.mark.parametrize("prediction", [SAMPLE, V, VELOCITY])
def test_one_weighting_means_the_same_error_in_x0_for_every_prediction(prediction) -> None:
    x0, noise, error = torch.randn(3, 4, 1, 4, 4, dtype=torch.float64, generator=seeded())
    t = torch.tensor([0.01, 0.3, 0.7, 0.99], dtype=torch.float64)
    level = FLOW.at(t)
    # The output that means x0 + error, whatever the prediction.
    output = prediction.target(x0 + error, level.noise(level.mix(x0, noise), x0 + error), level)
    objective = Objective(process=FLOW, prediction=prediction, weight=min_snr())
    losses = objective.losses(lambda x, t, conditioning: output, x0, Conditioning(), t, noise)
    expected = error.square().flatten(1).mean(1) * torch.as_tensor(level.snr).flatten().clamp(max=5.0)
    torch.testing.assert_close(losses, expected)


def test_weights_are_finite_at_pure_noise() -> None:
    process = Discrete.scaled_linear(zero_terminal_snr=True)
    weights = Objective(process=process, prediction=V, weight=min_snr()).weights(
        process.at(torch.tensor([998.5, 999.0]))
    )
    assert weights.isfinite().all()


def test_losses_are_binned_by_time() -> None:
    t = torch.tensor([0.0, 99.0, 100.0, 950.0, 999.0])
    mean, count = losses_by_time(torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]), t, SD, bins=10)
    assert count.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert mean[[0, 1, 9]].tolist() == [2.0, 5.0, 8.0] and mean[2].isnan()


def test_epsilon_and_pure_noise_are_refused() -> None:
    with pytest.raises(MaquetteError, match="epsilon"):
        Objective(process=RectifiedFlow(), prediction=EPSILON)
