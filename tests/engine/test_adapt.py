"""LoRAs and learned words in whole models, against weights merged by hand."""

import weakref
from pathlib import Path

import pytest
import torch
from small_models import LARGE, SMALL, clip_tokenizer, write_original
from torch import Tensor

import maquette
from maquette.engine import adapt
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
    with pytest.warns(UserWarning, match="a test; .*: text_encoder, text_encoder_2"):
        model.stream("text_encoder", "text_encoder_2", why="a test")
    assert torch.equal(model.condition(["a mystyle tree"]).tokens, with_word.tokens), "it forgets no words"
    model.set_embeddings({})
    without = model.condition(["a mystyle tree"])
    assert all(len(encoder.tower.token_embedding.weight) == known for encoder in model.encoders)
    assert not torch.allclose(with_word.tokens, without.tokens)
    assert with_word.vector.shape == without.vector.shape == (1, SMALL["sdxl"].parts["denoiser"][1].vector)


def painted(model: Model) -> bytes:
    return model.txt2img("a red apple", width=64, height=64, steps=2, seed=1).images[0].tobytes()


def test_a_lora_that_fails_while_it_is_merged_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    tensors = kohya({f"lora_te_{TE}": (64, 64, 4, 3.0), f"lora_unet_{TO_Q}": (32, 32, 4, 1.0)})
    write_safetensors(tmp_path / "good.safetensors", tensors)
    tensors[f"lora_unet_{TO_Q}.lora_up.weight"][0, 0] = torch.nan
    write_safetensors(tmp_path / "bad.safetensors", tensors)
    path = write_original("sd1", tmp_path)
    model = maquette.open(path, device="cpu", loras=[(tmp_path / "good.safetensors", 0.5)])
    before, picture = weights(model), painted(model)
    with pytest.raises(MaquetteError, match="infinities or no numbers"):
        model.set_loras([(tmp_path / "bad.safetensors", 1.0)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
    assert painted(model) == picture


def test_a_lora_is_merged_without_keeping_the_old_weights(tmp_path: Path, monkeypatch) -> None:
    write_safetensors(
        tmp_path / "lora.safetensors",
        kohya({f"lora_unet_{TO_Q}": (32, 32, 4, 1.0), f"lora_unet_{TO_V}": (32, 32, 2, 8.0)}),
    )
    model = maquette.open(write_original("sd1", tmp_path), device="cpu")
    old = [weakref.ref(stage.transformer.blocks[0].attn1.qkv.weight) for stage in model.network.down[:2]]
    like, alive = adapt._like, []

    def watched(*args, **more) -> Tensor:
        alive.append(sum(each() is not None for each in old))
        return like(*args, **more)

    monkeypatch.setattr(adapt, "_like", watched)
    model.set_loras([(tmp_path / "lora.safetensors", 1.0)])
    assert alive == [2, 1]


def test_learned_words_that_fail_leave_those_that_were_known(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"clip_l": noise(1, 64, seed=1), "clip_g": noise(1, 128, seed=2)})
    file = tmp_path / "a.safetensors"
    model = maquette.open(write_original("sdxl", tmp_path), device="cpu", embeddings={"style": file})
    before = model.condition(["a style tree, other grass"]).tokens
    with pytest.raises(MaquetteError, match="' ' of an embedding is empty"):
        model.set_embeddings({"other": file, " ": file})
    assert torch.equal(model.condition(["a style tree, other grass"]).tokens, before)
    with pytest.raises(MaquetteError, match="'Style' and 'style' of two embeddings are the same"):
        model.set_embeddings({"Style": file, "style": file})


SPELT = {  # family: module, and where it is
    "sdxl-refiner": ("lora_te_text_model_encoder_layers_1_mlp_fc1", "text_encoder_2", "layers.1.mlp.up"),
    "sdxl": (
        "text_encoders.clip_g.transformer.text_model.encoder.layers.1.mlp.fc1",
        "text_encoder_2",
        "layers.1.mlp.up",
    ),
    "sd3": (
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc2",
        "text_encoder",
        "layers.0.mlp.down",
    ),
    "sd3.5-large": (
        "text_encoders.t5xxl.transformer.encoder.block.1.layer.0.SelfAttention.o",
        "text_encoder_3",
        "layers.1.attention.out",
    ),
    "sd1": (
        "diffusion_model.middle_block.1.transformer_blocks.0.ff.net.2",
        "denoiser",
        "middle.0.transformer.blocks.0.ff.down",
    ),
    "sd2-v": (
        "lycoris_mid_block_attentions_0_transformer_blocks_0_ff_net_2",
        "denoiser",
        "middle.0.transformer.blocks.0.ff.down",
    ),
    "flux-dev": ("lycoris_transformer_blocks_0_ff_net_2", "denoiser", "double_blocks.0.image.mlp.down"),
}


@pytest.mark.parametrize("family", SPELT)
def test_modules_in_the_spellings_of_more_programs(family: str, tmp_path: Path) -> None:
    module, part, place = SPELT[family]
    prediction = "v" if family == "sd2-v" else None
    model = maquette.open(write_original(family, tmp_path), device="cpu", prediction=prediction)
    weight = model._origins[part].network.get_submodule(place).weight.clone()
    tensors = kohya({module: (*weight.shape, 2, 1.0)})
    write_safetensors(tmp_path / "lora.safetensors", tensors)
    (report,) = model.set_loras([(tmp_path / "lora.safetensors", 1.0)])
    assert report.unmatched == ()
    found = model._origins[part].network.get_submodule(place).weight
    assert torch.allclose(found, weight + delta(tensors, module), atol=1e-6)


def test_flux_in_the_spelling_of_xlabs(tmp_path: Path) -> None:
    """1 is the picture's stream, 2 the text's; of a single block q, k and v are the first rows of one layer."""
    modules = {
        "double_blocks.1.processor.qkv_lora2": (384, 128),
        "double_blocks.0.processor.proj_lora1": (128, 128),
        "single_blocks.0.processor.qkv_lora": (384, 128),
        "single_blocks.0.processor.proj_lora": (128, 640),
    }
    pairs = {name: pair(*shape, 2, seed) for seed, (name, shape) in enumerate(modules.items())}
    tensors = {f"{name}.down.weight": down for name, (down, _) in pairs.items()}
    write_safetensors(
        tmp_path / "x.safetensors", tensors | {f"{name}.up.weight": up for name, (_, up) in pairs.items()}
    )
    network = (model := maquette.open(write_original("flux-dev", tmp_path), device="cpu")).network
    layers = (
        network.double_blocks[1].text.qkv.linear,
        network.double_blocks[0].image.out,
        network.single_blocks[0].up,
        network.single_blocks[0].down,
    )
    before = [layer.weight.clone() for layer in layers]
    (report,) = model.set_loras([(tmp_path / "x.safetensors", 1.0)])
    assert report.unmatched == ()
    for layer, old, (down, up) in zip(layers, before, pairs.values(), strict=True):
        old[: len(up)] += up @ down
        assert torch.allclose(layer.weight, old, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "module", "kernel", "place"),
    [
        ("flux-fill", "transformer.x_embedder", (), "patch_embed"),
        ("sd1-inpaint", "lora_unet_conv_in", (3, 3), "conv_in"),
    ],
)
def test_what_is_read_beside_the_latent_is_not_changed(
    family: str, module: str, kernel: tuple[int, ...], place: str, tmp_path: Path
) -> None:
    model = maquette.open(write_original(family, tmp_path), device="cpu")
    weight, own = model.network.get_submodule(place).weight.clone(), 4 if kernel else 64
    down, up = noise(2, own, *kernel, seed=1), noise(len(weight), 2, *[1] * len(kernel), seed=2)
    tensors = {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up}
    write_safetensors(tmp_path / "lora.safetensors", tensors)
    model.set_loras([(tmp_path / "lora.safetensors", 1.0)])
    weight[:, :own] += (up.flatten(1) @ down.flatten(1)).reshape(weight[:, :own].shape)
    assert torch.allclose(model.network.get_submodule(place).weight, weight, atol=1e-6)
