"""Grids: what an axis may say, and that every cell is the picture that its settings give alone."""

import numpy as np
import pytest

from maquette.errors import MaquetteError
from maquette.workflows import loop
from maquette.workflows.grid import Axis, grid, varied
from maquette.workflows.paint import paint
from maquette.workflows.request import Request


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("steps=5,10", Axis("steps", (5, 10))),
        ("guidance=1..3:3", Axis("guidance", (1.0, 2.0, 3.0))),
        ("replace=cat, dog", Axis("replace", ("cat", "dog"))),
        ("sampler=euler,ddim", Axis("sampler", ("euler", "ddim"))),
        ("hires.scale=1.5,2", Axis("hires.scale", (1.5, 2.0))),
    ],
)
def test_an_axis_has_values_of_its_settings_kind(text: str, axis: Axis) -> None:
    assert Axis.read(text) == axis


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("steps", "is no axis"),
        ("steps=", "is no axis"),
        ("stepz=1", "'stepz' is not a setting; did you mean steps"),
        ("steps=ten", "steps cannot be 'ten'"),
        ("sampler=eular", "'eular' does not exist; did you mean euler"),
        ("guidance=1..x", "is no range"),
        ("hires.scales=2", "'hires.scales' is not a setting; did you mean scale"),
    ],
)
def test_what_is_no_axis_is_said_in_a_line(text: str, complaint: str) -> None:
    with pytest.raises(MaquetteError, match=complaint):
        Axis.read(text)


def test_models_are_compared_too(model) -> None:
    other = type(model)()
    other.name = other.opened_as = "other"
    other.spread = 0.5
    model.companions = {"other": other}
    whole, results = loop.run(grid(model, Request(prompt="a red apple", seed=7), [Axis.read("model=gaussian,other")]))
    assert [result.request.model for result in results] == ["gaussian", "other"]
    assert results[0].latent_hashes != results[1].latent_hashes
    assert results[1].latent_hashes == loop.run(paint(other, Request(prompt="a red apple", seed=7))).latent_hashes
    assert whole.width > 2 * 32


def test_every_cell_is_the_picture_that_its_settings_give_alone(model) -> None:
    request = Request(prompt="a red apple", seed=7)
    axes = [Axis.read("steps=2,3"), Axis.read("replace=red,green,blue"), Axis.read("guidance=1,2")]
    work = grid(model, request, axes)
    steps = 0
    while True:
        try:
            next(work)
            steps += 1
        except StopIteration as end:
            whole, results = end.value
            break
    assert steps == 6 * (2 + 3)
    wanted = Request(prompt="a blue apple", seed=7, steps=3, guidance=2)
    assert results[-1].latent_hashes == loop.run(paint(model, wanted)).latent_hashes
    assert whole.width > 4 * 32 and whole.height > 3 * 16
    right = np.asarray(whole)[:, -38:-6][-22:-6]
    assert np.array_equal(right, np.asarray(results[-1].images[0]))


def test_parts_of_parts_are_varied_and_everything_is_checked_before_painting(model) -> None:
    request = Request.read({"hires": {"scale": 2.0, "strength": 0.3}})
    hires = varied(request, [Axis.read("hires.scale=3")], [3.0]).hires
    assert (hires.scale, hires.strength) == (3.0, 0.3)
    with pytest.raises(MaquetteError, match="too many"):
        next(grid(model, request, [Axis("seed", tuple(range(500)))]))
