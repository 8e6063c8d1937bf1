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
