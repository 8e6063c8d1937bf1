import math

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.classifier_free_zero_star_guidance import ClassifierFreeZeroStarGuidance
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.guidance import Pair, apg, autoguided, cfg, during, perturbed, rescaled, zero_star
from maquette.diffusion.prediction import EPSILON, SAMPLE, VELOCITY, V
from maquette.diffusion.process import Discrete, Level, RectifiedFlow
from maquette.errors import MaquetteError

LEVEL = Discrete.scaled_linear().at(600.0)
X = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
POSITIVE, NEGATIVE = (Conditioning(vector=torch.full((2, 1), value, dtype=torch.float64)) for value in (0.8, -0.3))


class Counted:
    """A denoiser that depends on everything it is told, and remembers the sizes of the batches it was asked."""

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength
        self.batches: list[int] = []

    def __call__(self, x: Tensor, level: Level, conditioning: Conditioning) -> Tensor:
        assert conditioning.vector is not None
        self.batches.append(x.shape[0])
        return torch.tanh(self.strength * x + conditioning.vector[:, :, None, None] * x.roll(1, -1)) * level.alpha


def answers(denoise: Counted) -> tuple[Tensor, Tensor]:
    return denoise(X, LEVEL, POSITIVE), denoise(X, LEVEL, NEGATIVE)


def test_cfg_extrapolates_in_one_forward_of_twice_the_batch() -> None:
    denoise = Counted()
    positive, negative = answers(denoise)
    denoise.batches.clear()
    guided = cfg(Pair(denoise, POSITIVE, NEGATIVE), 7.5)(X, LEVEL)
    torch.testing.assert_close(guided, negative + 7.5 * (positive - negative))
    assert denoise.batches == [4]


def test_prompts_that_are_meant_together_push_together_in_one_forward() -> None:
    denoise, other = Counted(), Conditioning(vector=torch.full((2, 1), 0.1, dtype=torch.float64))
    positive, negative = answers(denoise)
    second = denoise(X, LEVEL, other)
    denoise.batches.clear()
    pair = Pair(denoise, [(POSITIVE, 1.0), (other, 0.5)], NEGATIVE)
    wanted = negative + (positive - negative) + 0.5 * (second - negative)
    torch.testing.assert_close(pair.positive(X, LEVEL), wanted)
    torch.testing.assert_close(cfg(pair, 3.0)(X, LEVEL), negative + 3.0 * (wanted - negative))
    assert denoise.batches == [6]
    fresh = Pair(denoise, [(POSITIVE, 1.0), (other, 0.5)], NEGATIVE)
    torch.testing.assert_close(fresh.negative(X, LEVEL), negative)
    torch.testing.assert_close(fresh.both(X, LEVEL)[0], wanted)


@pytest.mark.parametrize("guidance", [cfg, apg, zero_star])
@pytest.mark.parametrize(("scale", "which"), [(1.0, 0), (0.0, 1)])
def test_scales_1_and_0_ask_for_one_side_only(guidance, scale: float, which: int) -> None:
    denoise = Counted()
    expected = answers(denoise)[which]
    denoise.batches.clear()
    assert torch.equal(guidance(Pair(denoise, POSITIVE, NEGATIVE), scale)(X, LEVEL), expected)
    assert denoise.batches == [2]


def test_guidance_of_x0_is_guidance_of_the_noise() -> None:
    positive, negative = answers(Counted())
    guided = cfg(Pair(Counted(), POSITIVE, NEGATIVE), 5.0)(X, LEVEL)
    noises = [LEVEL.noise(X, x0) for x0 in (positive, negative)]
    torch.testing.assert_close(LEVEL.noise(X, guided), noises[1] + 5.0 * (noises[0] - noises[1]))


def test_a_pair_answers_again_without_asking_until_x_or_the_level_changes() -> None:
    denoise = Counted()
    pair = Pair(denoise, POSITIVE, NEGATIVE)
    pair.both(X, LEVEL)
    pair.positive(X, LEVEL)
    pair.negative(X, LEVEL)
    assert denoise.batches == [4]
    pair.positive(X.clone(), LEVEL)
    pair.positive(X, Discrete.scaled_linear().at(500.0))
    assert denoise.batches == [4, 2, 2]
    torch.testing.assert_close(pair.positive(X, LEVEL), answers(Counted())[0])


@pytest.mark.parametrize("prediction", [EPSILON, V], ids=["epsilon", "v"])
def test_rescaling_the_output_is_that_of_diffusers(prediction) -> None:
    positive, negative = answers(Counted())
    pair = Pair(Counted(), POSITIVE, NEGATIVE)
    ours = rescaled(cfg(pair, 7.5), pair.positive, 0.7, prediction)(X, LEVEL)
    outputs = [
        prediction.target(x0, LEVEL.noise(X, x0), LEVEL) for x0 in (negative + 7.5 * (positive - negative), positive)
    ]
    expected = rescale_noise_cfg(*outputs, guidance_rescale=0.7)
    torch.testing.assert_close(ours, prediction.x0(expected, X, LEVEL), rtol=1e-9, atol=1e-9)


def test_rescaling_fully_gives_the_contrast_of_the_unguided_answer_and_costs_nothing() -> None:
    denoise = Counted()
    pair = Pair(denoise, POSITIVE, NEGATIVE)
    ours = rescaled(cfg(pair, 7.5), pair.positive, 1.0)(X, LEVEL)
    assert denoise.batches == [4]
    torch.testing.assert_close(ours.flatten(1).std(1), answers(Counted())[0].flatten(1).std(1))
    assert rescaled(pair.positive, pair.positive, 0.0) == pair.positive


def test_rescaling_holds_at_pure_noise() -> None:
    level = RectifiedFlow().at(1.0)
    pair = Pair(lambda x, level, told: x * told.vector[:, :, None, None], POSITIVE, NEGATIVE)
    assert rescaled(cfg(pair, 7.5), pair.positive)(X, level).isfinite().all()


@pytest.mark.parametrize("prediction", [VELOCITY, V, SAMPLE])
def test_cfg_zero_star_is_that_of_diffusers(prediction) -> None:
    level = RectifiedFlow().at(0.7)
    denoise = Counted()
    outputs = [
        prediction.target(x0, level.noise(X, x0), level)
        for x0 in (denoise(X, level, POSITIVE), denoise(X, level, NEGATIVE))
    ]
    guider = ClassifierFreeZeroStarGuidance(guidance_scale=4.0, zero_init_steps=0)
    guider.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(700))
    wanted = prediction.x0(guider.forward(*outputs).pred, X, level)
    found = zero_star(Pair(denoise, POSITIVE, NEGATIVE), 4.0, prediction)(X, level)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)  # its factor is of single precision
    assert not torch.allclose(found, cfg(Pair(denoise, POSITIVE, NEGATIVE), 4.0)(X, level), atol=1e-3)


def test_a_pair_can_ask_another_denoiser_the_same() -> None:
    weak = Counted(0.5)
    told = [(POSITIVE, 1.0), (NEGATIVE, 0.5)]
    pair = Pair(Counted(), told, NEGATIVE).of(weak)
    torch.testing.assert_close(pair.positive(X, LEVEL), Pair(Counted(0.5), told, NEGATIVE).positive(X, LEVEL))
    assert weak.batches == [6]


def test_apg_is_that_of_diffusers_over_several_steps() -> None:
    pair, momentum = Pair(Counted(), POSITIVE, NEGATIVE), MomentumBuffer(-0.5)
    ours = apg(pair, 7.5, parallel=0.3, momentum=-0.5, threshold=2.0)
    x = X
    for t in (900.0, 500.0, 100.0):
        level = Discrete.scaled_linear().at(t)
        positive, negative = Counted()(x, level, POSITIVE), Counted()(x, level, NEGATIVE)
        expected = normalized_guidance(positive, negative, 6.5, momentum, 0.3, 2.0, use_original_formulation=True)
        torch.testing.assert_close(ours(x, level), expected)
        x = x * 0.9


def test_apg_with_everything_kept_is_cfg() -> None:
    pair = Pair(Counted(), POSITIVE, NEGATIVE)
    plain = apg(pair, 4.0, parallel=1.0, momentum=0.0, threshold=math.inf)
    torch.testing.assert_close(plain(X, LEVEL), cfg(pair, 4.0)(X, LEVEL))


def test_apg_pushes_at_right_angles_to_the_wanted_answer() -> None:
    pair = Pair(Counted(), POSITIVE, NEGATIVE)
    push = apg(pair, 4.0)(X, LEVEL) - pair.positive(X, LEVEL)
    assert (push * pair.positive(X, LEVEL)).flatten(1).sum(1).abs().max() < 1e-12


def test_perturbed_attention_joins_cfg_for_one_more_forward() -> None:
    denoise, weak = Counted(), Counted(0.5)
    pair = Pair(denoise, POSITIVE, NEGATIVE)
    guided = perturbed(cfg(pair, 4.0), pair.positive, lambda x, level: weak(x, level, POSITIVE), 3.0)(X, LEVEL)
    positive, negative = answers(Counted())
    expected = negative + 4.0 * (positive - negative) + 3.0 * (positive - Counted(0.5)(X, LEVEL, POSITIVE))
    torch.testing.assert_close(guided, expected)
    assert denoise.batches == [4] and weak.batches == [2]


def test_autoguidance_pushes_away_from_the_weak_model() -> None:
    strong, weak = (lambda x, level: 2.0 * x), (lambda x, level: x)
    torch.testing.assert_close(autoguided(strong, weak, 3.0)(X, LEVEL), X + 3.0 * (2.0 * X - X))
    assert autoguided(strong, weak, 1.0) is strong


def test_guidance_lasts_for_its_interval() -> None:
    process = Discrete.scaled_linear()
    guided = during(lambda x, level: x + 1.0, lambda x, level: x, first=700.0, last=300.0)
    added = [(guided(X, process.at(t)) - X).mean().item() for t in (999.0, 700.5, 700.0, 301.0, 300.0, 0.0)]
    assert added == pytest.approx([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    with pytest.raises(MaquetteError, match="noisier"):
        during(guided, guided, first=0.2, last=0.7)
