import pytest
import torch

from maquette.diffusion.compose import blend, by_step, handover, keep, release, tiled
from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.noise import SeededNoise
from maquette.diffusion.process import Discrete, RectifiedFlow
from maquette.diffusion.samplers import SAMPLERS, sampler
from maquette.diffusion.schedules import schedule
from maquette.errors import MaquetteError

SHAPE = (2, 3, 6, 6)
ORIGINAL = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(1, 1, 6, 6)
MASK[..., 3:] = 1.0
LEVEL = RectifiedFlow().at(0.5)


@pytest.mark.parametrize("process", [Discrete.scaled_linear(), RectifiedFlow()], ids=["SD", "flow"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_kept_is_bit_identical_at_the_end_and_the_rest_is_painted(name: str, process) -> None:
    painted = torch.full(SHAPE, 5.0)
    guided = keep(lambda x, level: painted + 0.1 * x, ORIGINAL, MASK)
    made = schedule("trailing", process, 8)
    noise = SeededNoise([1, 2])
    x = made[0].mix(ORIGINAL, noise.start(SHAPE[1:]))
    *_, last = sampler(name)(guided, x, made, noise)
    assert torch.equal(last.x[..., :3], ORIGINAL[..., :3])
    assert (last.x[..., 3:] > 3.0).all()


def test_a_soft_mask_mixes() -> None:
    mixed = keep(lambda x, level: torch.zeros_like(x), torch.ones(SHAPE), torch.full((1, 1, 6, 6), 0.25))
    torch.testing.assert_close(mixed(ORIGINAL, LEVEL), torch.full(SHAPE, 0.75))


@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_by_degrees_each_place_is_begun_with_for_as_long_as_it_says(name: str) -> None:
    """Where places do not see each other, one of degree m is what the whole picture is at the strength m."""

    def answer(x: torch.Tensor, level) -> torch.Tensor:
        return 0.3 * x + 1.0

    def walked(guided, levels) -> torch.Tensor:
        noise = SeededNoise([1, 2])
        *_, last = sampler(name)(guided, levels[0].mix(ORIGINAL, noise.start(SHAPE[1:])), levels, noise)
        return last.x

    degrees = torch.tensor([0.0, 0.2, 0.25, 0.5, 0.99, 1.0]).expand(1, 1, 6, 6)
    made = schedule("trailing", Discrete.scaled_linear(), 8)
    x = walked(release(answer, ORIGINAL, degrees, list(made)[:-1]), made)
    assert torch.equal(x[..., 0], ORIGINAL[..., 0])
    for column, steps in enumerate([1, 2, 4, 7, 8], start=1):
        alone = walked(answer, made.strength(steps / 8))
        torch.testing.assert_close(x[..., column], alone[..., column])


def test_regions_are_painted_by_their_own_and_meet_in_the_mean() -> None:
    left, right = torch.zeros(1, 1, 6, 6), torch.zeros(1, 1, 6, 6)
    left[..., :4], right[..., 2:] = 1.0, 1.0
    regions = blend([(lambda x, level: x + 1.0, left), (lambda x, level: x + 3.0, right)])
    added = (regions(ORIGINAL, LEVEL) - ORIGINAL)[0, 0, 0]
    torch.testing.assert_close(added, torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 3.0]))


def test_a_handover_changes_who_is_asked() -> None:
    asked = []
    guided = handover(lambda x, level: asked.append("before") or x, lambda x, level: asked.append("after") or x, 500.0)
    for level in schedule("trailing", Discrete.scaled_linear(), 4)[:-1]:  # 999, 749, 499, 249
        guided(ORIGINAL, level)
    assert asked == ["before", "before", "after", "after"]


def test_mistakes_say_what_to_do() -> None:
    with pytest.raises(MaquetteError, match="outside of"):
        keep(lambda x, level: x, ORIGINAL, MASK * 255)
    with pytest.raises(MaquetteError, match="without any region"):
        blend([(lambda x, level: x, MASK)])
    with pytest.raises(MaquetteError, match="without any region"):
        blend([])


@pytest.mark.parametrize(
    ("size", "tile", "overlap"), [((6, 6), (8, 8), 2), ((20, 9), (8, 8), 3), ((16, 36), (8, 12), 0)]
)
def test_tiles_of_a_local_answer_are_the_whole_answer(size, tile, overlap: int) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    seen = torch.zeros(size)
    beside = torch.arange(size[0] * size[1]).reshape(1, 1, *size).float().expand(2, -1, -1, -1)

    def local(x, level, told):
        assert x.shape[-2] <= tile[0] and x.shape[-1] <= tile[1]
        assert torch.equal(told.window.of(beside), told.concat)
        for place in told.concat[0, 0].flatten().long().tolist():
            seen.view(-1)[place] += 1
        return torch.tanh(x) + told.concat

    whole = tiled(local, tile, overlap)(x, LEVEL, Conditioning(concat=beside))
    torch.testing.assert_close(whole, torch.tanh(x) + beside)
    assert (seen >= 1).all()
    assert (seen > 1).any() == (overlap > 0 and size > tile)


def test_tiles_refuse_control_and_an_overlap_of_everything() -> None:
    for told in (Conditioning(control=(ORIGINAL,)), Conditioning(features=(ORIGINAL,))):
        with pytest.raises(MaquetteError, match="let controls wrap what is tiled"):
            tiled(lambda x, level, told: x, (4, 4), 1)(ORIGINAL, LEVEL, told)
    with pytest.raises(MaquetteError, match="the overlap must be smaller"):
        tiled(lambda x, level, told: x, (4, 4), 4)


def test_each_step_asks_its_own_and_what_lies_between_belongs_to_the_step_before() -> None:
    made = schedule("trailing", Discrete.scaled_linear(), 4)
    answers = [lambda x, level, k=k: torch.full_like(x, k) for k in range(4)]
    changing = by_step(answers, made[:-1].levels)
    assert [int(changing(ORIGINAL, level)[0, 0, 0, 0]) for level in made[:-1]] == [0, 1, 2, 3]
    assert int(changing(ORIGINAL, made.between(made[1], made[2], 0.9))[0, 0, 0, 0]) == 1
    assert by_step([answers[0]] * 4, made[:-1].levels) is answers[0]
    with pytest.raises(MaquetteError, match="2 denoisers for 4 steps"):
        by_step(answers[:2], made[:-1].levels)
