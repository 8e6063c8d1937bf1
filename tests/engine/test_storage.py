"""Models whose large matrices are kept in 8 bits, compared with the same models in bfloat16."""

from pathlib import Path

import pytest
import torch
from small_models import write_original
from torch import Tensor

import maquette
from maquette.diffusion.conditioning import Conditioning
from maquette.engine.storage import CODES, STORAGES, store
from maquette.errors import MaquetteError
from maquette.nn.quantised import FLOAT8, widen
from maquette.weights.open_file import open_weights
from maquette.weights.safetensors_file import write_safetensors

FAMILIES = ("sd1", "sdxl", "sd3", "flux-dev")
SIZE = {"width": 64, "height": 64, "steps": 2, "seed": 1}


def pixels(model) -> bytes:
    return model.txt2img("a red apple", **SIZE).images[0].tobytes()


def told(model) -> Conditioning:
    return model.condition(["a red apple"])


def answer(model, said: Conditioning) -> Tensor:
    x = torch.randn(1, *model.latent_shape(64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.network(x, torch.full((1,), 0.5 * model.process.start), said).float()


def opened(path: Path, **options):
    return maquette.open(path, device="cpu", dtype="bfloat16", **options)


@pytest.mark.parametrize(("storage", "bound"), [("float8", 0.15), ("int8", 0.08)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_hardly_changes(family: str, storage: str, bound: float, tmp_path: Path) -> None:
    path = write_original(family, tmp_path)
    plain, small = opened(path), opened(path, storage=storage)
    said = told(plain)
    expected = answer(plain, said)
    error = float((answer(small, said) - expected).norm() / expected.norm())
    assert 1e-4 < error < bound


@pytest.mark.parametrize("storage", STORAGES)
def test_large_matrices_take_a_byte_each(storage: str, tmp_path: Path) -> None:
    model = opened(write_original("sd3", tmp_path), storage=storage)
    state = model.network.state_dict()
    codes = [name for name in state if name.endswith(CODES)]
    assert {state[name].dtype for name in codes} == {STORAGES[storage]}
    rest = {name: tensor for name, tensor in state.items() if name not in codes}
    assert {tensor.dtype for tensor in rest.values()} == {torch.bfloat16}
    inside = [name for name, tensor in rest.items() if tensor.ndim > 1 and "blocks" in name]
    assert inside == [] and codes
    t5 = next(each.tower for each in model.encoders if type(each.tower).__name__ == "T5")
    assert any(name.endswith(CODES) for name in t5.state_dict())
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("storage", STORAGES)
def test_streamed_models_paint_the_same_picture(storage: str, tmp_path: Path) -> None:
    path = write_original("sd1", tmp_path)
    model = opened(path, storage=storage)
    whole = pixels(model)
    assert pixels(opened(path, storage=storage, stream=True)) == whole
    with pytest.warns(UserWarning, match="a test"):
        model.stream("denoiser", why="a test")
    assert pixels(model) == whole


def test_loras_are_merged_before_weights_are_rounded(tmp_path: Path) -> None:
    path, lora = write_original("sd1", tmp_path), tmp_path / "lora.safetensors"
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    generator = torch.Generator().manual_seed(0)
    rows = {"lora_up.weight": (32, 4), "lora_down.weight": (4, 32)}
    write_safetensors(lora, {f"{name}.{k}": torch.randn(*shape, generator=generator) for k, shape in rows.items()})
    model = opened(path, storage="float8")
    plain = pixels(model)
    model.set_loras([(lora, 1.0)])
    merged = pixels(model)
    assert merged != plain
    assert merged == pixels(opened(path, storage="float8", loras=[(lora, 1.0)]))
    assert merged == pixels(opened(path, storage="float8", stream=True, loras=[(lora, 1.0)]))
    model.set_loras([])
    assert pixels(model) == plain


def test_what_is_float8_in_its_file_stays_mapped(tmp_path: Path) -> None:
    weights = open_weights(write_original("flux-dev", tmp_path))
    path = tmp_path / "float8.safetensors"
    write_safetensors(path, {k: w.to(FLOAT8) if w.ndim > 1 else w.clone() for k, w in weights.items()})
    model = opened(path, storage="float8")
    layer = model.network.single_blocks[0].up
    mapped = model._origins["denoiser"].weights["single_blocks.0.up.weight"]
    assert layer.codes.data_ptr() == mapped.data_ptr()
    assert torch.equal(widen(layer.codes, layer.scale), opened(path).network.single_blocks[0].up.weight)


def test_layers_outside_of_blocks_stay(tmp_path: Path) -> None:
    part = opened(write_original("sd1", tmp_path)).recognition.parts["denoiser"]
    network = part.network()
    layers = store(network, FLOAT8).layers
    assert {name.split(".")[0] for name in layers} == {"down", "middle", "up"}
    assert {name.split(".")[0] for name in network.state_dict()} > {"time_embed", "conv_in", "conv_out"}


def test_unknown_storages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match="unknown storage 'int4'; use float8, int8"):
        opened(write_original("sd1", tmp_path), storage="int4")


@pytest.mark.parametrize("storage", STORAGES)
def test_weights_widen_to_double_precision(storage: str, tmp_path: Path) -> None:
    path = write_original("sd1", tmp_path)
    single, double = (maquette.open(path, device="cpu", dtype=f"float{bits}", storage=storage) for bits in (32, 64))
    said = told(single)
    expected = answer(single, said)
    assert float((answer(double, said.to(dtype=torch.float64)) - expected).norm() / expected.norm()) < 3e-2
