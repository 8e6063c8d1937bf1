"""The first stage in tiles, compared with the whole picture at once."""

import pytest
import torch
from small_models import random_state
from torch import nn

from maquette.engine import tiling
from maquette.engine.tiling import in_tiles
from maquette.models.vae import VAE, VAESpec
from maquette.models.vq import VQ, VQSpec
from maquette.nn import pyramid
from maquette.nn.pyramid import SpatialAttention

SPECS = {
    "kl": VAESpec(widths=(16, 16, 32), res_blocks=1, groups=4),
    "attention above": VAESpec(widths=(16, 16, 32), res_blocks=1, groups=4, attention=(1,)),
    "vq": VQSpec(widths=(16, 32), res_blocks=1, groups=4, codes=20),
}


def first_stage(name: str):
    spec = SPECS[name]
    network = (VQ if isinstance(spec, VQSpec) else VAE)(spec)
    network.load_state_dict(random_state(network, seed=1))
    return network.eval().requires_grad_(False)


def picture(height: int, width: int) -> torch.Tensor:
    """Half of it nearly plain, half of it rough, so that no part speaks for the whole."""
    noise = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    noise[..., : width // 2] *= 0.05
    return (noise + torch.linspace(-1, 1, height)[:, None]).clamp(-1, 1)


@pytest.mark.parametrize("kept", [tiling.KEPT, 0])
@pytest.mark.parametrize("name", SPECS)
def test_tiles_give_the_whole_picture(name: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference in the norms' moments, or a halo that is too small, would show as seams of many times as much."""
    monkeypatch.setattr(tiling, "KEPT", kept)
    network, x = first_stage(name), picture(64, 96)
    encode = (lambda x: network.encode(x).mean) if name != "vq" else network.encode
    whole_z = encode(x)
    whole_x = network.decode(whole_z)
    with in_tiles(network, side=12):
        tiled_z, tiled_x = encode(x), network.decode(whole_z)
    assert (tiled_z - whole_z).abs().max() < 0.02 * whole_z.std()
    assert (tiled_x - whole_x).abs().max() < 2 / 127.5
    assert torch.equal(network.decode(whole_z), whole_x), "untiled again afterwards"


def test_few_layers_at_a_time_agree_sooner_and_overlap_by_less(monkeypatch: pytest.MonkeyPatch) -> None:
    network, numbers = first_stage("kl"), []
    run = network.decoder.run

    def count(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        numbers[-1] += x.numel()
        return run(block, x)

    network.decoder.run = count
    z = torch.randn(1, 4, 48, 48, generator=torch.Generator().manual_seed(0))
    for kept in (tiling.KEPT, 0):
        monkeypatch.setattr(tiling, "KEPT", kept)
        numbers.append(0)
        with in_tiles(network, side=12):
            network.decode(z)
    assert numbers[0] < 0.75 * numbers[1]


@pytest.mark.parametrize("kept", [tiling.KEPT, 0])
def test_tiles_are_computed_one_at_a_time(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No block of high resolution sees more than a tile and its halo."""
    monkeypatch.setattr(tiling, "KEPT", kept)
    network, sizes = first_stage("kl"), []
    run = network.decoder.run
    network.decoder.run = lambda block, x: sizes.append(x.shape[0] * x.shape[2] * x.shape[3]) or run(block, x)
    z = torch.randn(1, 4, 32, 48, generator=torch.Generator().manual_seed(0))
    with in_tiles(network, side=8):
        network.decode(z)
    tile = (8 + 2 * 6) * 4
    assert max(sizes) <= tile**2 < 32 * 48 * 16 / 2


def test_sides_that_cannot_be_halved_are_computed_whole() -> None:
    network, x = first_stage("kl"), picture(66, 64)
    whole = network.encode(x).mean
    with in_tiles(network, side=8):
        assert torch.allclose(network.encode(x).mean, whole, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_many_places_attend_strip_by_strip(layout: torch.memory_format, monkeypatch) -> None:
    """The same as all at once, which is how few places do."""
    block = SpatialAttention(32, 4, heads=2).requires_grad_(False)
    x = torch.randn(2, 32, 12, 9, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    lengths, attend = [], block.attention.attend
    block.attention.attend = lambda q, k, v: lengths.append(q.shape[2]) or attend(q, k, v)
    with torch.no_grad():
        whole = block(x)
        monkeypatch.setattr(pyramid, "MANY", 50)
        assert torch.allclose(block(x), whole, atol=1e-6)
    assert lengths == [108, 50, 50, 8]
