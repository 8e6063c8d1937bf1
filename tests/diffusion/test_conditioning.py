from dataclasses import replace

import pytest
import torch

from maquette.diffusion.conditioning import Conditioning, Window
from maquette.errors import MaquetteError


def make(rows: int, value: float = 0.0) -> Conditioning:
    return Conditioning(
        tokens=torch.full((rows, 5, 8), value),
        vector=torch.full((rows, 6), value),
        guidance=torch.full((rows,), value),
        control=(torch.full((rows, 2, 4, 4), value), torch.full((rows, 3, 2, 2), value)),
        features=(torch.full((rows, 7, 2, 2), value),),
        unwanted=torch.full((rows,), value),
    )


@pytest.mark.parametrize(
    ("start", "stop", "scale", "expected"),
    [
        (0, 8, 1, (0, 8)),
        (4, 12, 4, (1, 3)),
        (8, 24, 8, (1, 3)),
        (5, 12, 8, (1, 2)),
        (21, 32, 8, (2, 4)),
        (24, 99, 8, (3, 4)),
    ],
)
def test_a_window_lies_over_maps_of_every_scale(start: int, stop: int, scale: int, expected: tuple[int, int]) -> None:
    window = Window(slice(start, stop), slice(0, 8), (32, 8))
    places = torch.arange(32 // scale).expand(1, 8, -1).mT
    assert torch.equal(window.of(places), places[:, slice(*expected)])


def test_cat_and_slice_are_inverse() -> None:
    both = Conditioning.cat([make(2, 1.0), make(3, 2.0)])
    assert both.tokens is not None and both.tokens.shape == (5, 5, 8)
    assert both.concat is None
    back = both[2:]
    assert back.tokens is not None and torch.equal(back.tokens, torch.full((3, 5, 8), 2.0))
    assert [tuple(residual.shape) for residual in back.control] == [(3, 2, 4, 4), (3, 3, 2, 2)]
    assert [feature.tolist() for feature in back.features] == [torch.full((3, 7, 2, 2), 2.0).tolist()]
    assert both.unwanted is not None and both.unwanted.tolist() == [1.0, 1.0, 2.0, 2.0, 2.0]


def test_repeat_tiles_the_batch() -> None:
    tiled = Conditioning(vector=torch.tensor([[1.0], [2.0]])).repeat(2)
    assert tiled.vector is not None and tiled.vector.flatten().tolist() == [1.0, 2.0, 1.0, 2.0]


def test_to_casts_everything() -> None:
    cast = make(1).to(dtype=torch.bfloat16)
    assert cast.tokens is not None and cast.tokens.dtype == torch.bfloat16
    assert {residual.dtype for residual in cast.control} == {torch.bfloat16}
    same = make(1)
    assert same.to().tokens is same.tokens


def test_to_keeps_how_often_and_where() -> None:
    told = replace(make(1), repeats=2, window=Window(slice(0, 4), slice(4, 8), (8, 8)))
    moved = told.to("cpu", torch.bfloat16)
    assert (moved.repeats, moved.window) == (told.repeats, told.window)


def test_guidance_is_never_rounded_to_half_precision() -> None:
    """Near 7.3 bfloat16 has no number between 7.28 and 7.31, and 1000 times that is what the sinusoids turn by."""
    told = Conditioning(guidance=torch.tensor([7.3]))
    assert torch.equal(told.to(dtype=torch.bfloat16).guidance, torch.tensor([7.3]))
    assert told.to(dtype=torch.float64).guidance.dtype == torch.float64


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Conditioning(), "tokens of .*nothing"),
        (Conditioning(tokens=torch.zeros(1, 7, 8)), r"tokens of \(1, 5, 8\), \(1, 7, 8\)"),
        (Conditioning(tokens=torch.zeros(1, 5, 8), control=(torch.zeros(1),)), "control residuals"),
        (Conditioning(tokens=torch.zeros(1, 5, 8), features=(torch.zeros(1),)), "control residuals"),
        (Conditioning(tokens=torch.zeros(1, 5, 8), unwanted=torch.zeros(1)), "unwanted of nothing"),
    ],
)
def test_what_does_not_fit_together_is_an_error(other: Conditioning, message: str) -> None:
    with pytest.raises(MaquetteError, match=message):
        Conditioning.cat([Conditioning(tokens=torch.zeros(1, 5, 8)), other])


def test_nothing_cannot_be_concatenated() -> None:
    with pytest.raises(MaquetteError, match="at least one"):
        Conditioning.cat([])


@pytest.mark.parametrize("full", [17, 18, 19, 22, 125])
@pytest.mark.parametrize("halvings", [0, 1, 2, 3])
def test_a_window_of_halved_maps_is_as_large_as_a_halved_window(full: int, halvings: int) -> None:
    """Networks halve odd sides upwards, those of the whole as those of a part."""

    def halved(side: int) -> int:
        for _ in range(halvings):
            side = (side + 1) // 2
        return side

    for start in range(full - 8):
        found = Window(slice(start, start + 8), slice(0, full), (full, full)).of(
            torch.zeros(1, halved(full), halved(full))
        )
        assert found.shape[-2:] == (halved(8), halved(full))
