"""Weights read as they are used, compared with the same model in memory."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import write_original

import maquette
from maquette.cli import doctor
from maquette.engine import adapt, fit, open
from maquette.engine.build import fill
from maquette.engine.fit import numbers, parts_to_stream, size
from maquette.engine.memory import WORKING_MEMORY, Place, free_memory, or_else
from maquette.engine.storage import STORAGES
from maquette.errors import MaquetteError
from maquette.models.unet import UNet
from maquette.weights.safetensors_file import write_safetensors
from maquette.workflows import loop

FAMILIES = ("sd1", "sdxl", "sd3", "flux-dev", "ldm-text", "dit")
SIZE = {"width": 64, "height": 64, "steps": 2, "seed": 1}


def pixels(model, **fields) -> bytes:
    prompt = "3" if model.family.name.startswith("dit") else "a red apple"
    return model.txt2img(prompt, **SIZE, **fields).images[0].tobytes()


def in_memory(model) -> int:
    """The numbers of the model that are not left in its file."""
    networks = [model.network, model.first_stage.vae, *(each.tower for each in model.encoders if each)]
    return sum(p.numel() for network in networks for p in network.parameters() if not p.is_meta)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_streamed_model_paints_the_same_picture(family: str, tmp_path: Path) -> None:
    path = write_original(family, tmp_path)
    whole, streamed = (maquette.open(path, device="cpu", stream=stream) for stream in (False, True))
    assert pixels(streamed) == pixels(whole)
    assert in_memory(streamed) < 0.7 * in_memory(whole)
    assert all(p.is_meta for block in streamed.first_stage.vae.decoder.up for p in block.parameters())


@pytest.mark.parametrize("stream", [True, False])
def test_loras_are_merged_into_what_is_read(stream: bool, tmp_path: Path) -> None:
    path, lora = write_original("sd1", tmp_path), tmp_path / "lora.safetensors"
    model = maquette.open(path, device="cpu", stream=stream)
    generator = torch.Generator().manual_seed(0)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    rows = {"lora_up.weight": (32, 4), "lora_down.weight": (4, 32)}
    write_safetensors(lora, {f"{name}.{k}": torch.randn(*shape, generator=generator) for k, shape in rows.items()})
    plain = pixels(model)
    assert model.set_loras([(lora, 1.0)])[0].matched
    merged = pixels(model)
    assert merged != plain
    assert merged == pixels(maquette.open(path, device="cpu", stream=not stream, loras=[(lora, 1.0)]))
    if not stream:
        with pytest.warns(UserWarning, match="a test; .* denoiser"):
            model.stream("denoiser", why="a test")
        assert pixels(model) == merged, "what was merged stays so when the weights are let go"
    model.set_loras([])
    assert pixels(model) == plain


def test_a_streamed_first_stage_computes_by_tiles(tmp_path: Path) -> None:
    path = write_original("sd1", tmp_path)
    whole, streamed = (maquette.open(path, device="cpu", stream=stream, tile_vae=True) for stream in (False, True))
    latent = torch.randn(1, 4, 66, 66, generator=torch.Generator().manual_seed(0))
    picture = whole.decode(latent)
    assert torch.equal(streamed.decode(latent), picture)
    assert torch.equal(streamed.encode(picture), whole.encode(picture))


@pytest.mark.parametrize("compile", [False, True])
def test_a_lora_that_does_not_fit_beside_the_model_is_merged_as_weights_are_read(
    compile: bool, tmp_path: Path, monkeypatch
) -> None:
    path, lora = write_original("sd1", tmp_path), tmp_path / "lora.safetensors"
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    generator = torch.Generator().manual_seed(0)
    rows = {"lora_up.weight": (32, 4), "lora_down.weight": (4, 32)}
    write_safetensors(lora, {f"{name}.{k}": torch.randn(*shape, generator=generator) for k, shape in rows.items()})
    merged = pixels(maquette.open(path, device="cpu", loras=[(lora, 1.0)]))
    errors, like = [ERRORS[0]], adapt._like

    def short(*args, **more):
        if errors:
            raise errors.pop()
        return like(*args, **more)

    monkeypatch.setattr(adapt, "_like", short)
    with pytest.warns(UserWarning, match="memory ran out; .*read as they are used: .*denoiser"):
        if compile:
            with pytest.raises(MaquetteError, match="leave out compile"):
                maquette.open(path, device="cpu", loras=[(lora, 1.0)], compile=True)
        else:
            assert pixels(maquette.open(path, device="cpu", loras=[(lora, 1.0)])) == merged


def test_what_does_not_fit_is_streamed(tmp_path: Path) -> None:
    """First what runs once for a picture, then everything."""
    model = maquette.open(write_original("sd1", tmp_path), device="cpu")
    parts = model.recognition.parts
    sizes = {name: 2 * numbers(part) for name, part in parts.items()}
    for free, streamed in (
        (sum(sizes.values()), set()),
        (sum(sizes.values()) - 1, set(parts) - {"denoiser"}),
        (sizes["denoiser"], set(parts) - {"denoiser"}),
        (sizes["denoiser"] - 1, set(parts)),
    ):
        assert parts_to_stream(parts, torch.bfloat16, WORKING_MEMORY + free) == streamed


ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    MemoryError(),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
)


def test_what_pytorch_holds_in_reserve_is_free(monkeypatch) -> None:
    for name, answer in (("mem_get_info", (5, 90)), ("memory_reserved", 70), ("memory_allocated", 40)):
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    assert free_memory(torch.device("cuda")) == 5 + 70 - 40


class Short:
    """A `run` that has too little memory for maps of more places."""

    def __init__(self, run, error: BaseException, places: int) -> None:
        self.run, self.error, self.places = run, error, places

    def __call__(self, block, x, *args):
        if x[0, 0].numel() > self.places:
            raise self.error
        return self.run(block, x, *args)


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "cpu", "python", "cublas", "cudnn"])
def test_what_runs_out_of_memory_is_tried_with_less(error: BaseException) -> None:
    tries: list[str] = []

    def call() -> int:
        tries.append("call")
        if tries.count("smaller") < 2:
            raise error
        return 7

    assert or_else(call, lambda: tries.append("smaller") is None) == 7
    assert tries == ["call", "smaller", "call", "smaller", "call"]


def test_the_first_stage_goes_on_by_tiles_when_memory_runs_out(tmp_path: Path) -> None:
    model = maquette.open(write_original("sd1", tmp_path), device="cpu")
    latent = torch.randn(1, 4, 70, 16, generator=torch.Generator().manual_seed(0))
    whole, decoder = model.decode(latent), model.first_stage.vae.decoder
    decoder.run = Short(decoder.run, ERRORS[0], places=50_000)
    with pytest.warns(UserWarning, match="by tiles"):
        tiled = model.decode(latent)
    assert (tiled - whole).abs().max() < 2 / 127.5
    assert torch.equal(model.decode(latent), tiled), "and again, without asking"


def fail(monkeypatch, block, times: int) -> list[int]:
    """Let memory run out the first few times that a block runs; the rows of each time are kept."""
    forward, rows = block.forward, []

    def short(x, *args):
        rows.append(len(x))
        if len(rows) <= times:
            raise ERRORS[len(rows) % len(ERRORS)]
        return forward(x, *args)

    monkeypatch.setattr(block, "forward", short)
    return rows


def test_a_text_encoder_is_streamed_when_memory_runs_out(tmp_path: Path, monkeypatch) -> None:
    model = maquette.open(write_original("sd1", tmp_path), device="cpu")
    whole = pixels(model)
    block = model.encoders[0].tower.layers[0]
    fail(monkeypatch, block, 1)
    with pytest.warns(UserWarning, match="read as they are used: .*text"):
        assert pixels(model) == whole
    assert all(p.is_meta for p in block.parameters())


def test_a_denoiser_is_asked_less_at_a_time_and_then_streamed(tmp_path: Path, monkeypatch) -> None:
    """Level by level: the halves of guidance, the pictures of a batch, the weights."""
    model = maquette.open(write_original("sd1", tmp_path), device="cpu")
    monkeypatch.setattr(loop, "ON_CPU", 3)

    def painted() -> list[np.ndarray]:
        return [np.asarray(image, int) for image in model.txt2img("a red apple", count=3, **SIZE).images]

    whole = painted()
    levels = ("halves of guidance", "pictures are computed one by one", "read as they are used: denoiser")
    for times, rows in ((1, [6, 3]), (2, [6, 3, 1]), (3, [6, 3, 1, 1])):
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            asked = fail(patch, model.network.middle[0], times)
            less = painted()
        assert asked[: len(rows)] == rows and set(asked[len(rows) :]) == {rows[-1]}
        assert [level for level, each in zip(levels, said, strict=False) if level in str(each.message)] == [
            *levels[:times]
        ]
        assert len(said) == times
        assert max(np.abs(a - b).max() for a, b in zip(whole, less, strict=True)) <= 1
    assert all(p.is_meta for block in model.network.down for p in block.parameters())


def test_attention_is_recorded_of_halves(tmp_path: Path, monkeypatch) -> None:
    model = maquette.open(write_original("sd1", tmp_path), device="cpu")
    whole = model.txt2img("a red apple", attention=True, **SIZE).attention["apple"]
    fail(monkeypatch, model.network.down[0], 1)
    with pytest.warns(UserWarning, match="halves"):
        halves = model.txt2img("a red apple", attention=True, **SIZE).attention["apple"]
    assert np.allclose(np.asarray(whole), np.asarray(halves), atol=1e-4)


def test_other_errors_and_a_second_shortage_are_told(tmp_path: Path, monkeypatch) -> None:
    model = maquette.open(write_original("sd1", tmp_path), device="cpu", stream=True)
    for error in (RuntimeError("shapes differ"), ERRORS[0]):
        monkeypatch.setattr(model.network.down[0], "forward", lambda *args, error=error: (_ for _ in ()).throw(error))
        with pytest.raises((RuntimeError, MaquetteError), match=str(error)[:10]):
            pixels(model, guidance=1.0)


def test_says_how_a_model_fits(tmp_path: Path) -> None:
    """Whole, without what runs once for a picture, block by block, or not."""
    write_original("sd3", tmp_path)
    name = str(tmp_path / "sd3.safetensors")
    said = {}
    for free in (10**8, 5_000_000, 4_000_000, 0):
        lines = [value for _, value in doctor.fitting(name, [Place("cpu", "", 2**40, WORKING_MEMORY + free)])]
        said[free] = next(line for line in lines if line.startswith("in float32"))
    assert "GiB, fits; --stream" in said[10**8]
    assert "all but the denoiser" in said[5_000_000]
    assert said[4_000_000].endswith("done by itself and fits")
    assert said[0].endswith("does not fit either")


def test_sizes_are_those_of_the_tensors(tmp_path: Path) -> None:
    """What is foretold of each precision and storage is what an opened model takes."""
    path = write_original("sd3", tmp_path)
    for dtype, storage in ((torch.float32, None), (torch.bfloat16, None), (torch.bfloat16, "float8")):
        model = maquette.open(path, device="cpu", dtype=dtype, storage=storage)
        towers = {each.reading.part: each.tower for each in model.encoders if each}
        networks = {"denoiser": model.network, "vae": model.first_stage.vae, **towers}
        for name, part in model.recognition.parts.items():
            held = sum(each.numel() * each.element_size() for each in networks[name].state_dict().values())
            assert size(part, dtype, storage and STORAGES[storage]) == held


def test_large_text_encoders_are_never_held(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fit, "LARGE_TEXT", 0)
    path = write_original("flux-dev", tmp_path)
    model = maquette.open(path, device="cpu")
    held, answer = [], model.denoiser

    def denoise(*asked):
        held.append(text_numbers(model))
        return answer(*asked)

    monkeypatch.setitem(vars(model), "denoiser", denoise)
    late = pixels(model)
    whole = maquette.open(path, device="cpu", stream=False)
    assert late == pixels(whole)
    blocks = sum(p.numel() for each in whole.encoders for p in each.tower.layers.parameters())
    assert set(held) == {text_numbers(whole) - blocks}


def text_numbers(model) -> int:
    return sum(p.numel() for each in model.encoders for p in each.tower.parameters() if not p.is_meta)


def test_a_part_that_cannot_be_loaded_is_streamed(tmp_path: Path, monkeypatch) -> None:
    path = write_original("sd1", tmp_path)
    whole = pixels(maquette.open(path, device="cpu"))

    def full(network, *args):
        if isinstance(network, UNet):
            raise ERRORS[0]
        return fill(network, *args)

    monkeypatch.setattr(open, "fill", full)
    with pytest.warns(UserWarning, match="memory ran out; weights are read as they are used: denoiser"):
        model = maquette.open(path, device="cpu")
    assert all(p.is_meta for block in model.network.down for p in block.parameters())
    assert pixels(model) == whole


@pytest.mark.parametrize("stream", [True, False])
def test_a_broken_lora_is_refused_and_the_one_before_stays(stream: bool, tmp_path: Path) -> None:
    model = maquette.open(write_original("sd1", tmp_path), device="cpu", stream=stream)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    files = {}
    for kind, number in (("good", 1.0), ("broken", float("nan"))):
        files[kind] = tmp_path / f"{kind}.safetensors"
        rows = {"lora_up.weight": (32, 4), "lora_down.weight": (4, 32)}
        write_safetensors(files[kind], {f"{name}.{k}": torch.full(shape, number) for k, shape in rows.items()})
    model.set_loras([(files["good"], 1.0)])
    merged = pixels(model)
    with pytest.raises(MaquetteError):
        model.set_loras([(files["broken"], 1.0)])
    assert pixels(model) == merged
