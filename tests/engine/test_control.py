"""Controls opened from every layout and wrapped around the question: what they add, when, and to which half."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_models import FLUX, SD1, SD3, SDXL, SMALL, named, original, random_state, write_original
from torch import Tensor
from transformers import CLIPImageProcessor

import maquette
from maquette.diffusion.compose import tiled
from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.guidance import Pair
from maquette.engine import control, kinds
from maquette.engine.build import outline
from maquette.engine.control import Control, ControlNetwork, controlled, open_control
from maquette.engine.model import Model
from maquette.engine.report import describe_file
from maquette.errors import MaquetteError
from maquette.models import clip_config, controlnet_config, t2i_adapter_config
from maquette.models.clip import CLIPImageSpec, look
from maquette.models.controlnet import ControlNetSpec
from maquette.models.ip_adapter import IPAdapterSpec, ResamplerSpec, cross_attentions, looking_at
from maquette.models.t2i_adapter import T2IAdapterSpec
from maquette.models.transformer_controlnet import FluxControlNetSpec, MMDiTControlNetSpec
from maquette.models.transformer_controlnet_config import mmdit_to_config
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import InMemory, prefixed, union

CONTROLNET = ControlNetSpec(unet=SD1)
ADAPTER = T2IAdapterSpec(widths=SD1.widths)
TOWER = CLIPImageSpec(size=28, patch=7, width=128, layers=2, heads=2, hidden=256, projection=32, activation="gelu")
SIZE = 64  # pixels of a picture, of 8 x 8 places


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return maquette.open(write_original("sd1", tmp_path_factory.mktemp("sd1")), device="cpu")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return maquette.open(write_original("sdxl", tmp_path_factory.mktemp("sdxl")), device="cpu")


def ip_spec(model: Model, **more: Any) -> IPAdapterSpec:
    widths = tuple(module.q.out_features for module in cross_attentions(model.network))
    return IPAdapterSpec(**{"widths": widths, "context": model.network.spec.context, "image": 32, **more})


def write(path: Path, kind: kinds.Kind, spec: Any, layout: str = "original", prefix: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, prefixed(named(kind, spec, layout, seed=7), prefix))
    return path


def write_folder(folder: Path, kind: kinds.Kind, spec: Any, config: Mapping[str, Any], layout: str) -> Path:
    write(folder / "model.safetensors", kind, spec, layout)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_ip_adapter(folder: Path, spec: IPAdapterSpec) -> Path:
    """As published: the adapter, and the tower in a folder beside it."""
    write_folder(folder / "image_encoder", kinds.CLIP_IMAGE, TOWER, clip_config.image_to_config(TOWER), "transformers")
    return write(folder / "ip-adapter.safetensors", kinds.IP_ADAPTER, spec)


def picture(count: int = 1, side: int = SIZE) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def latent(count: int, side: int = SIZE // 8, channels: int = 4) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(2))


def told(model: Model, count: int = 1) -> Conditioning:
    """Of `count` pictures what is wanted, then what is not."""
    positive, negative = model.contrast("a red apple", "rain")
    return Conditioning.cat([positive.repeat(count), negative.repeat(count)])


def ask(model: Model, *controls: Control, x: Tensor | None = None, t: float = 500.0) -> Tensor:
    """x0 of a batch of both halves, heeding the controls."""
    x = latent(2) if x is None else x
    return controlled(model.denoiser, controls)(x, model.process.at(t), told(model, len(x) // 2))


def with_residuals(model: Model, opened: ControlNetwork, scales: Tensor) -> Tensor:
    """The answer with a ControlNet's residuals, each row scaled, computed by hand."""
    x, conditioning, level = latent(2), told(model), model.process.at(500.0)
    residuals = opened.network(x, 500.0, conditioning, opened.network.read(picture()))
    scaled = tuple(scales[:, None, None, None] * each for each in residuals)
    return model.denoiser(x, level, replace(conditioning, control=scaled))


def write_whole(path: Path) -> Path:
    """As the authors published it: together with the model that it was trained with."""
    control = prefixed(named(kinds.CONTROLNET, CONTROLNET, "original", seed=7), "control_model.")
    write_safetensors(path, union([original(SMALL["sd1"]), control]))
    return path


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "original": lambda path: write(path / "c.safetensors", kinds.CONTROLNET, CONTROLNET, prefix="control_model."),
    "bare": lambda path: write(path / "c.safetensors", kinds.CONTROLNET, CONTROLNET),
    "diffusers file": lambda path: write(path / "c.safetensors", kinds.CONTROLNET, CONTROLNET, "diffusers"),
    "diffusers folder": lambda path: write_folder(
        path, kinds.CONTROLNET, CONTROLNET, controlnet_config.to_config(CONTROLNET), "diffusers"
    ),
}


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


SD3_CONTROLNET = MMDiTControlNetSpec(body=replace(SD3, layers=1))
FLUX_CONTROLNET = FluxControlNetSpec(body=replace(FLUX, double=1, single=1), modes=2)


@pytest.mark.parametrize("unpooled", [True, False])
def test_controlnet_for_sd3_follows_the_latent_of_a_picture(unpooled: bool, tmp_path: Path) -> None:
    """As it was trained: without the pooled text and the shift of latents, or with both."""
    model = maquette.open(write_original("sd3", tmp_path), device="cpu")
    spec = replace(SD3_CONTROLNET, unpooled=unpooled)
    folder = write_folder(tmp_path / "c", kinds.MMDIT_CONTROLNET, spec, mmdit_to_config(spec), "diffusers")
    opened = open_control(folder, model)
    assert describe_file(folder)["title"] == "ControlNet for SD3"
    x, conditioning = latent(2, channels=16), told(model)
    hint = model.encode(2 * picture() - 1)
    if unpooled:
        hint = hint + model.family.latent.shift * model.family.latent.scale
    residuals = opened.network(x, 0.7, conditioning, opened.network.read(hint))
    level = model.process.at(0.7)
    expected = model.denoiser(x, level, replace(conditioning, control=tuple(0.5 * each for each in residuals)))
    answer = controlled(model.denoiser, [opened.follow(picture(), scale=0.5)])(x, level, conditioning)
    assert torch.allclose(answer, expected, atol=1e-5)
    assert not torch.allclose(model.denoiser(x, level, conditioning), expected, atol=1e-3)
    wanted = controlled(model.denoiser, [opened.follow(picture(), scale=0.5, negative=False)])(x, level, conditioning)
    assert torch.allclose(wanted[:1], expected[:1], atol=1e-5)
    assert torch.allclose(wanted[1:], model.denoiser(x, level, conditioning)[1:], atol=1e-5)


def test_controlnet_for_flux_follows_the_latent_of_a_picture(tmp_path: Path) -> None:
    model = maquette.open(write_original("flux-dev", tmp_path), device="cpu")
    path = write(tmp_path / "c.safetensors", kinds.FLUX_CONTROLNET, FLUX_CONTROLNET, "diffusers")
    opened = open_control(path, model)
    assert describe_file(path)["title"] == "ControlNet for FLUX"
    x, conditioning, level = latent(1, channels=16), model.condition(["a red apple"]), model.process.at(0.7)
    double, single = opened.network(x, 0.7, conditioning, opened.network.read(model.encode(2 * picture() - 1)), mode=1)
    expected = model.denoiser(x, level, replace(conditioning, control=double, features=single))
    answer = controlled(model.denoiser, [opened.follow(picture(), kind=1)])(x, level, conditioning)
    assert torch.allclose(answer, expected, atol=1e-5)
    assert not torch.allclose(model.denoiser(x, level, conditioning), expected, atol=1e-3)
    with pytest.raises(MaquetteError, match="follows 2 kinds of pictures: got kind None"):
        controlled(model.denoiser, [opened.follow(picture())])(x, level, conditioning)
    with pytest.raises(MaquetteError, match="a picture of 72x72; its sides must be multiples of 16"):
        opened.follow(picture(side=72), kind=1)
    other = replace(FLUX_CONTROLNET, body=replace(FLUX_CONTROLNET.body, double=2, single=0), modes=None)
    other_path = write(tmp_path / "d.safetensors", kinds.FLUX_CONTROLNET, other, "diffusers")
    both = [opened.follow(picture(), kind=1), open_control(other_path, model).follow(picture())]
    with pytest.raises(MaquetteError, match="networks that speak to 2 and to 1 blocks"):
        controlled(model.denoiser, both)(x, level, conditioning)


def test_controls_of_other_models_are_refused(model: Model, large: Model, tmp_path: Path) -> None:
    controlnet = LAYOUTS["bare"](tmp_path)
    with pytest.raises(MaquetteError, match=r"its width at each skip is \(32, .*, the model's is \(64, "):
        open_control(controlnet, large)
    wide = write(tmp_path / "w.safetensors", kinds.CONTROLNET, ControlNetSpec(unet=replace(SD1, context=96)))
    with pytest.raises(MaquetteError, match="its width of text is 96, the model's is 64"):
        open_control(wide, model)
    adapter = write(tmp_path / "a.safetensors", kinds.T2I_ADAPTER, T2IAdapterSpec(widths=SDXL.widths))
    with pytest.raises(MaquetteError, match=r"width and scale of each feature is \[\(64, 8\), .*\[\(64, 16\)"):
        open_control(adapter, large)
    ip = write(tmp_path / "ip.safetensors", kinds.IP_ADAPTER, ip_spec(large))
    with pytest.raises(MaquetteError, match="cross-attention"):
        open_control(ip, model)


def test_models_that_are_no_unets_are_refused(tmp_path: Path) -> None:
    dit = maquette.open(write_original("dit", tmp_path), device="cpu")
    with pytest.raises(MaquetteError, match="for a U-Net that reads text, which dit is not"):
        open_control(LAYOUTS["bare"](tmp_path), dit)
    sd3 = write(tmp_path / "c.safetensors", kinds.MMDIT_CONTROLNET, SD3_CONTROLNET, "diffusers")
    with pytest.raises(MaquetteError, match="for SD3, which dit is not"):
        open_control(sd3, dit)


def test_what_is_no_control_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match=r"holds 0 networks that could be a ControlNet"):
        open_control(write_original("sd1", tmp_path), model)
    with pytest.raises(MaquetteError, match="there is no control 'nowhere.safetensors'"):
        open_control("nowhere.safetensors", model)
    with pytest.raises(MaquetteError, match="there is no control"):
        open_control("x" * 5000, model)
    state = random_state(outline(kinds.CONTROLNET.network, CONTROLNET), 1)
    written = dict(kinds.CONTROLNET.dialects[0].write(InMemory(state), outline(kinds.CONTROLNET.network, CONTROLNET)))
    write_safetensors(tmp_path / "union.safetensors", InMemory(written | {"task_embedding": torch.ones(3)}))
    with pytest.raises(MaquetteError, match=r"1 unknown \(task_embedding\)"):
        open_control(tmp_path / "union.safetensors", model)


def test_pictures_that_cannot_be_followed(model: Model, tmp_path: Path) -> None:
    opened = open_control(LAYOUTS["bare"](tmp_path), model)
    with pytest.raises(MaquetteError, match=r"to follow is 72x72, what is painted is 64x64; bring it to that size"):
        ask(model, opened.follow(picture(side=72)))
    with pytest.raises(MaquetteError, match=r"of shape \(3, 64, 64\)"):
        opened.follow(picture()[0])
    with pytest.raises(MaquetteError, match=r"start 0\.5 and end 0\.5"):
        opened.follow(picture(), start=0.5, end=0.5)
    with pytest.raises(MaquetteError, match="give one of balanced, prompt, control"):
        opened.follow(picture(), mode="mine")  # type: ignore[arg-type]
    with pytest.raises(MaquetteError, match="only an IP-Adapter has a picture for what is not wanted"):
        opened.follow(picture(), against=picture())


def test_a_control_of_the_package_is_found_by_its_name(model: Model, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(control, "ASSETS", tmp_path / "assets")
    write_folder(
        tmp_path / "assets" / "mine", kinds.T2I_ADAPTER, ADAPTER, t2i_adapter_config.to_config(ADAPTER), "diffusers"
    )
    (tmp_path / "assets" / "empty").mkdir()
    assert open_control("mine", model).network.spec == ADAPTER
    for name in ("empty", "../assets/mine"):
        with pytest.raises(MaquetteError, match="there is no control"):
            open_control(name, model)


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


def test_windows_of_a_transformer_follow_their_patches(tmp_path: Path) -> None:
    model = maquette.open(write_original("sd3", tmp_path), device="cpu")
    spec = replace(SD3_CONTROLNET, unpooled=False)
    folder = write_folder(tmp_path / "c", kinds.MMDIT_CONTROLNET, spec, mmdit_to_config(spec), "diffusers")
    opened, wide = open_control(folder, model), picture(side=2 * SIZE)[..., :SIZE, :]
    x, conditioning, level = latent(2, 16, channels=16)[..., :8, :], told(model), model.process.at(0.7)
    whole = tiled(controlled(model.denoiser, [opened.follow(wide)]), (8, 8), 0)(x, level, conditioning)
    for side, part in enumerate((x[..., :8], x[..., 8:])):
        hint = opened.network.read(model.encode(2 * wide - 1).chunk(2, -1)[side])
        residuals = opened.network(part, 0.7, conditioning, hint)
        expected = model.denoiser(part, level, replace(conditioning, control=residuals))
        assert torch.allclose(whole.chunk(2, -1)[side], expected, atol=1e-5)
