"""Tables of names: every operation and its inverse, laziness, and the account of what is missing or left over."""

import pytest
import torch
from torch import Tensor, nn

from maquette.errors import MaquetteError
from maquette.weights.dialect import (
    BOOKKEEPING,
    CONV_1X1,
    LINEAR,
    SAME,
    SWAPPED,
    TRANSPOSED,
    Change,
    Dialect,
    Source,
    Table,
    account,
    counted,
    layers,
    read,
    recognise,
    size,
    targets,
    write,
)
from maquette.weights.view import Accounted, InMemory


def numbers(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


@pytest.mark.parametrize(
    ("change", "theirs", "ours"),
    [
        (SAME, numbers(2, 3), numbers(2, 3)),
        (TRANSPOSED, numbers(2, 3), torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]])),
        (SWAPPED, torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([3.0, 4.0, 1.0, 2.0])),
        (LINEAR, numbers(2, 3), numbers(2, 3)),
        (CONV_1X1, numbers(2, 3)[:, :, None, None], numbers(2, 3)),
    ],
    ids=["same", "transposed", "swapped", "linear", "convolution"],
)
def test_change_and_its_inverse(change: Change, theirs: Tensor, ours: Tensor) -> None:
    table = {"ours": Source(("theirs",), change)}
    assert torch.equal(read(InMemory({"theirs": theirs}), table)["ours"], ours)
    assert torch.equal(write({"ours": ours}, table)["theirs"], theirs)


@pytest.mark.parametrize("change", [LINEAR, CONV_1X1], ids=["linear", "convolution"])
def test_both_ranks_are_read(change: Change) -> None:
    for stored in (numbers(4, 3), numbers(4, 3, 1, 1)):
        view = read(InMemory({"theirs": stored}), {"ours": Source(("theirs",), change)})
        assert view.shape("ours") == (4, 3)
        assert torch.equal(view["ours"], numbers(4, 3))
    kernel = read(InMemory({"theirs": numbers(4, 3, 3, 3)}), {"ours": Source(("theirs",), change)})
    assert kernel.shape("ours") == (4, 3, 3, 3)  # a true convolution stays one, for the shape's check to find


QKV: Table = {"qkv": Source(("q", "k", "v"), CONV_1X1), "linear": Source(("a", "b"), rows=(1, 3))}
PARTS: Table = {
    "key": Source(("fused",), part=(2, 5)),
    "query": Source(("fused",), part=(0, 2)),
    "alone": Source(("alone",), TRANSPOSED),
}


def test_rows_are_joined_and_divided() -> None:
    ours = {"qkv": numbers(6, 2), "linear": numbers(4)}
    theirs = write(ours, QKV)
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == {
        "q": (2, 2, 1, 1),
        "k": (2, 2, 1, 1),
        "v": (2, 2, 1, 1),
        "a": (1,),
        "b": (3,),
    }
    assert torch.equal(theirs["k"].flatten(1), ours["qkv"][2:4])
    back = read(theirs, QKV)
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.items())


def test_parts_are_taken_and_put_together() -> None:
    theirs = {"fused": numbers(5, 2), "alone": numbers(3, 2)}
    ours = read(InMemory(theirs), PARTS)
    assert torch.equal(ours["query"], theirs["fused"][:2])
    assert torch.equal(ours["key"], theirs["fused"][2:])
    back = write(ours, PARTS)
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("table", [QKV, PARTS], ids=["joined", "parts"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_shape_and_type_are_those_of_the_tensor(table: Table, dtype: torch.dtype) -> None:
    shapes = {"qkv": (6, 2), "linear": (4,), "query": (2, 2), "key": (3, 2), "alone": (2, 3)}
    ours = {name: numbers(*shapes[name]).to(dtype) for name in table}
    theirs = write(ours, table)
    for view in (theirs, read(theirs, table)):
        for name in view:
            assert (view.shape(name), view.dtype(name)) == (tuple(view[name].shape), view[name].dtype)


def test_parts_of_two_types_become_the_wider() -> None:
    view = read(InMemory({"a": numbers(1).half(), "b": numbers(3)}), {"linear": QKV["linear"]})
    assert view["linear"].dtype == view.dtype("linear") == torch.float32


def test_parts_of_which_one_has_eight_bits_are_widened() -> None:
    for other, wider in ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)):
        view = read(
            InMemory({"a": numbers(1).to(torch.float8_e4m3fn), "b": numbers(3).to(other)}), {"linear": QKV["linear"]}
        )
        assert view["linear"].dtype == view.dtype("linear") == wider
        assert view["linear"].tolist() == [0.0, 0.0, 1.0, 2.0]


def test_nothing_is_read_before_it_is_asked_for() -> None:
    base = Accounted(
        InMemory({"q": numbers(1, 2), "k": numbers(1, 2), "v": numbers(1, 2), "a": numbers(1), "b": numbers(3)})
    )
    ours = read(base, QKV)
    theirs = write(ours, QKV)
    assert [theirs.shape(name) for name in theirs] == [(1, 2, 1, 1)] * 3 + [(1,), (3,)]
    assert base.read == set()
    theirs["a"]
    assert base.read == {"a", "b"}


@pytest.mark.parametrize(
    "table",
    [
        {"x": Source(("fused",), part=(0, 2)), "y": Source(("fused",), part=(3, 5))},
        {"x": Source(("fused",), part=(1, 2)), "y": Source(("fused",), part=(2, 5))},
        {"x": Source(("a", "b"), rows=(1, 1)), "y": Source(("c",))},
        {"x": Source(("a", "b")), "y": Source(("c",))},
    ],
    ids=["gap", "late start", "rows left over", "odd rows"],
)
def test_tables_that_lose_rows_are_refused(table: Table) -> None:
    with pytest.raises(MaquetteError, match=r"rows"):
        write({"x": numbers(3), "y": numbers(3)}, table)


def test_account() -> None:
    found = account(["a", "b", "loss.x", "x.position_ids"], ["b", "c"], [r"loss\..*", r"(.*\.)?position_ids"])
    assert found == (["c"], ["a"])
    # Patterns are for whole names.
    assert account(["losses", "my.loss.x"], [], [r"loss\..*"]).surplus == ["losses", "my.loss.x"]


def test_errors_name_the_first_tensors() -> None:
    stored = InMemory({f"strange.{index}": numbers(1) for index in range(5)})
    with pytest.raises(MaquetteError, match=r"5 missing \(q, k, v, \.\.\.\) and 5 unknown \(strange\.0, strange\.1, "):
        read(stored, QKV)
    with pytest.raises(MaquetteError, match=r"our own layout: 1 missing \(linear\)"):
        write({"qkv": numbers(3, 1)}, QKV)


def test_bookkeeping_of_training_checkpoints() -> None:
    extra = ["betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"]
    extra += ["log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "logvar"]
    extra += ["posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"]
    extra += ["scale_factor", "model_ema.decay", "model_ema.num_updates", "denoiser.sigmas", "lvlb_weights"]
    extra += ["first_stage_model.loss.logvar", "loss.perceptual_loss.lin0.model.1.weight"]
    kept = ["v_pred", "model.diffusion_model.out.2.weight", "edm_vpred.sigma_max", "first_stage_model.decoder.x"]
    assert account([*extra, *kept], [], BOOKKEEPING).surplus == kept


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(2, 6, bias=False)
        self.out = nn.Sequential(nn.Linear(2, 4))
        self.absent = None


NAMES = {"qkv": ("to_q", "to_k", "to_v"), "out.0": "to_out.0", "absent": "skip"}


def test_layers_that_a_module_has() -> None:
    assert layers(Small(), "block", "theirs.0", NAMES, LINEAR) == {
        "block.qkv.weight": Source(("theirs.0.to_q.weight", "theirs.0.to_k.weight", "theirs.0.to_v.weight"), LINEAR),
        "block.out.0.weight": Source(("theirs.0.to_out.0.weight",), LINEAR),
        "block.out.0.bias": Source(("theirs.0.to_out.0.bias",)),
    }


def test_targets_of_adapters() -> None:
    swapped = {"out.0.weight": Source(("norm_out.weight",), SWAPPED)}
    fused = {"out.0.weight": Source(("fused.weight",), part=(3, 7))}
    other = {"qkv.weight": Source(("attn.in_proj_weight",)), "out.0.bias": Source(("other.bias",))}
    tables = (layers(Small(), "", "a", NAMES), swapped, fused, layers(Small(), "", "b", {"out.0": "out"}), other)
    found = {target.spellings: target for target in targets(Small(), tables, roots=("unet", ""), kohya=("lora_unet",))}
    assert [(target.name, target.rows, target.part, target.swap_halves) for target in found.values()] == [
        ("qkv.weight", slice(0, 2), None, False),
        ("qkv.weight", slice(2, 4), None, False),
        ("qkv.weight", slice(4, 6), None, False),
        ("out.0.weight", None, None, False),
        ("out.0.weight", None, None, True),
        ("out.0.weight", None, slice(3, 7), False),
    ]
    assert list(found)[1] == ("unet.a.to_k", "a.to_k", "lora_unet_a_to_k")
    assert list(found)[3] == (
        "unet.a.to_out.0",
        "a.to_out.0",
        "lora_unet_a_to_out_0",
        "unet.b.out",
        "b.out",
        "lora_unet_b_out",
    )


def small_dialect(name: str, prefix: str) -> Dialect[Small, int]:
    return Dialect(name, (f"{prefix}.to_q.weight",), lambda small: layers(small, "", prefix, NAMES), lambda view: 0)


def test_recognise_by_marks() -> None:
    dialects = (small_dialect("one", "a"), small_dialect("two", "b"))
    view = dialects[1].write(Small().state_dict(), Small())
    assert recognise(view, dialects) is dialects[1]
    with pytest.raises(MaquetteError, match=r"none of the known layouts \(one: a\.to_q\.weight; two: b\.to_q"):
        recognise(InMemory({"c": numbers(1)}), dialects)


def test_shapes_are_compared_with_the_network() -> None:
    dialect = small_dialect("one", "a")
    written = dict(dialect.write(Small().state_dict(), Small()))
    written["a.to_out.0.bias"] = numbers(5)
    with pytest.raises(MaquetteError, match=r"'out\.0\.bias' of shape \(4,\), the file of \(5,\)"):
        dialect.read(InMemory(written), Small())


def test_reading_a_spec_off_names() -> None:
    view = InMemory({"block.0.w": numbers(2, 3), "block.1.w": numbers(2, 3), "block.3.w": numbers(2, 3)})
    assert list(counted(view, "block.{}.w")) == [0, 1]
    assert size(view, "block.1.w", 1) == 3
    with pytest.raises(MaquetteError, match="is missing"):
        size(view, "block.2.w", 0)
    with pytest.raises(MaquetteError, match=r"is of shape \(2, 3\)"):
        size(view, "block.1.w", 2)
