from dataclasses import replace

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from transformer_references import compare, noise, randomise

from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.models import mmdit_config
from maquette.models.mmdit import MMDiT
from maquette.models.mmdit_names import DIALECTS, DIFFUSERS, ORIGINAL, spec_from_weights
from maquette.models.published import SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM
from maquette.weights.view import InMemory

SMALL = replace(SD3_MEDIUM, width=128, heads=2, layers=3, context=96, vector=48, grid=10)
SPECS = {"sd3": SMALL, "sd3.5": replace(SMALL, qk_norm=True, dual=(0, 1))}
GIVEN = Conditioning(noise(1, 5, 96), noise(1, 48))


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("name", SPECS)
def test_diffusers_gives_the_same(name, control):
    assert max(compare(SPECS[name], control=control).values()) <= 1e-5


@pytest.mark.parametrize(("spec", "parameters", "tensors"), [
    (SD3_MEDIUM, 2_028_328_000, 491),
    (SD35_MEDIUM, 2_243_171_520, 665),
    (SD35_LARGE, 8_056_627_520, 923),
])  # fmt: skip
def test_published_shapes(spec, parameters, tensors):
    with torch.device("meta"):
        network = MMDiT(spec)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert len(ORIGINAL.write(network.state_dict(), network)) == tensors
    for dialect in DIALECTS:
        assert spec_from_weights(dialect.write(network.state_dict(), network)) == spec
    assert mmdit_config.from_config(mmdit_config.to_config(spec)) == spec


@pytest.mark.parametrize("name", SPECS)
def test_names_go_there_and_back(name):
    """Ours to the original layout, from there to diffusers' by diffusers itself, and back to ours."""
    network = randomise(MMDiT(SPECS[name]))
    original = ORIGINAL.write(network.state_dict(), network)
    converted = convert_sd3_transformer_checkpoint_to_diffusers(
        {f"model.diffusion_model.{key}": original[key] for key in original}
    )
    back, again = DIFFUSERS.read(InMemory(converted), network), ORIGINAL.read(original, network)
    assert set(back) == set(network.state_dict())
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, back[key]), key
        assert torch.equal(tensor, again[key]), key


@torch.no_grad()
def test_attention_is_one_call_over_text_and_picture():
    network = MMDiT(SMALL)
    seen = []
    for block in network.blocks:
        attend = block.attend
        block.attend = lambda q, k, v, attend=attend: seen.append(q.shape) or attend(q, k, v)
    network(noise(1, 16, 4, 6), 0.5, GIVEN)
    assert seen == [(1, 2, 5 + 6, 64)] * 3


@torch.no_grad()
def test_a_block_can_be_left_out():
    """`run` may give back its first two arguments: what skip-layer guidance does."""
    network, shorter = randomise(MMDiT(SMALL)), randomise(MMDiT(SMALL))
    del shorter.blocks[1]
    run = network.run
    network.run = lambda block, *args: args[:2] if block is network.blocks[1] else run(block, *args)
    x = noise(1, 16, 4, 6)
    assert torch.equal(network(x, 0.5, GIVEN), shorter(x, 0.5, GIVEN))


def test_mistakes_are_told():
    network = MMDiT(SMALL)
    with pytest.raises(MaquetteError, match=r"5 x 6 .* no multiple"):
        network(noise(1, 16, 5, 6), 0.5, GIVEN)
    with pytest.raises(MaquetteError, match=r"11 x 3 patches .* 10 x 10"):
        network(noise(1, 16, 22, 6), 0.5, GIVEN)
    with pytest.raises(MaquetteError, match=r"no `vector`"):
        network(noise(1, 16, 4, 6), 0.5, Conditioning(GIVEN.tokens))
    with pytest.raises(MaquetteError, match=r"qk_norm"):
        mmdit_config.from_config({**mmdit_config.to_config(SMALL), "qk_norm": "layer_norm"})
