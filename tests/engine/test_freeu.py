"""FreeU: its filter against diffusers', its places and strengths by hand."""

import pytest
import torch
from diffusers.utils.torch_utils import fourier_filter
from small_models import SMALL, random_state

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import denoiser
from maquette.diffusion.prediction import SAMPLE
from maquette.diffusion.process import Level
from maquette.engine.build import outline
from maquette.engine.freeu import freeu, strengthened, weakened
from maquette.errors import MaquetteError
from maquette.models.dit import DiT, DiTSpec
from maquette.models.unet import UNet
from maquette.nn.network import call

LEVEL = Level(500.0, 0.5, 0.5)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(16, 16), (7, 10), (1, 4)])
def test_low_frequencies_are_weakened_as_in_diffusers(size: tuple[int, int]) -> None:
    x = randn(2, 3, *size)
    torch.testing.assert_close(weakened(x, 0.2), fourier_filter(x, threshold=1, scale=0.2))


def test_half_of_the_channels_are_strengthened_where_their_mean_is_large() -> None:
    x = torch.stack([torch.full((4,), 2.0), torch.tensor([0.0, 1.0, 2.0, 4.0])]).reshape(1, 2, 2, 2)
    found = strengthened(x, 1.4)
    assert torch.equal(found[:, 1], x[:, 1])
    torch.testing.assert_close(found[0, 0].flatten(), 2.0 * torch.tensor([1.0, 1.1, 1.2, 1.4]))
    assert torch.equal(strengthened(torch.ones(1, 2, 2, 2), 1.4), torch.ones(1, 2, 2, 2)), "nothing stands out"


@torch.no_grad()
def test_it_acts_where_the_way_up_is_widest() -> None:
    spec = SMALL["sd1"].parts["denoiser"][1]
    network = outline(UNet, spec)
    network.load_state_dict(random_state(network, 0), assign=True)
    seen: list[tuple[int, torch.Tensor]] = []

    def run(block, x, *rest):
        if block in {*network.up}:
            seen.append((x.shape[1], x))
        return block(x, *rest)

    plain = denoiser(network, SAMPLE)
    x, told = randn(1, 4, 8, 8), Conditioning(randn(1, 7, spec.context))
    usual = plain(x, LEVEL, told)
    torch.testing.assert_close(freeu(plain, network, (1.0, 1.0), (1.0, 1.0))(x, LEVEL, told), usual)
    assert network.run is call
    network.run = run
    plain(x, LEVEL, told)
    before, seen[:] = list(seen), []
    found = freeu(plain, network, (1.4, 1.0), (1.0, 1.0))(x, LEVEL, told)
    assert not torch.allclose(found, usual)
    widest, skip = max(spec.widths), network.skips[-1]
    torch.testing.assert_close(
        seen[0][1], torch.cat([strengthened(before[0][1][:, :widest], 1.4), before[0][1][:, -skip:]], dim=1)
    )


def test_it_is_for_unets() -> None:
    dit = DiT(DiTSpec(size=8, width=64, layers=1, heads=2))
    with pytest.raises(MaquetteError, match="only a U-Net has a way up with skips, not this DiT"):
        freeu(denoiser(dit, SAMPLE), dit, (1.3, 1.4), (0.9, 0.2))
