"""Emulated noise is compared with the calls that the other programs make, written out; CUDA's generator is Philox."""

import hashlib

import pytest
import torch
from torch import Tensor

from maquette.diffusion.emulation import EMULATIONS, noise, slerp_rows
from maquette.diffusion.noise import SeededNoise, VariedNoise
from maquette.diffusion.philox import Philox
from maquette.diffusion.process import RectifiedFlow
from maquette.errors import MaquetteError

FROM, TO = RectifiedFlow().at(0.9), RectifiedFlow().at(0.8)
SHAPE = (4, 8, 8)
X = torch.zeros(3, *SHAPE)
SEEDS = [5, 6, 7]


def cpu(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def draws(name: str, delta: int = 0) -> list[Tensor]:
    """The start of three pictures, and two later draws."""
    made = noise(name, SEEDS, delta)
    return [made.start(SHAPE), made(X, FROM, TO), made(X, FROM, TO)]


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_one_generator_a_picture_is_ours_and_diffusers_list_and_a1111_on_the_cpu() -> None:
    generators = [cpu(seed) for seed in SEEDS]
    expected = [torch.cat([randn(each, 1, *SHAPE) for each in generators]) for _ in range(3)]
    ours = SeededNoise(SEEDS)
    assert equal([ours.start(SHAPE), ours(X, FROM, TO), ours(X, FROM, TO)], expected)
    assert equal(draws("cpu"), expected)
    assert equal(draws("a1111-cpu"), expected)


def test_one_generator_for_the_batch_is_diffusers() -> None:
    generator, cuda = cpu(5), Philox(5)
    assert equal(draws("diffusers"), [randn(generator, 3, *SHAPE) for _ in range(3)])
    assert equal(draws("diffusers-cuda"), [cuda.normal((3, *SHAPE)) for _ in range(3)])


def test_a1111_on_nvidia_draws_each_picture_by_itself() -> None:
    sources = [Philox(seed) for seed in SEEDS]
    assert equal(draws("a1111-nv"), [torch.stack([each.normal(SHAPE) for each in sources]) for _ in range(3)])


@pytest.mark.parametrize(("name", "source"), [("a1111-cpu", cpu), ("a1111-nv", Philox)])
def test_ensd_moves_the_seed_of_the_steps(name: str, source) -> None:
    def draw(each, shape):
        return each.normal(shape) if isinstance(each, Philox) else randn(each, *shape)

    later = [source(seed + 31337) for seed in SEEDS]
    expected = [torch.stack([draw(source(seed), SHAPE) for seed in SEEDS])]
    expected += [torch.stack([draw(each, SHAPE) for each in later]) for _ in range(2)]
    assert equal(draws(name, delta=31337), expected)


def test_comfyui_draws_a_batch_at_once_and_the_steps_anew() -> None:
    start, cuda, next_seed = randn(cpu(5), 3, *SHAPE), Philox(5), cpu(6)
    assert equal(draws("comfyui"), [start, *(cuda.normal((3, *SHAPE)) for _ in range(2))])
    assert equal(draws("comfyui-cpu"), [start, *(randn(next_seed, 3, *SHAPE) for _ in range(2))])


def test_invokeai_flips_the_seed_of_the_steps() -> None:
    later = [Philox(seed ^ 0xFFFFFFFF) for seed in SEEDS]
    steps = [torch.stack([each.normal(SHAPE) for each in later]) for _ in range(2)]
    assert equal(draws("invokeai"), [torch.stack([randn(cpu(seed), *SHAPE) for seed in SEEDS]), *steps])
    assert equal(draws("invokeai-cuda"), [torch.stack([Philox(seed).normal(SHAPE) for seed in SEEDS]), *steps])


@pytest.mark.parametrize("name", EMULATIONS)
def test_the_first_picture_starts_as_it_does_alone(name: str) -> None:
    assert torch.equal(noise(name, [5]).start(SHAPE)[0], noise(name, SEEDS).start(SHAPE)[0])


@pytest.mark.parametrize("name", EMULATIONS)
def test_a_saved_state_goes_on_where_it_was(name: str) -> None:
    made, other = noise(name, SEEDS), noise(name, [1, 2, 3])
    made.start(SHAPE)
    made(X, FROM, TO)
    other.restore(made.state())
    assert torch.equal(other.start(SHAPE), made.start(SHAPE))
    assert torch.equal(other(X, FROM, TO), made(X, FROM, TO))


GOLDEN = {  # of the start and of two steps, for the seeds 5, 6, 7
    "cpu": "4b6fb32c53a3 332188de06f6 0e32145dcf63",
    "a1111-cpu": "4b6fb32c53a3 332188de06f6 0e32145dcf63",
    "a1111-nv": "babf8aeff6cf 82cac61ee85f 9e865c4027a8",
    "comfyui": "5f93e42cc179 727173341ea9 395509d63462",
    "comfyui-cpu": "5f93e42cc179 842809501ee2 2b7f9098c976",
    "diffusers": "5f93e42cc179 63dd0c575987 0dec716bf2ac",
    "diffusers-cuda": "727173341ea9 395509d63462 3eee55235ed8",
    "invokeai": "4b6fb32c53a3 75778111e44b 935c1cf2f9be",
    "invokeai-cuda": "babf8aeff6cf 75778111e44b 935c1cf2f9be",
}


@pytest.mark.parametrize("name", EMULATIONS)
def test_golden_hashes(name: str) -> None:
    digests = [
        hashlib.sha256(draw.mul(4).round().to(torch.int32).numpy().tobytes()).hexdigest()[:12] for draw in draws(name)
    ]
    assert digests == GOLDEN[name].split()


def test_a_variation_of_a1111_turns_each_column_by_itself() -> None:
    first, second = SeededNoise([1, 2]).start(SHAPE), SeededNoise([3, 4]).start(SHAPE)
    found = slerp_rows(first, second, 0.3)
    for picture, channel, column in [(0, 0, 0), (1, 3, 5), (1, 2, 7)]:
        a, b = (each[picture, channel, :, column].double() for each in (first, second))
        angle = torch.acos(a @ b / (a.norm() * b.norm()))
        expected = (torch.sin(0.7 * angle) * a + torch.sin(0.3 * angle) * b) / torch.sin(angle)
        torch.testing.assert_close(found[picture, channel, :, column].double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(slerp_rows(first, first, 0.3), first)
    varied = VariedNoise(SeededNoise([1, 2]), SeededNoise([3, 4]), 0.3, EMULATIONS["a1111-nv"].between)
    assert torch.equal(varied.start(SHAPE), found)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(MaquetteError, match="noise 'gpu', which does not exist; give one of cpu, a1111-cpu"):
        noise("gpu", [1])
