"""Views around a mapping of tensors: choosing, joining, averaging, accounting; and number formats."""

import re

import pytest
import torch
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.weights.precision import cast, descaled
from maquette.weights.view import Accounted, InMemory, View, Weights, ema, prefixed, select, union


class Unreadable(View):
    """A view whose tensors must not be read."""

    def __getitem__(self, name: str) -> Tensor:
        raise AssertionError(f"{name} was read")


def numbers(*names: str) -> InMemory:
    return InMemory({name: torch.full((2, 3), float(n)) for n, name in enumerate(names)})


def equal(view: Weights, expected: dict[str, Tensor]) -> bool:
    """The same names in the same order, values, and promises about them."""
    assert list(view) == list(expected)
    assert len(view) == len(expected)
    for name, tensor in expected.items():
        assert torch.equal(view[name], tensor)
        assert (view.shape(name), view.dtype(name)) == (tensor.shape, tensor.dtype)
    return True


def test_select_strips_the_prefix_and_prefixed_restores_it() -> None:
    view = numbers("unet.a", "vae.a", "unet.b.c")
    part = select(view, "unet.")
    assert equal(part, {"a": view["unet.a"], "b.c": view["unet.b.c"]})
    assert "unet.a" not in part
    assert equal(prefixed(part, "unet."), {"unet.a": view["unet.a"], "unet.b.c": view["unet.b.c"]})


def test_nothing_but_reading_reads() -> None:
    view = Unreadable(numbers("a.x", "a.y"))
    joined = cast(union([select(view, "a."), prefixed(view, "b.")]), torch.float16)
    assert list(joined) == ["x", "y", "b.a.x", "b.a.y"]
    assert "x" in joined and "z" not in joined
    assert joined.shape("x") == (2, 3)
    assert joined.dtype("x") == torch.float16
    assert joined == joined and joined != view


def test_union_names_both_files_of_a_tensor_that_is_there_twice() -> None:
    with pytest.raises(MaquetteError, match="'b' is in two files"):
        union([numbers("a", "b"), numbers("b")])


def test_union_keeps_the_first_word_on_metadata() -> None:
    first, second = InMemory({}, {"format": "pt", "a": "1"}), InMemory({}, {"format": "np", "b": "2"})
    assert union([first, second]).metadata == {"format": "pt", "a": "1", "b": "2"}


def test_ema_stands_under_the_plain_names() -> None:
    view = numbers(
        "model.net.in.0.weight", "model.net.in.10.weight", "first_stage.a", "model_ema.netin0weight", "model_ema.decay",
        "model_ema.num_updates", "model_ema.stray",
    )  # fmt: skip
    assert equal(
        ema(view),
        {
            "model.net.in.0.weight": view["model_ema.netin0weight"],
            "model.net.in.10.weight": view["model.net.in.10.weight"],
            "first_stage.a": view["first_stage.a"],
            "model_ema.stray": view["model_ema.stray"],
        },
    )


def test_ema_without_averages_is_an_error() -> None:
    with pytest.raises(MaquetteError, match="no averaged weights"):
        ema(numbers("model.a", "model_ema.decay", "model_ema.num_updates"))


def test_accounted_knows_what_was_not_read() -> None:
    view = Accounted(numbers("a", "b", "c"))
    view["b"]
    assert (view.read, view.unread()) == ({"b"}, ["a", "c"])
    with pytest.raises(KeyError):
        view["d"]
    assert view.read == {"b"}


def test_cast_changes_floating_point_only() -> None:
    tensors = {"a": torch.randn(3), "n": torch.arange(3), "b": torch.tensor([True]), "s": torch.tensor(2.0)}
    view = cast(InMemory(tensors), torch.bfloat16)
    expected = {name: t.bfloat16() if t.is_floating_point() else t for name, t in tensors.items()}
    assert equal(view, expected)


@pytest.mark.parametrize("values", [[1e6], [1.0, -1e6], [float("inf"), 1e6]])
def test_cast_refuses_values_beyond_the_range(values: list[float]) -> None:
    view = cast(InMemory({"big": torch.tensor(values)}), torch.float16)
    with pytest.raises(MaquetteError, match="'big' holds values beyond the range of float16"):
        view["big"]


def test_cast_keeps_infinities() -> None:
    mask = torch.tensor([0.0, float("-inf"), 5.0])
    assert torch.equal(cast(InMemory({"mask": mask}), torch.float16)["mask"], mask.half())


@pytest.mark.parametrize("word", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("scale", [torch.tensor(0.25), torch.tensor([0.5]), torch.tensor([[0.5], [2.0], [8.0]])])
def test_scaled_float8_is_multiplied_out_before_it_is_cast(word: str, scale: Tensor) -> None:
    stored = torch.randn(3, 4).to(torch.float8_e4m3fn)
    file = InMemory(
        {
            "a.weight": stored,
            f"a.{word}": scale,
            "a.scale_input": torch.tensor(1.0),
            "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn),
            "norm.weight": stored[0],
            "norm.scale_weight.other": scale,
        }
    )
    exact = stored.float() * scale
    kept = {"norm.weight": stored[0], "norm.scale_weight.other": scale}
    assert list(descaled(file)) == ["a.weight", *kept]
    assert torch.equal(descaled(file)["a.weight"], exact)
    half = cast(file, torch.float16)
    assert equal(half, {"a.weight": exact.half()} | {name: tensor.half() for name, tensor in kept.items()})
    assert half.encoding("a.weight") == "float8_e4m3fn scaled"
    with pytest.raises(KeyError):
        half[f"a.{word}"]


def test_a_scale_that_fits_nothing_is_an_error() -> None:
    file = {"a.weight": torch.zeros(3, 4).to(torch.float8_e5m2), "a.scale_weight": torch.ones(4)}
    with pytest.raises(MaquetteError, match=re.escape("'a.scale_weight' has 4 numbers for a weight of shape (3, 4)")):
        descaled(InMemory(file))


def test_without_scales_descaled_is_the_view_itself() -> None:
    view = numbers("a.weight")
    assert descaled(view) is view
