"""Step caching, compared with networks that are computed whole, or by hand from their parts."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small_models import DIT, FLUX, SD1, SD3, SDXL, random_state, write_original
from torch import Tensor

import maquette
from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Denoiser, denoiser
from maquette.diffusion.prediction import SAMPLE
from maquette.diffusion.process import Level
from maquette.engine.build import outline
from maquette.engine.cache import SLOPE, cached
from maquette.errors import MaquetteError
from maquette.models.dit import DiT
from maquette.models.flux import Flux
from maquette.models.mmdit import MMDiT
from maquette.models.unet import UNet
from maquette.models.vae import VAE, VAESpec
from maquette.nn.network import call
from maquette.nn.patch import unpatchify

NETWORKS = {
    "unet": (UNet, SD1),
    "sdxl": (UNet, SDXL),
    "mmdit": (MMDiT, replace(SD3, layers=3)),
    "flux": (Flux, replace(FLUX, single=2)),
    "dit": (DiT, replace(DIT, layers=3, learned_sigma=False)),
}
TIMES = (0.9, 0.8, 0.6)
ALWAYS, NEVER = 1e9, 0.0  # the depths are remembered


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(name: str):
    kind, spec = NETWORKS[name]
    network = outline(kind, spec)
    network.load_state_dict(random_state(network, 0), assign=True)
    return network.requires_grad_(False)


def told(name: str, seed: int = 0) -> Conditioning:
    spec = NETWORKS[name][1]
    vector = {"dit": 11}.get(name, getattr(spec, "vector", None))
    return Conditioning(
        None if name == "dit" else randn(2, 7, spec.context, seed=seed),
        None if vector is None else randn(2, vector, seed=seed + 1),
        guidance=torch.full((2,), 3.5),
    )


def at(time: float) -> Level:
    return Level(time, 1.0 - time, time)


def ask(denoise: Denoiser, name: str, said: Conditioning, times: tuple[float, ...] = TIMES, seed: int = 5):
    channels = {"mmdit": 16, "flux": 16}.get(name, 4)
    return [denoise(randn(2, channels, 8, 8, seed=seed + k), at(time), said) for k, time in enumerate(times)]


def exact(network) -> Denoiser:
    return denoiser(network, SAMPLE)


def counting(network) -> Counter:
    """How often each block runs from now on."""
    count: Counter = Counter()

    def run(block, *args):
        count[block] += 1
        return block(*args)

    network.run = run
    return count


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_always_computed_is_exact_bit_for_bit(name: str) -> None:
    network, said = build(name), told(name)
    found = ask(cached(exact(network), network, NEVER), name, said)
    assert all(torch.equal(*pair) for pair in zip(found, ask(exact(network), name, said), strict=True))
    assert network.run is call


def controls(name: str) -> dict[str, tuple[Tensor, ...]]:
    """What a ControlNet or an adapter says."""
    if name == "unet":
        sides = (8, 8, 8, 4, 4, 4)
        widths = (32, 32, 32, 32, 64, 64)
        skips = tuple(randn(2, w, s, s, seed=k) for k, (w, s) in enumerate(zip(widths, sides, strict=True)))
        return {"control": (*skips, randn(2, 64, 4, 4)), "features": (randn(2, 32, 8, 8, seed=8),)}
    patches = tuple(randn(2, 16, 128, seed=k) for k in range(2))
    return {"control": patches, "features": patches} if name == "flux" else {"control": patches}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("controlled", [False, True])
def test_what_does_not_change_may_be_remembered(name: str, controlled: bool) -> None:
    """Blind to time, and shown the same picture, a network says again what it said."""
    if controlled and name in ("sdxl", "dit"):
        pytest.skip("the same code as the others', or no controls")
    network = build(name)
    for parameter in network.time_embed.parameters():
        parameter.zero_()
    said = replace(told(name), **controls(name)) if controlled else told(name)
    count, x = counting(network), randn(2, 16 if name in ("mmdit", "flux") else 4, 8, 8)
    denoise, wanted = cached(exact(network), network, ALWAYS), exact(network)(x, at(0.5), said)
    count.clear()
    for k, time in enumerate(TIMES):
        found = denoise(x, at(time), said)
        assert torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max())), k
    assert Counter(count.values()) == {
        2: len(count) - 1 - (name in ("unet", "sdxl")),
        3: 1 + (name in ("unet", "sdxl")),
    }


def record(network, blocks) -> dict:
    """The last two answers of some blocks, from now on."""
    seen: dict = {block: [] for block in blocks}

    def run(block, *args):
        said = block(*args)
        if block in seen:
            seen[block].append(said[1] if isinstance(said, tuple) else said)
        return said

    network.run = run
    return seen


def along(answers: list[Tensor]) -> Tensor:
    """Half of the slope further, by hand."""
    (a, b), (first, second, third) = answers[:2], TIMES
    return b + SLOPE * (b - a) / (second - first) * (third - second)


def test_a_unet_computes_its_outer_stage_on_what_the_deep_ones_said() -> None:
    network, said = build("unet"), told("unet")
    seen = record(network, [network.up[-2]])
    found = ask(cached(exact(network), network, ALWAYS), "unet", said)[2]
    skip, emb = network.conv_in(randn(2, 4, 8, 8, seed=7)), network.embed(torch.full((2,), TIMES[2]), said)
    x = torch.cat([along(seen[network.up[-2]]), skip], dim=1)
    x = network.up[-1](x, emb, said.tokens)
    assert torch.allclose(found, network.conv_out(F.silu(network.norm_out(x))), atol=1e-5)


@pytest.mark.parametrize("name", ["mmdit", "dit"])
def test_a_transformer_adds_again_what_its_later_blocks_added(name: str) -> None:
    network, said = build(name), told(name)
    seen = record(network, [network.blocks[0], network.blocks[-1]])
    found = ask(cached(exact(network), network, ALWAYS), name, said)[2]
    first, last = (seen[network.blocks[k]] for k in (0, -1))
    tokens = first[2] + along([b - a for a, b in zip(first, last, strict=False)])
    emb = network.embed(torch.full((2,), TIMES[2]), said)
    wanted = unpatchify(network.final(tokens, emb), 4, 4, network.spec.patch)
    assert torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()))


def test_more_outer_stages_are_nearer_to_exact() -> None:
    network, said = build("unet"), told("unet")
    wanted = ask(exact(network), "unet", said)[2]
    errors = [
        float((ask(cached(exact(network), network, ALWAYS, outer=outer), "unet", said)[2] - wanted).square().mean())
        for outer in range(1, len(network.up))
    ]
    assert errors[-1] < errors[0]


def test_the_depths_are_computed_when_changes_add_up() -> None:
    network, said, x = build("dit"), told("dit"), randn(2, 4, 8, 8)
    for threshold, computed in ((1.5, 5), (2.5, 4), (ALWAYS, 2)):
        count: Counter = Counter()

        def run(block, *args, count=count):
            count[block] += 1
            answer = block(*args)
            # Each answer of the first block is twice the one before: a relative change of 1.
            return torch.full_like(answer, 2.0 ** count[block]) if block is network.blocks[0] else answer

        network.run = run
        denoise = cached(exact(network), network, threshold)
        for k in range(8):
            denoise(x, at(0.9 - 0.1 * k), said)
        assert count[network.blocks[-1]] == computed


def test_pictures_and_prompts_do_not_mix() -> None:
    network, one, other = build("unet"), told("unet"), told("unet", seed=9)
    alone = ask(cached(exact(network), network, ALWAYS), "unet", one)
    denoise = cached(exact(network), network, ALWAYS)
    mixed = []
    for k, time in enumerate(TIMES):
        mixed += ask(denoise, "unet", one, (time,), seed=5 + k)
        ask(denoise, "unet", other, (time,), seed=20 + k)
    assert all(torch.equal(*pair) for pair in zip(mixed, alone, strict=True))


def test_streaming_that_begins_in_between_goes_on() -> None:
    network, said, streamed = build("unet"), told("unet"), []
    plain = exact(network)
    wanted = ask(plain, "unet", said)

    def read(run, block, *args):
        streamed.append(block)
        return run(block, *args)

    def begin(x: Tensor, level: Level, conditioning: Conditioning) -> Tensor:
        if level.t == TIMES[1]:
            network.run = partial(read, network.run)
        return plain(x, level, conditioning)

    found = ask(cached(begin, network, NEVER), "unet", said)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    assert len(streamed) == 2 * (len(network.down) + len(network.middle) + len(network.up))


def test_an_error_leaves_the_network_as_it_was() -> None:
    network = build("unet")
    with pytest.raises(RuntimeError):
        cached(exact(network), network, ALWAYS)(randn(2, 9, 8, 8), at(0.5), told("unet"))
    assert network.run is call


@pytest.mark.parametrize(
    ("kind", "spec", "outer", "message"),
    [
        (VAE, VAESpec(widths=(32, 32), res_blocks=1), 1, "a VAE cannot be divided"),
        (UNet, SD1, 6, "got 6 outer stages; this U-Net's way up has 6: give 1 to 5"),
        (DiT, replace(DIT, layers=1), 1, "a single block"),
    ],
)
def test_what_cannot_be_divided_is_refused(kind, spec, outer: int, message: str) -> None:
    with pytest.raises(MaquetteError, match=message):
        cached(lambda x, level, said: x, outline(kind, spec), 0.5, outer=outer)


def test_a_request_caches_each_of_its_pictures_anew(tmp_path) -> None:
    model = maquette.open(write_original("sd1", tmp_path), device="cpu", dtype="float32")
    fields = {"prompt": "a red apple", "seed": 3, "steps": 5, "width": 64, "height": 64}
    plain, near = (model.paint(**fields, speed={"cache": cache}) for cache in (1e-9, 100.0))
    assert plain.latent_hashes == model.paint(**fields).latent_hashes
    assert plain.approximate
    assert near.latent_hashes != plain.latent_hashes
    both = model.paint(**fields | {"seed": 2, "count": 2}, speed={"cache": 100.0})
    assert both.latent_hashes[1] == near.latent_hashes[0]
