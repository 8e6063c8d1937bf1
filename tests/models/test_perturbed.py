"""The worse answers that guidance pushes away from, against diffusers on the same weights."""

from dataclasses import replace

import pytest
import references
import torch
import transformer_references
from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0, PAGJointAttnProcessor2_0
from references import SMALL_SD1, noise, relative_error
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import denoiser
from maquette.diffusion.prediction import SAMPLE
from maquette.diffusion.process import Level
from maquette.engine.perturb import leaving_out, looking_nowhere
from maquette.errors import MaquetteError
from maquette.models.dit import DiT, DiTSpec
from maquette.models.flux import Flux, FluxSpec
from maquette.models.mmdit import MMDiT, MMDiTSpec
from maquette.models.unet import UNet
from maquette.nn.network import call

SMALL_MMDIT = MMDiTSpec(width=128, layers=4, heads=2, context=48, vector=32, grid=16, qk_norm=True)
SMALL_FLUX = FluxSpec(width=128, heads=2, double=2, single=2, context=48, vector=32, axes=(16, 24, 24))
SMALL_DIT = DiTSpec(size=8, width=64, layers=3, heads=2, classes=5, learned_sigma=False)


def mmdit() -> tuple[MMDiT, nn.Module]:
    network = transformer_references.randomise(MMDiT(SMALL_MMDIT))
    return network, transformer_references.mmdit_reference(network)


def told(rows: int, vector: int | None = None) -> Conditioning:
    return Conditioning(noise(rows, 7, 48, seed=2), None if vector is None else noise(rows, vector, seed=3))


def doubled(x: Tensor) -> Tensor:
    """diffusers perturbs the second half of a batch."""
    return torch.cat([x, x])


@torch.no_grad()
def test_a_unet_whose_middle_looks_nowhere_is_that_of_diffusers() -> None:
    network = references.randomise(UNet(SMALL_SD1))
    reference = references.unet_reference(network)
    for name, part in reference.named_modules():
        if name.startswith("mid_block") and name.endswith("attn1"):
            part.set_processor(PAGIdentitySelfAttnProcessor2_0())
    x, said = noise(2, 4, 16, 16), told(2)
    wanted = reference(doubled(x), 500.0, doubled(said.tokens)).sample
    plain = denoiser(network, SAMPLE)
    level = Level(500.0, 0.5, 0.5)
    assert relative_error(plain(x, level, said), wanted[:2]) < 1e-5
    assert relative_error(looking_nowhere(plain, network)(x, level, said), wanted[2:]) < 1e-5
    assert relative_error(wanted[:2], wanted[2:]) > 1e-3
    assert relative_error(plain(x, level, said), wanted[:2]) < 1e-5, "the network looks around again"


@torch.no_grad()
def test_joint_attention_that_looks_at_the_text_alone_is_that_of_diffusers() -> None:
    network, reference = mmdit()
    for index in (1, 2):
        reference.transformer_blocks[index].attn.set_processor(PAGJointAttnProcessor2_0())
        reference.transformer_blocks[index].attn.norm_q = None  # which that processor leaves out
    plain, x, said = denoiser(network, SAMPLE), noise(2, 16, 8, 8), told(2, 32)
    for index in (1, 2):
        for stream in (network.blocks[index].text, network.blocks[index].image):
            stream.qkv.norm = None
    wanted = reference(doubled(x), doubled(said.tokens), doubled(said.vector), torch.full((4,), 500.0)).sample
    weak = looking_nowhere(plain, network, ["blocks.1", "blocks.2"])
    assert relative_error(weak(x, Level(0.5, 0.5, 0.5), said), wanted[2:]) < 1e-5
    assert relative_error(wanted[:2], wanted[2:]) > 1e-3


@torch.no_grad()
def test_layers_are_left_out_as_in_diffusers() -> None:
    network, reference = mmdit()
    plain, x, said = denoiser(network, SAMPLE), noise(2, 16, 8, 8), told(2, 32)
    wanted = reference(x, said.tokens, said.vector, torch.full((2,), 500.0), skip_layers=[1, 2]).sample
    assert relative_error(leaving_out(plain, network, [1, 2])(x, Level(0.5, 0.5, 0.5), said), wanted) < 1e-5
    assert network.run is call


@torch.no_grad()
@pytest.mark.parametrize("layers", [[1], [0, 3]])
def test_layers_of_flux_are_counted_through_both_kinds(layers: list[int]) -> None:
    network = transformer_references.randomise(Flux(SMALL_FLUX))
    plain, x = denoiser(network, SAMPLE), noise(1, 16, 8, 8)
    said = replace(told(1, 32), guidance=torch.full((1,), 3.5))
    found = leaving_out(plain, network, layers)(x, Level(0.5, 0.5, 0.5), said)
    network.double_blocks = nn.ModuleList([each for k, each in enumerate(network.double_blocks) if k not in layers])
    network.single_blocks = nn.ModuleList([each for k, each in enumerate(network.single_blocks, 2) if k not in layers])
    assert torch.equal(found, plain(x, Level(0.5, 0.5, 0.5), said))


@torch.no_grad()
def test_what_a_network_has_not_is_said() -> None:
    unet, dit = UNet(SMALL_SD1), DiT(SMALL_DIT)
    plain = denoiser(unet, SAMPLE)
    with pytest.raises(MaquetteError, match=r"pag: no layer middel .* are in down\.0, .*middle\.0"):
        looking_nowhere(plain, unet, ["middel"])
    with pytest.raises(MaquetteError, match="slg: only transformers"):
        leaving_out(plain, unet, [1])
    with pytest.raises(MaquetteError, match=r"pag: no layer upp\.3 of"):
        looking_nowhere(plain, unet, ["middle", "upp.3"])
    with pytest.raises(MaquetteError, match="slg: there is no layer 7; this network has 0 to 2"):
        leaving_out(plain, dit, [0, 7])
