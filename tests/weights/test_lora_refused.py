"""What of a LoRA is not used is reported; files that are damaged or of another family are errors."""

import re
from pathlib import Path

import pytest
import torch
from lora_tensors import BASE, IN, OUT, RANK, TARGETS, kohya, lora, pair
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.weights.lora import read_lora, with_lora
from maquette.weights.open_file import open_weights
from maquette.weights.safetensors_file import write_safetensors


def test_the_report_names_what_was_not_used() -> None:
    up, down = pair()
    stray = {
        **kohya("lora_te_layer", up, down),
        "lora_unet_attn_to_q.diff_x": up,
        "lora_unet_half.diff_b": torch.ones(OUT),
    }
    used = kohya("lora_unet_attn_to_q", up, down, 1.0)
    (report,) = with_lora(BASE, [lora({**used, **stray})], TARGETS).reports
    assert set(report.matched) == set(used)
    assert set(report.unmatched) == set(stray)


def test_a_lora_of_another_family_is_an_error(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "style.safetensors", kohya("lora_unet_elsewhere", *pair()))
    adapters = read_lora(open_weights(tmp_path / "style.safetensors"))
    expected = (
        "style.safetensors: none of its 1 modules is in this model (the first is 'lora_unet_elsewhere', the model's"
    )
    with pytest.raises(MaquetteError, match=re.escape(expected)):
        with_lora(BASE, [adapters], TARGETS)


@pytest.mark.parametrize(
    "tensors",
    [
        kohya("lora_unet_attn_to_q", *pair(OUT + 1)),
        kohya("lora_unet_attn_to_q", *pair(OUT, IN * 2)),
        kohya("lora_unet_attn_to_q", *pair(IN, OUT)),
        kohya("lora_unet_attn_to_q", torch.randn(OUT, 0), torch.randn(0, IN)),
        kohya("lora_unet_attn_to_q", torch.tensor(1.0), torch.tensor(1.0)),
        kohya("lora_unet_conv", torch.randn(OUT, RANK, 1, 1), torch.randn(RANK, IN, 1, 1)),
        {"lora_unet_attn_to_q.diff": torch.randn(IN, OUT)},
        # Small factors, a product of 10^14 numbers.
        {"lora_unet_attn_to_q.lokr_w1": torch.ones(10**4, 1), "lora_unet_attn_to_q.lokr_w2": torch.ones(1, 10**4)},
        {
            f"lora_unet_attn_to_q.hada_w{n}_{x}": torch.ones((10**4, 1) if x == "a" else (1, 10**4))
            for n in "12"
            for x in "ab"
        },
    ],
)
def test_another_shape_is_an_error_before_anything_is_computed(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(
        MaquetteError, match="does not fit '.*'; the LoRA was made for another model|does not fit .* of shape"
    ):
        with_lora(BASE, [lora(tensors)], TARGETS)


def test_one_layer_of_another_width_is_left_out() -> None:
    good, bad = kohya("lora_unet_attn_to_q", *pair()), kohya("lora_unet_half", *pair(OUT + 1))
    with pytest.warns(UserWarning, match="module 'lora_unet_half' does not fit 'half.weight' of shape .*; left out"):
        view = with_lora(BASE, [lora(good | bad)], TARGETS)
    assert (set(view.reports[0].matched), set(view.reports[0].unmatched)) == (set(good), set(bad))
    assert view["half.weight"] is BASE["half.weight"]


@pytest.mark.parametrize("parts", [("oft_blocks",), ("oft_blocks", "rescale"), ("a1.weight", "b1.weight")])
def test_adapters_of_an_unknown_kind_are_named(parts: tuple[str, ...]) -> None:
    tensors = {f"lora_unet_attn_to_q.{part}": torch.ones(2, 2) for part in parts}
    tensors["lora_unet_attn_to_q.alpha"] = torch.tensor(1.0)
    names = ", ".join(part.removesuffix(".weight") for part in parts)
    with pytest.raises(MaquetteError, match=f"its tensors end in {names}, adapters of an unknown kind"):
        with_lora(BASE, [lora(tensors)], TARGETS)


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"w": torch.ones(2)}, "holds no LoRA"),
        ({}, "holds no LoRA"),
        ({"a.lora_up.weight": torch.ones(2, 2)}, "has up, which make no adapter"),
        ({"a.lora_up.weight": torch.ones(2, 2), "a.lora_B.weight": torch.ones(2, 2)}, "two keys for its up"),
    ],
)
def test_a_damaged_file_is_an_error(tensors: dict[str, Tensor], problem: str) -> None:
    with pytest.raises(MaquetteError, match=problem):
        lora(tensors)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"lora_down.weight": torch.randn(RANK + 1, IN)}, "parts that do not fit together"),
        ({"alpha": torch.ones(2)}, "an alpha that is not one number"),
        ({"alpha": torch.tensor(float("nan"))}, "infinities or no numbers"),
        ({"dora_scale": torch.ones(5)}, "norms of|do not fit together"),
    ],
)
def test_parts_that_disagree_are_an_error_when_read(change: dict[str, Tensor], problem: str) -> None:
    module = "lora_unet_attn_to_q"
    tensors = kohya(module, *pair(), 1.0) | {f"{module}.{part}": tensor for part, tensor in change.items()}
    view = with_lora(BASE, [lora(tensors)], TARGETS)
    with pytest.raises(MaquetteError, match=problem):
        view["attn.to_q.weight"]


def test_one_module_in_two_spellings_is_an_error() -> None:
    tensors = {**kohya("lora_unet_attn_to_q", *pair()), **kohya("unet.attn.to_q", *pair())}
    with pytest.raises(MaquetteError, match="are the same module"):
        with_lora(BASE, [lora(tensors)], TARGETS)


def test_a_scale_must_be_a_number() -> None:
    with pytest.raises(MaquetteError, match="scale nan"):
        lora(kohya("lora_unet_attn_to_q", *pair()), float("nan"))


def test_a_lora_of_which_many_modules_do_not_fit_is_of_another_model() -> None:
    """As one of SD 1 on SD 2: what reads the text has another width, what reads the picture the same."""
    fitting = kohya("lora_unet_attn_to_q", *pair())
    odd = [kohya(f"lora_unet_attn2_to_{x}", *pair(into=IN + 1)) for x in "qkv"]
    with pytest.raises(
        MaquetteError, match=r"does not fit 'attn\.qkv\.weight' .*; the LoRA was made for another model"
    ):
        with_lora(BASE, [lora({**fitting, **odd[0], **odd[1]})], TARGETS)
    with pytest.warns(UserWarning, match="left out"):
        (report,) = with_lora(BASE, [lora({**fitting, **odd[0]})], TARGETS).reports
    assert set(report.matched) == set(fitting)
