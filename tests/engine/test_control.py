"""Controls opened from every layout and wrapped around the question: what they add, when, and to which half."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import (
    ADAPTER,
    CONTROLNET,
    LAYOUTS,
    SIZE,
    TOWER,
    ask,
    ip_spec,
    latent,
    picture,
    told,
    with_residuals,
    write,
    write_ip_adapter,
    write_whole,
)
from PIL import Image
from small_models import SDXL, named, write_original
from torch import Tensor
from transformers import CLIPImageProcessor

import maquette
from maquette.diffusion.compose import tiled
from maquette.diffusion.guidance import Pair
from maquette.engine import control, kinds
from maquette.engine.control import controlled, open_control
from maquette.engine.model import Model
from maquette.engine.report import describe_file
from maquette.errors import MaquetteError
from maquette.models.clip import look
from maquette.models.ip_adapter import ResamplerSpec, looking_at
from maquette.models.t2i_adapter import T2IAdapterSpec

pytestmark = pytest.mark.usefixtures("no_gradients")


def test_controlnet_in_one_file_with_a_model(model: Model, tmp_path: Path) -> None:
    whole = write_whole(tmp_path / "control_sd15.safetensors")
    alone = open_control(LAYOUTS["original"](tmp_path), model).follow(picture())
    assert torch.equal(ask(model, open_control(whole, model).follow(picture())), ask(model, alone))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_controlnet_adds_its_residuals(layout: str, model: Model, tmp_path: Path) -> None:
    path = LAYOUTS[layout](tmp_path)
    opened = open_control(path, model)
    assert opened.network.spec == CONTROLNET
    assert describe_file(path)["title"] == "ControlNet"
    expected = with_residuals(model, opened, torch.tensor([0.5, 0.5]))
    assert torch.allclose(ask(model, opened.follow(picture(), scale=0.5)), expected, atol=1e-6)
    assert not torch.allclose(ask(model), expected, atol=1e-2)


def test_two_controls_add_up_and_one_half_may_be_left_alone(model: Model, tmp_path: Path) -> None:
    opened = open_control(LAYOUTS["bare"](tmp_path), model)
    control = opened.follow(picture(), scale=0.25)
    wanted = opened.follow(picture(), scale=0.5, negative=False)
    assert torch.allclose(
        ask(model, control, wanted), with_residuals(model, opened, torch.tensor([0.75, 0.25])), atol=1e-6
    )


@pytest.mark.parametrize(("mode", "unwanted"), [("prompt", 0.5), ("control", 0.0)])
def test_a_mode_weakens_the_outer_blocks_as_a1111_does(
    mode: Any, unwanted: float, model: Model, tmp_path: Path
) -> None:
    opened = open_control(LAYOUTS["bare"](tmp_path), model)
    x, conditioning, level = latent(2), told(model), model.process.at(500.0)
    residuals = opened.network(x, 500.0, conditioning, opened.network.read(picture()))
    rows = torch.tensor([0.5, unwanted])[:, None, None, None]
    assert len(residuals) < 13
    scaled = tuple(rows * each * 0.825 ** (12 - k) for k, each in enumerate(residuals))
    expected = model.denoiser(x, level, replace(conditioning, control=scaled))
    assert torch.allclose(ask(model, opened.follow(picture(), scale=0.5, mode=mode)), expected, atol=1e-6)
    assert not torch.allclose(ask(model, opened.follow(picture(), scale=0.5)), expected, atol=1e-3)


def test_a_mode_weakens_the_outer_features_of_an_adapter(model: Model, tmp_path: Path) -> None:
    opened = open_control(write(tmp_path / "a.safetensors", kinds.T2I_ADAPTER, ADAPTER), model)
    features = opened.network(picture())
    weights = (0.25, 0.62, 0.825, 1.0)[-len(features) :]
    scaled = tuple(w * each.expand(2, -1, -1, -1) for w, each in zip(weights, features, strict=True))
    expected = model.denoiser(latent(2), model.process.at(500.0), replace(told(model), features=scaled))
    assert torch.allclose(ask(model, opened.follow(picture(), mode="prompt")), expected, atol=1e-6)


def test_a_control_acts_in_its_part_of_the_time(model: Model, tmp_path: Path) -> None:
    opened = open_control(LAYOUTS["bare"](tmp_path), model)
    start = model.process.start
    control = opened.follow(picture(), start=0.25, end=0.5)
    acts = {
        share: not torch.equal(ask(model, control, t=(1 - share) * start), ask(model, t=(1 - share) * start))
        for share in (0.0, 0.24, 0.25, 0.49, 0.5, 1.0)
    }
    assert [share for share, does in acts.items() if does] == [0.25, 0.49]
    always = opened.follow(picture())
    assert (always.first, always.last) == (math.inf, -math.inf)


def test_each_picture_of_a_batch_follows_its_own(model: Model, tmp_path: Path) -> None:
    opened, hints = open_control(LAYOUTS["bare"](tmp_path), model), picture(2)
    x = latent(4)
    both = ask(model, opened.follow(hints), x=x)
    for k in range(2):
        alone = ask(model, opened.follow(hints[k : k + 1]), x=x[k::2])
        assert torch.allclose(both[k::2], alone, atol=1e-5)
    with pytest.raises(MaquetteError, match="got 2 pictures to follow for 3 rows"):
        controlled(model.denoiser, [opened.follow(hints)])(x[:3], model.process.at(9.0), told(model, 2)[:3])


def test_guidance_asks_for_both_halves_at_once(model: Model, tmp_path: Path) -> None:
    """As the loop does it: the answers of a pair are those of its halves alone."""
    control = open_control(LAYOUTS["bare"](tmp_path), model).follow(picture(), negative=False)
    denoise, level, x = controlled(model.denoiser, [control]), model.process.at(500.0), latent(1)
    positive, negative = Pair(denoise, *model.contrast("a red apple", "rain")).both(x, level)
    alone = Pair(denoise, *model.contrast("a red apple", "rain"))
    assert torch.allclose(positive, alone.positive(x, level), atol=1e-5)
    assert torch.allclose(negative, alone.negative(x, level), atol=1e-5)
    plain = Pair(model.denoiser, *model.contrast("a red apple", "rain"))
    assert torch.allclose(negative, plain.negative(x, level), atol=1e-5)
    assert not torch.allclose(positive, plain.positive(x, level), atol=1e-2)


@pytest.mark.parametrize("channels", [1, 3])
def test_t2i_adapter_adds_its_features(channels: int, model: Model, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", kinds.T2I_ADAPTER, replace(ADAPTER, channels=channels))
    opened = open_control(path, model)
    assert describe_file(path)["title"] == "T2I-Adapter"
    grey = picture().mul(torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    features = opened.network(grey if channels == 1 else picture())
    doubled = tuple(2 * each.expand(2, -1, -1, -1) for each in features)
    expected = model.denoiser(latent(2), model.process.at(500.0), replace(told(model), features=doubled))
    followed = opened.follow(picture())
    assert torch.allclose(ask(model, followed, followed), expected, atol=1e-5)
    assert not torch.allclose(ask(model), expected, atol=1e-2)
    half = ask(model, opened.follow(picture(), scale=2.0, negative=False))
    assert torch.allclose(half, torch.cat([expected[:1], ask(model)[1:]]), atol=1e-5)


def test_t2i_adapter_of_sdxl_takes_pictures_of_odd_places(large: Model, tmp_path: Path) -> None:
    """Its patches are of 16 pixels: a picture of 72 is filled up to 80, as the U-Net rounds up when it halves."""
    spec = T2IAdapterSpec(widths=SDXL.widths, factor=16, form="xl")
    opened = open_control(write(tmp_path / "a.safetensors", kinds.T2I_ADAPTER, spec), large)
    x = latent(2, 9)
    whole = torch.nn.functional.pad(picture(side=72), (0, 8, 0, 8), mode="replicate")
    features = tuple(each.expand(2, -1, -1, -1) for each in opened.network(whole))
    expected = large.denoiser(x, large.process.at(500.0), replace(told(large), features=features))
    assert torch.allclose(ask(large, opened.follow(picture(side=72)), x=x), expected, atol=1e-5)
    assert not torch.allclose(ask(large, x=x), expected, atol=1e-3)


@pytest.mark.parametrize("reads", ["projected", "patches"])
def test_ip_adapter_lets_what_is_wanted_look_at_the_picture(reads: str, model: Model, tmp_path: Path) -> None:
    more: dict[str, Any] = {}
    if reads == "patches":
        resampler = ResamplerSpec(width=64, depth=1, heads=1, hidden=128)
        more = {"image": 128, "reads": "patches", "resampler": resampler, "tokens": 3}
    path = write_ip_adapter(tmp_path, ip_spec(model, **more))
    opened = open_control(path, model)
    assert opened.tower is not None
    assert describe_file(path)["title"] == "IP-Adapter"
    seen = opened.network(opened.network.read(opened.tower(look(picture(side=50), 28))))
    states = opened.tower(torch.zeros(1, 3, 28, 28))
    empty = opened.network(torch.zeros(1, 32) if reads == "projected" else states.hidden[-2])
    layers = [torch.cat(each) for each in zip(seen, empty, strict=True)]
    plain = ask(model)
    with looking_at(model.network, layers, 0.5):
        expected = ask(model)
    answer = ask(model, opened.follow(picture(side=50), scale=0.5))
    assert torch.allclose(answer, expected, atol=1e-6)
    assert not torch.allclose(plain[0], expected[0], atol=1e-2)
    with looking_at(model.network, [each.expand(2, -1, -1) for each in seen], 0.5):
        both = ask(model)
    assert torch.allclose(ask(model, opened.follow(picture(side=50), scale=0.5, negative=True)), both, atol=1e-6)
    assert not torch.allclose(both[1], expected[1], atol=1e-2)
    other = opened.network(opened.network.read(opened.tower(look(1 - picture(), 28))))
    with looking_at(model.network, [torch.cat(each) for each in zip(seen, other, strict=True)], 0.5):
        against = ask(model)
    assert torch.allclose(ask(model, opened.follow(picture(side=50), scale=0.5, against=1 - picture())), against)
    assert torch.equal(ask(model), plain)  # nothing of it stays
    with pytest.raises(MaquetteError, match="has no mode prompt"):
        opened.follow(picture(), mode="prompt")


def test_ip_adapter_from_a_pickle_of_two_dictionaries(model: Model, tmp_path: Path) -> None:
    write_ip_adapter(tmp_path, ip_spec(model))
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in named(kinds.IP_ADAPTER, ip_spec(model), "original", seed=7).items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    torch.save(parts, tmp_path / "ip-adapter.bin")
    ours = [open_control(tmp_path / f"ip-adapter.{end}", model).follow(picture()) for end in ("bin", "safetensors")]
    assert torch.equal(ask(model, ours[0]), ask(model, ours[1]))


def test_ip_adapter_without_its_tower(model: Model, tmp_path: Path) -> None:
    path = write(tmp_path / "ip.safetensors", kinds.IP_ADAPTER, ip_spec(model))
    with pytest.raises(MaquetteError, match=r"needs the CLIP image tower .* give tower="):
        open_control(path, model)
    wrong = write(tmp_path / "tower.safetensors", kinds.CLIP_IMAGE, replace(TOWER, projection=48), "OpenCLIP")
    with pytest.raises(MaquetteError, match=r"reads 32 numbers .* this tower gives 48; give the one"):
        open_control(path, model, tower=wrong)
    right = write(tmp_path / "right.safetensors", kinds.CLIP_IMAGE, TOWER, "OpenCLIP")
    assert open_control(path, model, tower=right).tower is not None


@pytest.mark.parametrize("size", [(80, 50), (28, 28), (21, 40)])
def test_pictures_are_cut_for_clip_as_transformers_does(size: tuple[int, int]) -> None:
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 5), size, mode="bicubic").clamp(0, 1)
    whole = (smooth * 255).round() / 255
    image = Image.fromarray((whole[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy())
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28)
    theirs = processor(image, return_tensors="pt").pixel_values
    step = 1 / 255 / 0.26  # Pillow rounds to levels, and rounds its weights too
    assert (look(whole, 28) - theirs).abs().max() < 1.5 * step


def test_windows_of_a_picture_follow_their_part_of_another(model: Model, tmp_path: Path) -> None:
    """Each window as if its part of what the networks make of the picture were all there is."""
    opened = open_control(LAYOUTS["bare"](tmp_path), model)
    adapter = open_control(write(tmp_path / "a.safetensors", kinds.T2I_ADAPTER, ADAPTER), model)
    wide = picture(side=2 * SIZE)[..., :SIZE, :]  # 8 x 16 places
    x, conditioning, level = latent(2, 16)[..., :8, :], told(model), model.process.at(500.0)
    controls = [opened.follow(wide), adapter.follow(wide)]
    whole = tiled(controlled(model.denoiser, controls), (8, 8), 0)(x, level, conditioning)
    hint, features = opened.network.read(wide), adapter.network(wide)
    for side, part in enumerate((x[..., :8], x[..., 8:])):
        residuals = opened.network(part, 500.0, conditioning, hint.chunk(2, -1)[side])
        halves = tuple(each.chunk(2, -1)[side].expand(2, -1, -1, -1) for each in features)
        expected = model.denoiser(part, level, replace(conditioning, control=residuals, features=halves))
        assert torch.allclose(whole.chunk(2, -1)[side], expected, atol=1e-5)


def test_a_controlnet_named_shuffle_speaks_of_the_whole_picture(model: Model, tmp_path: Path) -> None:
    path = write(tmp_path / "control_v11e_sd15_shuffle.safetensors", kinds.CONTROLNET, CONTROLNET)
    assert open_control(path, model).network.spec == replace(CONTROLNET, pooled=True)
    fetched = (
        tmp_path / "models--lllyasviel--control_v11e_sd15_shuffle/snapshots/abc/diffusion_pytorch_model.safetensors"
    )
    assert open_control(write(fetched, kinds.CONTROLNET, CONTROLNET), model).network.spec.pooled


def test_a_controlnet_is_opened_by_the_name_of_its_repository(model: Model, tmp_path: Path, monkeypatch) -> None:
    folder, asked = LAYOUTS["diffusers folder"](tmp_path / "fetched"), []
    monkeypatch.setattr(control, "fetch", lambda *args, **more: asked.append((args, more)) or folder)
    assert open_control("somebody/canny", model).network.spec == CONTROLNET
    assert asked == [(("somebody/canny", None), {"flat": True})]


@pytest.mark.parametrize("storage", ["int8", "float8"])
def test_an_ip_adapter_beside_weights_in_eight_bits(storage: str, model: Model, tmp_path: Path) -> None:
    path = write_ip_adapter(tmp_path / "ip", ip_spec(model))
    small = maquette.open(write_original("sd1", tmp_path), device="cpu", storage=storage)
    here, there = (ask(each, open_control(path, each).follow(picture())) for each in (model, small))
    assert torch.allclose(here, there, atol=0.5)
    assert not torch.equal(there, ask(small))
