"""Models from files, folders and the hub's cache, with parts given beside them; conversion there and back."""

import json
import socket
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from against_diffusers import CASES, QUANTISED, give, shard
from safetensors import safe_open
from small_models import (
    SMALL,
    named,
    original,
    write_clip_tokenizer,
    write_original,
    write_t5_tokenizer,
    write_tokenizers,
)

import maquette
from maquette.cli.main import run
from maquette.engine.convert import convert
from maquette.engine.hub import wanted_files
from maquette.engine.model import Model
from maquette.engine.recognise import recognise
from maquette.errors import MaquetteError
from maquette.weights.safetensors_file import write_safetensors


def states(model: Model) -> dict[str, torch.Tensor]:
    networks = {"denoiser": model.network, "vae": model.first_stage.vae}
    networks |= {str(index): encoder.tower for index, encoder in enumerate(model.encoders) if encoder is not None}
    return {f"{part}.{name}": t for part, network in networks.items() for name, t in network.state_dict().items()}


def assert_same(ours: Model, theirs: Model) -> None:
    one, other = states(ours), states(theirs)
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert ours.family.name == theirs.family.name
    assert (ours.process, ours.prediction) == (theirs.process, theirs.prediction)
    assert ours.family.latent == theirs.family.latent
    assert ours.family.zero_empty_negative == theirs.family.zero_empty_negative
    assert ours.family.shift_by_size == theirs.family.shift_by_size
    prompt = ["a red apple"] if ours.encoders else ["7"]
    one_told, other_told = ours.condition(prompt), theirs.condition(prompt)
    for left, right in ((one_told.tokens, other_told.tokens), (one_told.vector, other_told.vector)):
        assert left is right is None or torch.allclose(left, right, atol=1e-5)


ROUND = ("sd1-inpaint", "sdxl", "sdxl-refiner", "sd3.5-large", "flux-schnell", "dit")


@pytest.mark.parametrize("family", ROUND)
def test_a_file_becomes_a_folder_and_a_file_again(family: str, tmp_path: Path) -> None:
    path = write_original(family, tmp_path)
    model = maquette.open(path, device="cpu")
    convert(model.recognition, tmp_path / "folder", "diffusers", None, [])
    folder = maquette.open(tmp_path / "folder", device="cpu", dtype="float32")
    if not family.startswith("sd3"):  # the folder's first tower has the projection that changes nothing
        assert_same(model, folder)
    back = tmp_path / "back.safetensors"
    convert(recognise(tmp_path / "folder"), back, "original", None, [])
    write_tokenizers(family, tmp_path)
    assert_same(model, maquette.open(back, device="cpu"))
    with safe_open(path, "pt") as first, safe_open(back, "pt") as second:
        assert set(first.keys()) == set(second.keys())


def test_sd2_loses_only_the_layer_that_nobody_reads(tmp_path: Path) -> None:
    model = maquette.open(write_original("sd2-v", tmp_path), device="cpu", prediction="v")
    convert(model.recognition, tmp_path / "folder", "diffusers", None, [])
    with pytest.warns(UserWarning, match="nothing tells its prediction; v is assumed"):
        maquette.open(tmp_path / "sd2-v.safetensors", device="cpu")
    folder = maquette.open(tmp_path / "folder", device="cpu")
    assert len(folder.encoders[0].tower.layers) == len(model.encoders[0].tower.layers) - 1
    convert(folder.recognition, tmp_path / "back.safetensors", "original", None, [])
    back = maquette.open(tmp_path / "back.safetensors", device="cpu")
    for other in (folder, back):
        assert torch.allclose(other.condition(["a tree"]).tokens, model.condition(["a tree"]).tokens, atol=1e-5)
        assert other.prediction is model.prediction


def test_convert_in_half_precision_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write_original("sd1", tmp_path), tmp_path / "half.safetensors"
    assert run(["convert", str(path), str(out), "--layout", "original", "--dtype", "float16"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert run(["inspect", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["family"], set(report["parts"]["vae"]["precision"])) == ("sd1", {"float16"})
    assert run(["convert", str(path), str(out), "--layout", "original"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_inspect_says_what_a_file_is_and_what_a_lora_would_change(tmp_path: Path, capsys) -> None:
    path = write_original("sd1", tmp_path)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{name}.lora_down.weight": torch.zeros(4, 32), f"{name}.lora_up.weight": torch.zeros(32, 4)}
    write_safetensors(tmp_path / "lora.safetensors", tensors, {"ss_output_name": "mine"})
    assert run(["inspect", str(path), "--lora", str(tmp_path / "lora.safetensors")]) == 0
    said = capsys.readouterr().out
    for words in (
        "custom sd1",
        "U-Net, original layout",
        "epsilon (from: the default of sd1)",
        "2 keys matched, 0 not",
    ):
        assert words in said
    assert run(["inspect", str(tmp_path / "lora.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "LoRA" in said
    assert "mine" in said


def test_parts_given_beside_a_model_stand_in_for_its_own(tmp_path: Path) -> None:
    whole = maquette.open(write_original("flux-dev", tmp_path), device="cpu")
    alone, parts = tmp_path / "alone", SMALL["flux-dev"].parts
    alone.mkdir()
    files = {}
    for seed, (name, (kind, spec, _, layout)) in enumerate(parts.items()):
        files[name] = alone / f"{name}.safetensors"
        write_safetensors(files[name], named(kind, spec, layout, seed))
    words = (write_clip_tokenizer(tmp_path / "words"), write_t5_tokenizer(tmp_path / "pieces") / "tokenizer.json")
    model = maquette.open(
        files["denoiser"],
        vae=files["vae"],
        text=[files["text_encoder_2"], files["text_encoder"]],
        tokenizer=words,
        device="cpu",
    )
    assert_same(whole, model)


def test_a_file_without_a_tokenizer_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    path = write_original("sd1", tmp_path, tokenizers=False)
    wanted = "carries no tokenizer for its text_encoder: vocab.json and merges.txt.*hf download openai/clip-vit-large"
    with pytest.raises(MaquetteError, match=wanted):
        maquette.open(path, device="cpu")


def test_tokenizers_are_found_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "cache/models--openai--clip-vit-large-patch14"
    write_clip_tokenizer(place / "snapshots/abc")
    (place / "refs").mkdir()
    (place / "refs/main").write_text("abc")
    (tmp_path / "alone").mkdir()
    model = maquette.open(write_original("sd1", tmp_path / "alone", tokenizers=False), device="cpu")
    assert model.condition(["a tree"]).tokens.shape == (1, 20, 64)


def test_a_tokenizer_json_alone_is_the_same_tokenizer(tmp_path: Path) -> None:
    folder = write_clip_tokenizer(tmp_path / "two")
    vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
    lines = (folder / "merges.txt").read_text("utf-8").split("\n")[1:-1]
    for merges in (lines, [line.split(" ") for line in lines]):
        model = {"type": "BPE", "vocab": vocabulary, "merges": merges, "end_of_word_suffix": "</w>"}
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
        first, second = (
            maquette.open(write_original("sd1", tmp_path, tokenizers=False), device="cpu", tokenizer=place).encoders[0]
            for place in (folder, tmp_path / "tokenizer.json")
        )
        assert first.chunks("a red apple") == second.chunks("a red apple")


def test_a_model_of_the_hub_is_opened_from_the_cache_when_offline(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    path = write_original("sd1", tmp_path)
    place = tmp_path / "cache/models--somebody--model"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("abc")
    (place / "snapshots").mkdir()
    convert(recognise(path), place / "snapshots/abc", "diffusers", None, [])
    assert maquette.open("somebody/model", device="cpu").family.name == "sd1"
    with pytest.raises(MaquetteError, match="nobody/nothing: "):
        maquette.open("nobody/nothing")


def test_a_path_never_touches_the_network(tmp_path: Path, monkeypatch) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", connect)
    maquette.open(write_original("sd1", tmp_path), device="cpu")
    (tmp_path / "alone").mkdir()
    for missing in (
        write_original("sd1", tmp_path / "alone", tokenizers=False),
        "no such model",
        "alone/sd9.ckpt",
        tmp_path / "none/at",
    ):
        with pytest.raises(MaquetteError):
            maquette.open(missing)


def test_of_a_repository_one_format_and_one_variant_is_fetched() -> None:
    small = ["model_index.json", "unet/config.json", "tokenizer/vocab.json", "scheduler/scheduler_config.json"]
    stem = "unet/diffusion_pytorch_model"
    plain = [f"{stem}-00001-of-00002.safetensors", f"{stem}-00002-of-00002.safetensors"]
    plain.append(f"{stem}.safetensors.index.json")
    half = [f"{stem}.fp16.safetensors"]
    others = ["README.md", "v1.ckpt", "v1.safetensors", f"{stem}.bin", "unet/model.onnx", "vae/model.msgpack"]
    everything = [*small, *plain, *half, *others]
    assert sorted(wanted_files(everything)) == sorted([*small, *plain])
    assert sorted(wanted_files(everything, "fp16")) == sorted([*small, *half])
    with pytest.raises(MaquetteError, match="org/model/FILE, such as v1.ckpt"):
        wanted_files(others)


def test_shards_and_variants_of_a_folder_open(tmp_path: Path) -> None:
    path = write_original("sd1", tmp_path)
    model = maquette.open(path, device="cpu")
    folder = tmp_path / "folder"
    convert(model.recognition, folder, "diffusers", None, [])
    shapes = {name: tensor.shape for name, tensor in shard(folder / "unet").items()}
    assert_same(model, maquette.open(folder, device="cpu"))
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}
    write_safetensors(folder / "unet/diffusion_pytorch_model.fp16.safetensors", zeros)
    assert not any(tensor.any() for tensor in maquette.open(folder, device="cpu", variant="fp16").network.parameters())


def test_the_moving_average_of_a_training_checkpoint(tmp_path: Path) -> None:
    view = original(SMALL["sd1"])
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): view[name] + 1.0
        for name in view
        if name.startswith("model.")
    }
    path = tmp_path / "trained.safetensors"
    write_safetensors(path, {**view, **averages, "model_ema.decay": torch.tensor(0.999)})
    write_tokenizers("sd1", tmp_path)
    plain, averaged = (maquette.open(path, device="cpu", averaged=each) for each in (False, True))
    for name, tensor in plain.network.state_dict().items():
        assert torch.equal(averaged.network.state_dict()[name], tensor + 1.0)
    assert torch.equal(plain.first_stage.vae.post_quant_conv.weight, averaged.first_stage.vae.post_quant_conv.weight)


def test_a_training_checkpoint_of_torch_opens(tmp_path: Path) -> None:
    path = write_original("sd1", tmp_path)
    model, view = maquette.open(path, device="cpu"), original(SMALL["sd1"])
    state = {**view, "alphas_cumprod": torch.zeros(1000), "model_ema.decay": torch.tensor(0.9)}
    torch.save({"state_dict": state, "global_step": 7}, tmp_path / "model.ckpt")
    assert_same(model, maquette.open(tmp_path / "model.ckpt", device="cpu"))


def test_weights_in_eight_bits_are_multiplied_out(tmp_path: Path) -> None:
    view, scaled = original(SMALL["sd1"]), {}
    for name, tensor in view.items():
        scaled[name] = tensor
        if name.endswith("attn2.to_q.weight"):
            scaled[name] = (tensor / 0.5).to(torch.float8_e4m3fn)
            scaled[name.replace("weight", "scale_weight")] = torch.tensor(0.5)
    write_tokenizers("sd1", tmp_path)
    write_safetensors(tmp_path / "eight.safetensors", scaled)
    weights = maquette.open(tmp_path / "eight.safetensors", device="cpu").network.down[0].transformer.blocks[0].attn2.q
    wanted = view["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight"]
    assert torch.allclose(weights.weight, wanted, rtol=0.07, atol=0.01)


def test_a_variant_that_no_part_has_is_an_error(tmp_path: Path) -> None:
    convert(recognise(write_original("dit", tmp_path)), tmp_path / "folder", "diffusers", None, [])
    with pytest.raises(MaquetteError, match="no part of it has the variant 'fp8'"):
        maquette.open(tmp_path / "folder", variant="fp8")


@pytest.mark.parametrize("layout", QUANTISED)
@pytest.mark.parametrize("name", ["SD 1", "FLUX.1 dev"])
def test_a_quantised_denoiser_is_the_one_of_the_numbers_that_the_reference_reads(
    name: str, layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = give(CASES[name], layout, tmp_path)
    assert_same(given.open(), maquette.open(given.file, device="cpu"))
    assert run(["inspect", str(given.path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    precision = report["parts"]["denoiser"]["precision"]
    assert {layout.removeprefix("GGUF "), "float32"} <= set(precision)
    assert report["family"] == CASES[name].family
