"""LoRA files of every spelling and kind against weights merged by hand."""

import json
from pathlib import Path

import pytest
import torch
from lora_tensors import BASE, IN, OUT, RANK, TARGETS, close, kohya, lora, merged, pair
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.weights.lora import Target, read_lora, split_key, with_lora
from maquette.weights.open_file import open_weights
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import InMemory, prefixed, select, union


def test_unequal_alphas_scale_each_module_by_its_own() -> None:
    up, down = pair()
    for alpha in (1.0, 0.5, 12.0):
        found = merged(kohya("lora_unet_attn_to_q", up, down, alpha), "attn.to_q.weight")
        assert close(found, BASE["attn.to_q.weight"] + alpha / RANK * up @ down)


def test_without_alpha_it_is_the_rank() -> None:
    up, down = pair()
    found = merged(kohya("lora_unet_attn_to_q", up, down), "attn.to_q.weight", scale=0.7)
    assert close(found, BASE["attn.to_q.weight"] + 0.7 * up @ down)


def test_fused_weights_take_the_rows_of_their_parts() -> None:
    pairs = [pair(rank=rank) for rank in (1, 2, 4)]
    tensors = {}
    for x, (up, down) in zip("qkv", pairs, strict=True):
        tensors |= kohya(f"lora_unet_attn2_to_{x}", up, down, 2.0)
    expected = BASE["attn.qkv.weight"] + torch.cat([2 / up.shape[1] * up @ down for up, down in pairs])
    assert close(merged(tensors, "attn.qkv.weight"), expected)


def test_a_fused_module_on_weights_that_are_parts_of_it() -> None:
    up, down = pair(3 * OUT)
    base = InMemory({f"{x}.weight": torch.randn(OUT, IN) for x in "qkv"})
    targets = [Target(f"{x}.weight", ("qkv",), part=slice(n * OUT, (n + 1) * OUT)) for n, x in enumerate("qkv")]
    view = with_lora(base, [lora(kohya("qkv", up, down, 1.0))], targets)
    for x, rows in zip("qkv", (up @ down / RANK).chunk(3), strict=True):
        assert close(view[f"{x}.weight"], base[f"{x}.weight"] + rows)


def test_exchanged_halves_are_exchanged_back() -> None:
    up, down = pair()
    tensors = {"unet.norm_out.linear.lora_A.weight": down, "unet.norm_out.linear.lora_B.weight": up}
    first, second = (up @ down).chunk(2)
    assert close(merged(tensors, "final.weight"), BASE["final.weight"] + torch.cat([second, first]))


def test_the_sum_is_rounded_once() -> None:
    up, down = pair()
    found = merged(kohya("lora_unet_half", up, down), "half.weight")
    assert torch.equal(found, (BASE["half.weight"].float() + up @ down).bfloat16())


def test_several_loras_add_up_in_any_order() -> None:
    (up, down), (up2, down2) = pair(), pair(rank=5)
    first = lora(kohya("lora_unet_attn_to_q", up, down, 1.0), 0.5)
    second = lora({"unet.attn.to_q.lora_A.weight": down2, "unet.attn.to_q.lora_B.weight": up2}, -2.0)
    expected = BASE["attn.to_q.weight"] + 0.5 / RANK * up @ down - 2 * up2 @ down2
    for loras in ([first, second], [second, first]):
        view = with_lora(BASE, loras, TARGETS)
        assert close(view["attn.to_q.weight"], expected)
        assert view.changed == {"attn.to_q.weight"}
    assert with_lora(BASE, [], TARGETS).changed == frozenset()


@pytest.mark.parametrize(
    ("down_key", "up_key"),
    [
        ("lora_unet_attn_to_q.lora_down.weight", "lora_unet_attn_to_q.lora_up.weight"),
        ("unet.attn.to_q.lora_A.weight", "unet.attn.to_q.lora_B.weight"),
        ("base_model.model.attn.to_q.lora_A.default.weight", "base_model.model.attn.to_q.lora_B.default.weight"),
        ("unet.attn.to_q.lora.down.weight", "unet.attn.to_q.lora.up.weight"),
        ("unet.attn.to_q.lora_linear_layer.down.weight", "unet.attn.to_q.lora_linear_layer.up.weight"),
        ("unet.attn.processor.to_q_lora.down.weight", "unet.attn.processor.to_q_lora.up.weight"),
    ],
)
def test_every_spelling(down_key: str, up_key: str) -> None:
    up, down = pair()
    found = merged({down_key: down, up_key: up}, "attn.to_q.weight")
    assert close(found, BASE["attn.to_q.weight"] + up @ down)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("unet.mid.attn1.processor.to_out_lora.up.weight", ("unet.mid.attn1.to_out.0", "up")),
        ("unet.mid.attn1.processor.add_k_proj_lora.up.weight", ("unet.mid.attn1.add_k_proj", "up")),
        ("text_encoder.layers.0.self_attn.to_q_lora.down.weight", ("text_encoder.layers.0.self_attn.q_proj", "down")),
        ("text_encoder.layers.0.self_attn.to_out_lora.up.weight", ("text_encoder.layers.0.self_attn.out_proj", "up")),
        ("lora_te_x.hada_w1_a", ("lora_te_x", "hada_w1_a")),
        ("x.lora_B.bias", ("x", "up_bias")),
        ("model.diffusion_model.out.0.weight", None),
    ],
)
def test_keys_are_split(key: str, expected: tuple[str, str] | None) -> None:
    assert split_key(key) == expected


def test_locon() -> None:
    up, down = torch.randn(OUT, RANK, 1, 1), torch.randn(RANK, IN, 3, 3)
    expected = torch.nn.functional.conv2d(down.transpose(0, 1), up).transpose(0, 1)  # the two convolutions as one
    found = merged(kohya("lora_unet_conv", up, down, 2.0), "conv.weight")
    assert close(found, BASE["conv.weight"] + 2 / RANK * expected)


def test_locon_with_a_core() -> None:
    up, mid, down = torch.randn(OUT, RANK, 1, 1), torch.randn(RANK, 2, 3, 3), torch.randn(2, IN, 1, 1)
    delta = torch.zeros(OUT, IN, 3, 3)
    for r in range(RANK):
        for s in range(2):
            delta += up[:, r].reshape(OUT, 1, 1, 1) * mid[r, s] * down[s].reshape(1, IN, 1, 1)
    tensors = {**kohya("lora_unet_conv", up, down, 4.0), "lora_unet_conv.lora_mid.weight": mid}
    assert close(merged(tensors, "conv.weight"), BASE["conv.weight"] + 4 / 2 * delta)


@pytest.mark.parametrize("tail", [(), (1, 1)])
def test_a_1x1_convolution_and_a_matrix_are_the_same(tail: tuple[int, ...]) -> None:
    up, down = pair()
    found = merged(
        kohya("lora_unet_proj_in", up.reshape(OUT, RANK, *tail), down.reshape(RANK, IN, *tail)), "proj_in.weight"
    )
    assert close(found, BASE["proj_in.weight"] + (up @ down).reshape(OUT, IN, 1, 1))


def test_loha() -> None:
    (a, b), (c, d) = pair(), pair()
    parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(1.5)}
    found = merged({f"lora_unet_attn_to_q.{part}": tensor for part, tensor in parts.items()}, "attn.to_q.weight")
    assert close(found, BASE["attn.to_q.weight"] + 1.5 / RANK * (a @ b) * (c @ d))


def test_loha_with_cores() -> None:
    def factor() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        core, out, into = torch.randn(RANK, RANK, 3, 3), torch.randn(RANK, OUT), torch.randn(RANK, IN)
        whole = torch.zeros(OUT, IN, 3, 3)
        for i in range(RANK):
            for j in range(RANK):
                whole += core[i, j] * out[i].reshape(OUT, 1, 1, 1) * into[j].reshape(1, IN, 1, 1)
        return core, out, into, whole

    (t1, a, b, first), (t2, c, d, second) = factor(), factor()
    parts = {"hada_t1": t1, "hada_w1_a": a, "hada_w1_b": b, "hada_t2": t2, "hada_w2_a": c, "hada_w2_b": d}
    found = merged({f"lora_unet_conv.{part}": tensor for part, tensor in parts.items()}, "conv.weight")
    assert close(found, BASE["conv.weight"] + first * second)


def kron(left: Tensor, right: Tensor) -> Tensor:
    """The Kronecker product of matrices, by its definition."""
    return torch.cat([torch.cat([number * right for number in row], dim=1) for row in left])


@pytest.mark.parametrize("low_rank", [(False, False), (False, True), (True, False), (True, True)])
def test_lokr(low_rank: tuple[bool, bool]) -> None:
    parts, factors, rank = {"alpha": torch.tensor(5.0)}, [], None
    for n, (low, (rows, columns)) in enumerate(zip(low_rank, ((3, 2), (4, 4)), strict=True), 1):
        if low:
            a, b = pair(rows, columns, n)
            parts |= {f"lokr_w{n}_a": a, f"lokr_w{n}_b": b}
            factors.append(a @ b)
            rank = n
        else:
            parts[f"lokr_w{n}"] = torch.randn(rows, columns)
            factors.append(parts[f"lokr_w{n}"])
    scale = 1.0 if rank is None else 5.0 / rank
    found = merged({f"lora_unet_attn_to_q.{part}": tensor for part, tensor in parts.items()}, "attn.to_q.weight")
    assert close(found, BASE["attn.to_q.weight"] + scale * kron(*factors))


@pytest.mark.parametrize("kind", ["whole", "product", "core"])
def test_lokr_of_a_convolution(kind: str) -> None:
    left, right = torch.randn(3, 2), torch.randn(4, 4, 3, 3)
    parts = {"lokr_w1": left}
    if kind == "whole":
        parts["lokr_w2"] = right
    elif kind == "product":
        a, b = torch.randn(4, RANK), torch.randn(RANK, 4 * 9)
        right = (a @ b).reshape(4, 4, 3, 3)
        parts |= {"lokr_w2_a": a, "lokr_w2_b": b}
    else:
        core, a, b = torch.randn(RANK, RANK, 3, 3), torch.randn(RANK, 4), torch.randn(RANK, 4)
        right = torch.stack([a.T @ core[:, :, y, x] @ b for y in range(3) for x in range(3)])
        right = right.permute(1, 2, 0).reshape(4, 4, 3, 3)
        parts |= {"lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b}
    delta = torch.stack([kron(left, right[:, :, y, x]) for y in range(3) for x in range(3)])
    found = merged({f"lora_unet_conv.{part}": tensor for part, tensor in parts.items()}, "conv.weight")
    assert close(found, BASE["conv.weight"] + delta.permute(1, 2, 0).reshape(OUT, IN, 3, 3))


def test_full_differences_of_weights_biases_and_norms() -> None:
    weight, bias, norm = torch.randn(OUT, IN), torch.randn(OUT), torch.randn(OUT)
    tensors = {"lora_unet_attn_to_q.diff": weight, "lora_unet_attn_to_q.diff_b": bias, "lora_unet_norm.w_norm": norm}
    for name, delta in (("attn.to_q.weight", weight), ("attn.to_q.bias", bias), ("norm.weight", norm)):
        assert close(merged(tensors, name, scale=0.3), BASE[name] + 0.3 * delta)


def test_the_bias_of_a_low_rank_layer_has_its_scale_and_rows() -> None:
    up, down = pair()
    bias = torch.randn(OUT)
    tensors = {
        "unet.attn2.to_k.lora_A.weight": down,
        "unet.attn2.to_k.lora_B.weight": up,
        "unet.attn2.to_k.lora_B.bias": bias,
        "unet.attn2.to_k.alpha": torch.tensor(1.0),
    }
    zeros = torch.zeros(OUT)
    assert close(merged(tensors, "attn.qkv.bias"), BASE["attn.qkv.bias"] + torch.cat([zeros, bias / RANK, zeros]))


def dora(weight: Tensor, delta: Tensor, norms: Tensor, by_row: bool) -> Tensor:
    """Equation 5 of the paper, row by row or column by column."""
    adapted = (weight + delta).flatten(1) if by_row else (weight + delta).transpose(0, 1).flatten(1)
    result = torch.stack([m * v / v.norm() for m, v in zip(norms.flatten(), adapted, strict=True)])
    if by_row:
        return result.reshape(weight.shape)
    return result.reshape(weight.transpose(0, 1).shape).transpose(0, 1)


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_dora(by_row: bool, scale: float) -> None:
    up, down = pair()
    norms = torch.rand(OUT, 1) if by_row else torch.rand(1, IN)
    tensors = {**kohya("lora_unet_attn_to_q", up, down, 1.0), "lora_unet_attn_to_q.dora_scale": norms}
    weight = BASE["attn.to_q.weight"]
    expected = weight + scale * (dora(weight, up @ down / RANK, norms, by_row) - weight)
    assert close(merged(tensors, "attn.to_q.weight", scale), expected)


@pytest.mark.parametrize("by_row", [True, False])
def test_dora_of_a_convolution(by_row: bool) -> None:
    up, down = torch.randn(OUT, RANK, 1, 1), torch.randn(RANK, IN, 3, 3)
    norms = torch.rand(OUT, 1, 1, 1) if by_row else torch.rand(1, IN, 1, 1)
    tensors = {**kohya("lora_unet_conv", up, down), "lora_unet_conv.dora_scale": norms}
    delta = (up.flatten(1) @ down.flatten(1)).reshape(OUT, IN, 3, 3)
    assert close(merged(tensors, "conv.weight"), dora(BASE["conv.weight"], delta, norms, by_row))


@pytest.mark.parametrize("ending", ["lora_magnitude_vector", "lora_magnitude_vector.weight"])
def test_dora_of_peft_on_a_part_of_a_fused_weight(ending: str) -> None:
    up, down = pair()
    norms = torch.rand(OUT)
    module = "unet.attn2.to_v"
    tensors = {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up, f"{module}.{ending}": norms}
    q, k, v = BASE["attn.qkv.weight"].chunk(3)
    assert close(merged(tensors, "attn.qkv.weight"), torch.cat([q, k, dora(v, up @ down, norms, True)]))


def test_dora_on_parts_of_a_fused_module() -> None:
    up, down = pair(2 * OUT)
    base = InMemory({"k.weight": torch.randn(OUT, IN), "v.weight": torch.randn(OUT, IN)})
    targets = [Target("k.weight", ("kv",), part=slice(0, OUT)), Target("v.weight", ("kv",), part=slice(OUT, None))]
    norms = torch.rand(2 * OUT, 1)
    view = with_lora(base, [lora({**kohya("kv", up, down), "kv.dora_scale": norms})], targets)
    expected = dora(torch.cat([base["k.weight"], base["v.weight"]]), up @ down, norms, True)
    assert close(torch.cat([view["k.weight"], view["v.weight"]]), expected)
    columns = with_lora(base, [lora({**kohya("kv", up, down), "kv.dora_scale": torch.rand(1, IN)})], targets)
    with pytest.raises(MaquetteError, match="norms of columns"):
        columns["k.weight"]


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"unet.lora_alpha": 6}, 6 / RANK),
        ({"unet.lora_alpha": 6, "unet.use_rslora": True}, 6 / RANK**0.5),
        ({"unet.lora_alpha": 6, "unet.alpha_pattern": {"attn.to_q": 9, "other": 1}}, 9 / RANK),
        ({"unet.lora_alpha": 6, "unet.alpha_pattern": {"to_q": 9, "^unet.attn.to_q": 12}}, 12 / RANK),
        ({"text_encoder.lora_alpha": 6}, 1.0),
        ({}, 1.0),
    ],
)
def test_alphas_in_the_metadata(settings: dict[str, object], scale: float) -> None:
    up, down = pair()
    tensors = {"unet.attn.to_q.lora_A.weight": down, "unet.attn.to_q.lora_B.weight": up}
    adapters = lora(tensors, metadata={"lora_adapter_metadata": json.dumps(settings)})
    found = with_lora(BASE, [adapters], TARGETS)["attn.to_q.weight"]
    assert close(found, BASE["attn.to_q.weight"] + scale * up @ down)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"r": RANK, "lora_alpha": 6}, 6 / RANK),
        ({"r": 8, "rank_pattern": {"attn.to_q": RANK}, "lora_alpha": 6, "use_rslora": True}, 6 / RANK**0.5),
        ({"r": RANK, "lora_alpha": 6, "alpha_pattern": {"attn.to_q": 9, "other": 1}}, 9 / RANK),
    ],
)
def test_alphas_in_a_folder_of_peft(settings: dict[str, object], scale: float, tmp_path: Path) -> None:
    up, down = pair()
    root = "base_model.model.attn.to_q"
    write_safetensors(
        tmp_path / "adapter_model.safetensors", {f"{root}.lora_A.weight": down, f"{root}.lora_B.weight": up}
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        found = with_lora(BASE, [read_lora(open_weights(path))], TARGETS)["attn.to_q.weight"]
        assert close(found, BASE["attn.to_q.weight"] + scale * up @ down)


def test_text_encoders_are_merged_in_one_union_with_the_network() -> None:
    up, down = pair()
    text = InMemory({"layers.0.fc1.weight": torch.randn(OUT, IN)})
    targets = (
        Target("unet.attn.to_q.weight", ("lora_unet_attn_to_q",)),
        Target("text.layers.0.fc1.weight", ("lora_te_layers_0_fc1",)),
    )
    tensors = {**kohya("lora_unet_attn_to_q", up, down), **kohya("lora_te_layers_0_fc1", up, down, 1.0)}
    view = with_lora(union([prefixed(BASE, "unet."), prefixed(text, "text.")]), [lora(tensors)], targets)
    assert view.reports[0].unmatched == ()
    name = "layers.0.fc1.weight"
    assert close(select(view, "text.")[name], text[name] + up @ down / RANK)
