import math
from typing import Any

import pytest

from maquette.errors import MaquetteError
from maquette.workflows.request import MAX_SEED, Request, Resolved

BAD = [
    ({"steps": 0}, "steps must be at least 1, got 0"),
    ({"steps": 1001}, "steps must be at most 1000, got 1001"),
    ({"steps": 2.5}, "steps must be a whole number, got 2.5"),
    ({"steps": "20"}, "steps must be a whole number, got '20'"),
    ({"steps": True}, "steps must be a whole number, got True"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
    ({"seed": 10**40}, "seed must be at most"),
    ({"seed": MAX_SEED, "count": 2}, "leaves no seeds for 2 pictures"),
    ({"count": 0}, "count must be at least 1, got 0"),
    ({"count": 257}, "count must be at most 256, got 257"),
    ({"guidance": -0.5}, "guidance must be at least 0, got -0.5"),
    ({"guidance": math.nan}, "guidance must be a finite number, got nan"),
    ({"guidance": math.inf}, "guidance must be a finite number, got inf"),
    ({"width": 100}, "width must be a multiple of 8; the nearest is 96, got 100"),
    ({"height": 1}, "height must be a multiple of 8; the nearest is 8, got 1"),
    ({"height": 0}, "height must be more than 0, got 0"),
    ({"width": -8}, "width must be more than 0, got -8"),
    ({"width": 8200}, "width must be at most 8192, got 8200"),
    ({"width": 8192, "height": 4096}, "8192x4096 is too large: the limit is 16 megapixels"),
    ({"sampler": "eular"}, "sampler 'eular' does not exist; did you mean euler"),
    ({"sampler": "DPM++ 2M"}, "or dpmpp_2m"),
    ({"sampler": "zzzz"}, "known are ddim, ddpm"),
    ({"schedule": "karas"}, "schedule 'karas' does not exist; did you mean karras?"),
    ({"schedule": "nope"}, "known are align_your_steps, beta"),  # linspace is no more like it than any other
    ({"prompt": "a" * 4001}, "prompt is too long: the limit is 4000 characters"),
    ({"prompt": "a\0b"}, "prompt holds a NUL character"),
    ({"prompt": "\ud800"}, "prompt is not valid Unicode text"),
    ({"negative": 3}, "negative must be text, got 3"),
    ({"model": ""}, "model must not be empty"),
    ({"cfg_scale": 7}, "'cfg_scale' is not a setting"),
    ({"stepz": 7}, "'stepz' is not a setting; did you mean steps"),
    ({"steps": 0, "width": 9}, "steps must be at least 1, got 0; width must be a multiple of 8"),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_wrong_is_said_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MaquetteError) as caught:
        Request.read(fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_everything_may_be_left_out() -> None:
    assert Request.read({}) == Request(prompt="", negative="", model="mini", count=1)


def test_the_family_fills_in_what_is_open_and_nothing_else(model) -> None:
    asked = Request(prompt="a red apple", steps=9, guidance=0, height=64)
    resolved = asked.resolved(model.family.defaults)
    assert resolved.model_dump(exclude={"seed"}) == {
        **asked.model_dump(exclude={"seed"}),
        **{"guidance": 0.0, "sampler": "ddim", "schedule": "trailing", "width": 32},
    }
    assert resolved.resolved(model.family.defaults) == resolved


def test_seeds_by_chance_differ(model) -> None:
    assert len({Request().resolved(model.family.defaults).seed for _ in range(8)}) > 1


def test_picture_k_has_the_seed_plus_k(model) -> None:
    resolved = Request(seed=7, count=3).resolved(model.family.defaults)
    assert list(resolved.seeds) == [7, 8, 9]
    assert resolved.part(2, 1) == Request(seed=9).resolved(model.family.defaults)


def test_a_resolved_request_speaks_json(model) -> None:
    resolved = Request(prompt="苹果 🍎\n\"'", seed=MAX_SEED).resolved(model.family.defaults)
    assert Resolved.model_validate_json(resolved.model_dump_json()) == resolved
