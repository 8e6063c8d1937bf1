import pytest
import torch
from PIL import ImageChops

from maquette.diffusion.samplers import SAMPLERS
from maquette.errors import MaquetteError
from maquette.workflows import loop
from maquette.workflows.paint import paint as txt2img
from maquette.workflows.picture import read_request
from maquette.workflows.request import Request


def paint(model, **fields):
    return loop.run(txt2img(model, Request.read({"prompt": "a red apple", "seed": 7, **fields})))


def same(a, b) -> bool:
    return a.size == b.size and ImageChops.difference(a, b).getbbox() is None


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "dpmpp_2m_sde"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_picture_k_is_the_one_painted_alone(sampler: str, batch: int, model, monkeypatch) -> None:
    monkeypatch.setattr(loop, "ON_CPU", batch)
    together = paint(model, sampler=sampler, count=3)
    assert together.seeds == [7, 8, 9]
    for k, seed in enumerate(together.seeds):
        alone = paint(model, sampler=sampler, seed=seed)
        assert same(together.images[k], alone.images[0])
        assert together.latent_hashes[k] == alone.latent_hashes[0]
    assert not same(together.images[0], together.images[1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_shows_each_step_and_paints_the_words(sampler: str, model) -> None:
    shown = []
    request = Request(prompt="a red apple", seed=1, steps=12, guidance=1, sampler=sampler, width=64, height=32)
    result = loop.run(txt2img(model, request), shown.append)
    assert len(shown) == 12
    assert result.images[0].size == (64, 32)
    colour, other = (model.condition([words]).vector for words in ("a red apple", "a dog"))
    painted = shown[-1].x.mean((2, 3))
    assert (painted - colour).abs().max() < 0.15 < (painted - other).abs().max()


def test_guidance_zero_ignores_the_words_and_more_follows_them(model) -> None:
    assert same(paint(model, guidance=0).images[0], paint(model, guidance=0, prompt="a dog").images[0])
    assert not same(paint(model, guidance=1).images[0], paint(model, guidance=1, prompt="a dog").images[0])
    assert same(paint(model, guidance=1).images[0], paint(model, guidance=1, negative="a dog").images[0])
    assert not same(paint(model, guidance=2).images[0], paint(model, guidance=2, negative="a dog").images[0])


def test_closing_cancels(model) -> None:
    painting = txt2img(model, Request(steps=10))
    next(painting)
    painting.close()
    assert model.evaluations == 1
    with pytest.raises(StopIteration):
        next(painting)


def test_an_exception_in_what_watches_cancels(model) -> None:
    def watch(step) -> None:
        raise KeyboardInterrupt

    painting = txt2img(model, Request(steps=10))
    with pytest.raises(KeyboardInterrupt):
        loop.run(painting, watch)
    assert model.evaluations == 1


def test_gradients_are_off_inside_and_untouched_outside(model) -> None:
    seen = []
    denoiser = model.denoiser
    model.denoiser = lambda *told: (seen.append(torch.is_grad_enabled()), denoiser(*told))[1]
    painting = txt2img(model, Request())
    next(painting)
    assert torch.is_grad_enabled()
    assert not any(seen)
    painting.close()


def test_settings_are_saved_with_every_picture(model, tmp_path) -> None:
    result = paint(model, count=2, sampler="euler_a", negative="蓝色")
    first, second = result.save(tmp_path / "new" / "apple.png")
    assert [first.name, second.name] == ["apple-1.png", "apple-2.png"]
    again = loop.run(txt2img(model, read_request(second)))
    assert same(again.images[0], result.images[1])
    assert again.latent_hashes == result.latent_hashes[1:]
    assert result.request.model == "gaussian"


def test_a_size_that_the_model_cannot_paint_is_refused(model) -> None:
    model.multiple = 16
    with pytest.raises(MaquetteError, match="width 40 is not a multiple of 16, as gaussian needs; try 32"):
        paint(model, width=40)


def test_numbers_that_overflow_are_refused(model) -> None:
    model.denoiser = lambda x, level, conditioning: x * torch.inf
    with pytest.raises(MaquetteError, match=r"not finite in torch\.float32"):
        paint(model)
