"""LoRAs and learned words in whole models, against weights merged by hand."""

from pathlib import Path

import pytest
import torch
from small_models import LARGE, SMALL, clip_tokenizer, write_original
from torch import Tensor

import maquette
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.weights.safetensors_file import write_safetensors

TO_Q = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TO_V = "down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_v"
FF = "mid_block_attentions_0_transformer_blocks_0_ff_net_2"
TE = "text_model_encoder_layers_1_self_attn_k_proj"


def noise(*shape: int, seed: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(out: int, into: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    return noise(rank, into, seed=seed), noise(out, rank, seed=seed + 1)


def kohya(modules: dict[str, tuple[int, int, int, float | None]]) -> dict[str, Tensor]:
    """A kohya file: for each module its outputs, inputs, rank and alpha."""
    tensors = {}
    for seed, (name, (out, into, rank, alpha)) in enumerate(modules.items()):
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = pair(out, into, rank, 10 * seed)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def delta(tensors: dict[str, Tensor], name: str) -> Tensor:
    """alpha / rank * up @ down; without alpha, 1."""
    down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
    return float(tensors.get(f"{name}.alpha", torch.tensor(len(down)))) / len(down) * up @ down


def weights(model: Model) -> dict[str, Tensor]:
    parts = {"unet": model.network, "text": model.encoders[0].tower}
    return {f"{part}.{name}": t.clone() for part, net in parts.items() for name, t in net.state_dict().items()}


def test_every_module_of_a_kohya_file_keeps_its_own_alpha(tmp_path: Path) -> None:
    tensors = kohya(
        {
            f"lora_unet_{TO_Q}": (32, 32, 4, 1.0),
            f"lora_unet_{TO_V}": (32, 32, 2, 8.0),
            f"lora_unet_{FF}": (64, 256, 4, None),
            f"lora_te_{TE}": (64, 64, 4, 3.0),
        }
    )
    write_safetensors(tmp_path / "lora.safetensors", tensors)
    model = maquette.open(write_original("sd1", tmp_path), device="cpu")
    expected, before = weights(model), weights(model)
    qkv = "unet.down.{}.transformer.blocks.0.attn1.qkv.weight"
    expected[qkv.format(0)][:32] += 0.5 * delta(tensors, f"lora_unet_{TO_Q}")
    expected[qkv.format(1)][64:] += 0.5 * delta(tensors, f"lora_unet_{TO_V}")
    expected["unet.middle.0.transformer.blocks.0.ff.down.weight"] += 0.5 * delta(tensors, f"lora_unet_{FF}")
    expected["text.layers.1.attention.qkv.weight"][64:128] += 0.5 * delta(tensors, f"lora_te_{TE}")
    (report,) = model.set_loras([(tmp_path / "lora.safetensors", 0.5)])
    assert (len(report.matched), report.unmatched) == (len(tensors), ())
    found = weights(model)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-6), name
    model.set_loras([])
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())


def test_a_lora_of_another_family_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "lora.safetensors", kohya({"lora_unet_double_blocks_0_img_attn_qkv": (9, 9, 1, 1.0)}))
    path = write_original("sd1", tmp_path)
    with pytest.raises(MaquetteError, match="none of its 1 modules is in this model"):
        maquette.open(path, loras=[(tmp_path / "lora.safetensors", 1.0)])


@pytest.mark.parametrize("spelling", ["lora_unet_final_layer_adaLN_modulation_1", "transformer.norm_out.linear"])
def test_the_final_layer_of_flux_is_adapted_with_its_halves_in_place(spelling: str, tmp_path: Path) -> None:
    """Diffusers stores scale before shift, the original layout and we shift before scale."""
    down, up = pair(256, 128, 4, 1)
    if spelling.startswith("lora"):
        tensors = {f"{spelling}.lora_down.weight": down, f"{spelling}.lora_up.weight": up}
        tensors[f"{spelling}.alpha"] = torch.tensor(2.0)
        added = 0.5 * up @ down
    else:
        tensors = {f"{spelling}.lora_A.weight": down, f"{spelling}.lora_B.weight": up}
        added = (up @ down).roll(128, dims=0)
    write_safetensors(tmp_path / "lora.safetensors", tensors)
    path = write_original("flux-dev", tmp_path)
    plain = maquette.open(path, device="cpu").network.final.modulation.linear.weight
    model = maquette.open(path, loras=[(tmp_path / "lora.safetensors", 1.0)], device="cpu")
    assert torch.allclose(model.network.final.modulation.linear.weight, plain + added, atol=1e-6)


def test_sdxl_is_adapted_in_stabilitys_names_and_both_of_its_towers_in_transformers(tmp_path: Path) -> None:
    tensors = kohya(
        {
            "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k": (64, 192, 2, 1.0),
            "lora_te1_text_model_encoder_layers_0_mlp_fc1": (128, 64, 2, 1.0),
            "lora_te2_text_model_encoder_layers_2_self_attn_v_proj": (128, 128, 2, 1.0),
        }
    )
    write_safetensors(tmp_path / "lora.safetensors", tensors)
    model = maquette.open(write_original("sdxl", tmp_path), device="cpu")
    first, second = (encoder.tower for encoder in model.encoders)
    places = (
        (model.network.down[3].transformer.blocks[1].attn2.kv, slice(0, 64)),
        (first.layers[0].mlp.up, slice(None)),
        (second.layers[2].attention.qkv, slice(256, 384)),
    )
    before = [layer.weight.clone() for layer, _ in places]
    model.set_loras([(tmp_path / "lora.safetensors", 1.0)])
    names = dict.fromkeys(key.split(".")[0] for key in tensors)
    for (layer, rows), old, name in zip(places, before, names, strict=True):
        old[rows] += delta(tensors, name)
        assert torch.allclose(layer.weight, old, atol=1e-6), name


def test_learned_words_reach_the_towers_that_their_file_names(tmp_path: Path) -> None:
    vectors = {"clip_l": noise(2, 64, seed=1), "clip_g": noise(2, LARGE.width, seed=2)}
    write_safetensors(tmp_path / "style.safetensors", vectors)
    path = write_original("sdxl", tmp_path)
    model = maquette.open(path, device="cpu", embeddings={"mystyle": tmp_path / "style.safetensors"})
    known = len(clip_tokenizer())
    for encoder, name in zip(model.encoders, vectors, strict=True):
        (chunk,) = encoder.chunks("a mystyle tree")
        assert [known, known + 1] == [index for index in chunk.ids if index >= known]
        assert torch.equal(encoder.tower.token_embedding.weight[known:], vectors[name])
    with_word = model.condition(["a mystyle tree"])
    model.set_embeddings({})
    without = model.condition(["a mystyle tree"])
    assert all(len(encoder.tower.token_embedding.weight) == known for encoder in model.encoders)
    assert not torch.allclose(with_word.tokens, without.tokens)
    assert with_word.vector.shape == without.vector.shape == (1, SMALL["sdxl"].parts["denoiser"][1].vector)
