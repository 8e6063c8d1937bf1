"""Attention maps, compared with what scaled_dot_product_attention itself says of the same queries and keys."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_models import FLUX, SD1, SD3, SD35, random_state
from torch import Tensor

import maquette
from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import denoiser
from maquette.diffusion.prediction import V
from maquette.diffusion.process import Discrete
from maquette.engine import attention_maps
from maquette.engine.attention_maps import AttentionMaps, grid, probabilities, recorded
from maquette.engine.build import outline
from maquette.engine.words import Token, Words
from maquette.errors import MaquetteError
from maquette.models.flux import Flux
from maquette.models.mmdit import MMDiT
from maquette.models.unet import UNet
from maquette.nn.attention import attend

TEXT = 7  # tokens
NETWORKS = {"unet": (UNet, SD1), "mmdit": (MMDiT, SD3), "mmdit 3.5": (MMDiT, SD35), "flux": (Flux, FLUX)}
WORDS = Words((Token(2, "red apple", (0, 3)), Token(3, "red apple", (4, 6)), Token(5, "red apple", (6, 9))))
COLUMNS = {"red": [2], "apple": [3, 5]}
LEVEL, NEXT = Discrete.scaled_linear().at(700.0), Discrete.scaled_linear().at(300.0)

sdpa = F.scaled_dot_product_attention


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def asked_of_sdpa(q: Tensor, k: Tensor) -> Tensor:
    """The probabilities (B, heads, queries, keys): with the identity for values, they are what comes out."""
    return sdpa(q, k, torch.eye(k.shape[2]).expand(*k.shape[:2], -1, -1))


def told_of(words: Words, tokens: Tensor | None = None, **options: int) -> AttentionMaps:
    maps = AttentionMaps(**options)
    maps.tell(words, tokens)
    return maps


def build(name: str):
    kind, spec = NETWORKS[name]
    network = outline(kind, spec)
    network.load_state_dict(random_state(network, 0), assign=True)
    network.requires_grad_(False)
    told = Conditioning(randn(3, TEXT, spec.context), getattr(spec, "vector", None) and randn(3, spec.vector, seed=1))
    if name == "flux":
        told = Conditioning(told.tokens, told.vector, guidance=torch.full((3,), 3.5))
    return network, told, randn(3, spec.in_channels, 6, 10, seed=2)


@pytest.mark.parametrize("at_once", [1, 150, 2**22])
def test_probabilities_are_those_of_the_attention(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_maps, "AT_ONCE", at_once)
    q, k = 3 * randn(2, 5, 12, 8), 3 * randn(2, 5, 9, 8, seed=1)
    found = probabilities(q, k, range(9))
    assert torch.allclose(found, asked_of_sdpa(q, k).mean(1), atol=1e-6)
    assert torch.allclose(found.sum(-1), torch.ones(2, 12), atol=1e-6)
    assert torch.allclose(probabilities(q, k, [7, 2]), found[..., [7, 2]], atol=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_what_the_network_looked_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For two pictures, the first rows of a batch of three; each step and layer, then all of them together."""
    network, told, x = build(name)
    plain = denoiser(network, V)
    expected = [plain(x, level, told) for level in (LEVEL, NEXT)]
    asked = []

    def ask(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        if k.shape[2] in (TEXT, TEXT + 15):  # cross-attention, or jointly with 3 x 5 patches
            asked.append(asked_of_sdpa(q, k).mean(1)[:, TEXT * (q.shape == k.shape) :])
        return sdpa(q, k, v, **options)

    maps = told_of(WORDS, pictures=2)
    watched = maps.watch(plain, network)
    monkeypatch.setattr(F, "scaled_dot_product_attention", ask)
    assert all(torch.equal(watched(x, level, told), each) for level, each in zip((LEVEL, NEXT), expected, strict=True))
    assert len(maps) == 2
    assert maps.times == [700.0, 300.0]
    assert len(asked) == 2 * len(maps.layers)
    for index, shares in enumerate(asked):
        step, layer = divmod(index, len(maps.layers))
        for word, columns in COLUMNS.items():
            found = maps.of(1).at(word, step=step, layer=maps.layers[layer])
            assert found.shape in ((6, 10), (3, 5))
            assert torch.allclose(found.flatten(), shares[1][:, columns].sum(-1), atol=1e-6)
    size = max(maps.of(0).at("red", step=0, layer=layer).shape for layer in maps.layers)
    each = [maps.of(0).at("red", step=s, layer=layer)[None, None] for s in (0, 1) for layer in maps.layers]
    mean = sum(F.interpolate(one, size, mode="bilinear") for one in each)[0, 0] / len(each)
    assert torch.allclose(maps.of(0).at("red"), mean, atol=1e-6)
    heat = maps.of(0)["red"]
    assert torch.allclose(heat, (mean - mean.min()) / (mean.max() - mean.min()), atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_attention_is_as_before_afterwards(name: str) -> None:
    network, told, x = build(name)
    told_of(WORDS).watch(denoiser(network, V), network)(x, LEVEL, told)
    broken = told_of(WORDS).watch(denoiser(network, lambda *_: 1 / 0), network)
    with pytest.raises(AttributeError):
        broken(x, LEVEL, told)
    assert all(module.attend is attend for module in network.modules() if hasattr(module, "attend"))


def test_steps_of_one_level_are_one_and_batches_are_joined() -> None:
    network, told, x = build("unet")
    plain = denoiser(network, V)
    once, twice, other = told_of(WORDS), told_of(WORDS), told_of(WORDS)
    once.watch(plain, network)(x, LEVEL, told)
    other.watch(plain, network)(x.flip(0), LEVEL, told)
    ask = twice.watch(plain, network)
    ask(x, LEVEL, told)
    ask(x.flip(0), LEVEL, told)
    assert twice.times == [700.0]
    assert torch.allclose(twice.at("red"), (once.at("red") + other.at("red")) / 2, atol=1e-6)
    both = AttentionMaps.join([once, other])
    assert len(both) == 2
    assert torch.equal(both.of(1).at("apple"), other.at("apple"))
    assert not torch.equal(both.of(0).at("apple"), other.at("apple"))
    assert torch.equal(once.at("red", layer="up.3"), once.at("red", layer="up.3.transformer.blocks.0.attn2"))
    assert torch.equal(once.at("red", step=-1), once.at("red", step=0))
    for complain, words in (
        (lambda: both["red"], "maps of 2 pictures; take those of one by .of"),
        (lambda: both.of(2), "maps of 2 pictures, numbered from 0; got 2"),
        (lambda: once["pear"], "'pear' is not in the prompt; its words are red, apple"),
        (lambda: once.at("red", step=3), "at step 3 in layer None; there are 1 steps from 0, and the layers down.0"),
        (lambda: once.at("red", layer="dow"), "in layer dow"),
        (lambda: told_of(WORDS)["red"], "nothing was painted while attention was recorded"),
    ):
        with pytest.raises(MaquetteError, match=words):
            complain()


def test_prompts_are_told_from_one_another_by_their_tokens() -> None:
    """Two prompts and what is not wanted in one batch for two pictures; words of both, of one, at one step alone."""
    network, _, _ = build("unet")
    pears = Words((Token(1, "pear", (0, 4)), Token(4, "pear red", (5, 8))))
    tokens, x = randn(3, TEXT, 64), randn(2, 4, 6, 10, seed=1)
    first, second, unwanted = (Conditioning(each[None].repeat(2, 1, 1)) for each in tokens)
    maps = AttentionMaps(pictures=2)
    maps.tell(WORDS, first.tokens)
    maps.tell(pears, second.tokens[:1])
    ask = maps.watch(denoiser(network, V), network)
    ask(torch.cat([x] * 3), LEVEL, Conditioning.cat([unwanted, second, first]))
    ask(torch.cat([x] * 2), NEXT, Conditioning.cat([first, unwanted]))
    ask(x, LEVEL, unwanted)
    alone = {}
    for words, told in ((WORDS, first), (pears, second)):
        alone[words] = told_of(words, pictures=2)
        watched = alone[words].watch(denoiser(network, V), network)
        watched(x, LEVEL, told)
        if words is WORDS:
            watched(x, NEXT, told)
    assert maps.times == [700.0, 300.0]
    assert maps.words == ["red", "apple", "pear"]
    found = maps.of(1)
    assert torch.allclose(found.at("apple"), alone[WORDS].of(1).at("apple"), atol=1e-6)
    assert torch.allclose(found.at("pear"), alone[pears].of(1).at("pear"), atol=1e-6)
    both = (alone[WORDS].of(1).at("red", step=0) + alone[pears].of(1).at("red", step=0)) / 2
    assert torch.allclose(found.at("red", step=0), both, atol=1e-6)
    with pytest.raises(MaquetteError, match="'pear' was not told at step 1"):
        found.at("pear", step=1)


def test_memory_is_bounded_by_coarser_maps() -> None:
    network, told, x = build("unet")
    x = randn(3, 4, 16, 16)
    free, bound = told_of(WORDS), told_of(WORDS, memory=20_000)
    for maps in (free, bound):
        for level in (LEVEL, NEXT):
            maps.watch(denoiser(network, V), network)(x, level, told)

    def size(maps: AttentionMaps) -> int:
        return 4 * sum(seen.total.numel() for seen in maps._seen.values())

    assert size(bound) <= 20_000 < size(free)
    assert bound.at("red").shape == (8, 8)
    for layer in free.layers:
        assert torch.allclose(bound.at("red", layer=layer).mean(), free.at("red", layer=layer).mean(), atol=1e-6)


def test_grids() -> None:
    assert [grid(count, 7, 10) for count in (70, 20, 6, 2, 1)] == [(7, 10), (4, 5), (2, 3), (1, 2), (1, 1)]
    with pytest.raises(MaquetteError, match="12 places is no grid on a latent of 7 x 10"):
        grid(12, 7, 10)


def test_mini_looks_elsewhere_for_each_word() -> None:
    model = maquette.open("mini", device="cpu", dtype="float32")
    prompt = "a red apple to the left of a (blue cat:1.2)"
    plain, told = model.denoiser, model.condition([prompt])
    level, x = model.process.at(600.0), randn(1, *model.latent_shape(64, 64))
    with recorded(model, prompt) as maps, torch.no_grad():
        answer = model.denoiser(x, level, told)
    with torch.no_grad():
        assert torch.equal(answer, plain(x, level, told))
    assert model.denoiser is plain
    heats = [maps[word] for word in ("apple", "blue cat", "left")]
    assert all(heat.shape == (4, 4) and math.isclose(heat.max(), 1) and heat.min() == 0 for heat in heats)
    assert all((heats[i] - heats[j]).abs().max() > 0.1 for i, j in ((0, 1), (0, 2), (1, 2)))
