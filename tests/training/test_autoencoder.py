"""Stage one: its losses against their formulas, its phases, its crops, and that it learns."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import random_run
from torch import Tensor

from maquette.models.vae import VAESpec
from maquette.training.autoencoder import AutoencoderRecipe, AutoencoderTask, Features, perceptual, to_signed
from maquette.training.figures import NonFinite
from maquette.training.learner import OptimiserSpec
from maquette.training.scenes import Background, Scene, Thing
from maquette.training.stream import Batch

SPEC = VAESpec(widths=(8, 8, 16), res_blocks=1, groups=4)
EXTENT = 64
THING = Thing(emoji=0, x=20, y=4, size=16)


def batch(count: int, seed: int = 0, things: tuple[Thing, ...] = (THING,), extent: int = EXTENT) -> Batch:
    """Coarse random pictures, smaller than the drawn ones; the scenes say where things are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    pictures = coarse.repeat(extent // 8, axis=1).repeat(extent // 8, axis=2)
    return Batch(0, pictures, [""] * count, [Scene(things=things, background=Background("white"))] * count, None)


def tower(x: Tensor) -> list[Tensor]:
    """Features out of the air: patches of two sizes."""
    return [F.pixel_unshuffle(F.avg_pool2d(x.float(), k), 8).flatten(2).transpose(1, 2) for k in (1, 2)]


def task(features: Features | None = tower, precision: str = "float32", **told: Any) -> AutoencoderTask:
    optimiser = OptimiserSpec(rate=2e-3, warmup=2, ema=0.9)
    recipe = AutoencoderRecipe(**{"steps": 10, "batch": 2, "refine_from": 4, "optimiser": optimiser, **told})
    return AutoencoderTask(recipe, SPEC, 0, precision, features)


def run(learning: AutoencoderTask, steps: range) -> list[Mapping[str, float]]:
    return [learning.update(step, batch(2, step)) for step in steps]


def test_bytes_become_numbers_from_minus_one_to_one() -> None:
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    x = to_signed(pixels)
    assert x.shape == (2, 3, 3, 4) and x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(((x.permute(0, 2, 3, 1) + 1) * 127.5).round().byte(), torch.from_numpy(pixels))
    assert to_signed(np.array([0, 255] * 6, np.uint8).reshape(1, 2, 2, 3)).aminmax() == (-1.0, 1.0)


def test_the_perceptual_distance_is_that_of_directions() -> None:
    a, b = (torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert float(perceptual(a, a)) == 0.0
    assert float(perceptual(a, 3 * a)) == pytest.approx(0.0, abs=1e-6)
    cosines = F.cosine_similarity(a, b, dim=-1)  # |u - v|^2 = 2 - 2 cos for unit lengths
    assert float(perceptual(a, b)) == pytest.approx(float((2 - 2 * cosines).mean()), rel=1e-5)
    assert float(perceptual(a, -a)) == pytest.approx(4.0)


def test_the_loss_is_its_formula() -> None:
    learning = task(kl=0.3)
    x, shown = to_signed(batch(2).pictures), {}
    vae = learning.vae
    with torch.no_grad():
        posterior = vae.encode(x)
        noise = torch.zeros_like(posterior.mean)
    learning.encode = lambda _: posterior  # type: ignore[method-assign, assignment]
    learning.decode = lambda z: shown.setdefault("y", vae.decode(posterior.sample(noise)))  # type: ignore[method-assign]
    figures = learning.update(0, batch(2))
    error = shown["y"].detach() - x
    variance = posterior.logvar.exp()
    kl = 0.5 * (posterior.mean**2 + variance - 1 - posterior.logvar).sum() / x.numel()
    assert figures["loss"] == pytest.approx(float(error.abs().mean() + error.square().mean() + 0.3 * kl), rel=1e-5)
    psnr = 10 * np.log10(4 / error.square().mean((1, 2, 3)).numpy())
    assert figures["psnr"] == pytest.approx(float(psnr.mean()), rel=1e-5)


def test_the_critic_learns_by_the_hinge() -> None:
    learning = task(steps=30, critic=OptimiserSpec(rate=2e-3, warmup=0))
    x, y = (to_signed(batch(2, seed).pictures) for seed in (0, 1))
    with torch.no_grad():
        real, fake = learning.critic(x), learning.critic(y)
    expected = 0.5 * ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean())
    first = learning.recipe.refine_from
    assert learning._update_critic(first, x, y) == pytest.approx(float(expected), rel=1e-6)
    for step in range(1, 10):
        last = learning._update_critic(first + step, x, y)
    assert last < 0.8 * float(expected)


def test_the_adversary_gets_its_share_of_the_last_layers_gradient() -> None:
    learning = task(features=None, adversarial=0.25)
    x = to_signed(batch(2).pictures)
    decoded, _ = learning.vae(x)
    reconstruction = (decoded - x).abs().mean()
    last = learning.vae.decoder.conv_out.weight
    total = learning._refinement(x, decoded, reconstruction, {})
    (theirs,) = torch.autograd.grad(total, last, retain_graph=True)
    (own,) = torch.autograd.grad(reconstruction, last)
    assert float(theirs.norm() / own.norm()) == pytest.approx(0.25, rel=0.01)


def test_refinement_begins_when_told() -> None:
    figures = run(task(), range(6))
    assert [sorted(each) for each in figures] == [["loss", "psnr"]] * 4 + [["critic", "loss", "perceptual", "psnr"]] * 2


def test_without_refinement_the_critic_is_left_alone() -> None:
    learning = task(features=None, adversarial=0.0)
    before = [p.clone() for p in learning.critic.parameters()]
    figures = run(learning, range(6))
    assert all(sorted(each) == ["loss", "psnr"] for each in figures)
    assert all(torch.equal(a, b) for a, b in zip(before, learning.critic.parameters(), strict=True))


def test_a_frozen_encoder_is_the_average_and_stays() -> None:
    learning = task(freeze_encoder_from=3)
    run(learning, range(3))
    average = {name: tensor.clone() for name, tensor in learning.learner.best().items()}
    run(learning, range(3, 8))
    masters = dict(zip(learning.learner.names, learning.learner.masters, strict=True))
    for name, tensor in learning.learner.best().items():
        frozen = name.startswith(("encoder.", "quant_conv."))
        assert torch.equal(tensor, average[name]) == frozen, name
        assert torch.equal(masters[name], average[name]) == frozen, name


def test_odd_steps_see_crops_around_things() -> None:
    learning = task(crops=5, crop=24)
    drawn = batch(learning.recipe.drawn)
    assert learning.recipe.drawn == 5
    assert np.array_equal(learning._view(2, drawn), drawn.pictures[:2])
    crops = learning._view(3, drawn)
    assert crops.shape == (5, 24, 24, 3)
    assert np.array_equal(crops, learning._view(3, drawn))
    for crop, picture in zip(crops, drawn.pictures, strict=True):
        places = [
            (x, y)
            for x in range(0, 41, SPEC.factor)
            for y in range(0, 41, SPEC.factor)
            if np.array_equal(picture[y : y + 24, x : x + 24], crop)
        ]
        assert places
        assert any(x < 36 and x + 24 > 20 and y < 20 and y + 24 > 4 for x, y in places)  # they meet the thing


def test_crops_of_things_at_the_edge_stay_inside() -> None:
    learning = task(crops=4, crop=32)
    for step in range(1, 20, 2):
        for x, y in ((0, 0), (48, 48), (0, 48)):
            drawn = batch(4, things=(replace(THING, x=x, y=y),))
            assert learning._view(step, drawn).shape == (4, 32, 32, 3)


def test_crops_are_looked_at_by_the_image_tower_as_large_as_pictures(tmp_path) -> None:
    features = random_run(tmp_path / "run")._features()
    assert features is not None
    x = to_signed(batch(2, extent=128).pictures)
    whole, crop = features(x), features(F.avg_pool2d(x, 2))
    assert [f.shape for f in whole] == [f.shape for f in crop] == [(2, 17, 32)] * 2
    enlarged = features(F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear"))
    assert all(torch.equal(a, b) for a, b in zip(crop, enlarged, strict=True))
    learning = task(features, crops=2)
    assert "perceptual" in learning.update(5, batch(2, extent=128))


def test_it_learns_four_pictures() -> None:
    learning, pictures = task(precision="bfloat16", steps=60, batch=4, refine_from=100), batch(4)
    figures = [learning.update(step, pictures) for step in range(40)]
    assert figures[-1]["loss"] < 0.7 * figures[0]["loss"]
    assert figures[-1]["psnr"] > figures[0]["psnr"] + 2


@pytest.mark.parametrize("step", [0, 4], ids=["reconstruction", "refinement"])
def test_nan_stops_before_any_weight_is_harmed(step: int) -> None:
    learning = task()
    with torch.no_grad():
        learning.vae.decoder.conv_out.bias[0] = float("nan")
    before = {name: tensor.clone() for name, tensor in learning.state().items()}
    with pytest.raises(NonFinite, match=f"step {step}"):
        learning.update(step, batch(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in learning.state().items())


def test_samples_are_pictures_above_their_reconstructions(tmp_path) -> None:
    from PIL import Image

    learning = task()
    learning.show(1, tmp_path)
    assert not list(tmp_path.iterdir())
    learning.update(0, batch(2))
    learning.show(25, tmp_path)
    sheet = np.asarray(Image.open(tmp_path / "00000025.png"))
    assert sheet.shape == (EXTENT, 8 * EXTENT, 3)
    assert np.array_equal(sheet[:, :EXTENT], batch(2).pictures[0])
