from dataclasses import replace

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.models.mmdit import MMDiT, MMDiTSpec
from maquette.models.mmdit_names import DIALECTS, DIFFUSERS, ORIGINAL, spec_from_weights
from maquette.weights.view import InMemory

MEDIUM = MMDiTSpec()
MEDIUM_35 = replace(MEDIUM, grid=384, qk_norm=True, dual=tuple(range(13)))
LARGE_35 = replace(MEDIUM, width=2432, layers=38, heads=38, qk_norm=True)
SMALL = replace(MEDIUM, width=128, heads=2, layers=3, context=96, vector=48, grid=10)
SPECS = {"sd3": SMALL, "sd3.5": replace(SMALL, qk_norm=True, dual=(0, 1))}


def reference(spec: MMDiTSpec) -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        in_channels=spec.in_channels,
        num_layers=spec.layers,
        num_attention_heads=spec.heads,
        joint_attention_dim=spec.context,
        caption_projection_dim=spec.width,
        pooled_projection_dim=spec.vector,
        pos_embed_max_size=spec.grid,
        dual_attention_layers=spec.dual,
        qk_norm="rms_norm" if spec.qk_norm else None,
    )


@pytest.mark.parametrize("name", SPECS)
@torch.inference_mode()
def test_diffusers_gives_the_same(name, parity):
    spec = SPECS[name]
    theirs = reference(spec).eval()
    parity.randomise(theirs)
    view = InMemory(theirs.state_dict())
    assert spec_from_weights(view) == spec
    ours = MMDiT(spec)
    ours.load_state_dict(dict(DIFFUSERS.read(view, ours)))

    x, tokens, vector = torch.randn(2, 16, 10, 14), torch.randn(2, 5, 96), torch.randn(2, 48)
    t = torch.tensor([0.9, 0.37])
    control = tuple(torch.randn(2, 35, 128) for _ in range(2))
    for residuals in ((), control):
        expected = theirs(x, tokens, vector, 1000 * t, block_controlnet_hidden_states=residuals or None).sample
        parity.assert_equal(ours(x, t, Conditioning(tokens, vector, control=residuals)), expected)


@pytest.mark.parametrize(("spec", "parameters", "tensors"), [
    (MEDIUM, 2_028_328_000, 491),
    (MEDIUM_35, 2_243_171_520, 665),
    (LARGE_35, 8_056_627_520, 923),
])  # fmt: skip
def test_published_shapes(spec, parameters, tensors):
    with torch.device("meta"):
        network = MMDiT(spec)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert len(ORIGINAL.write(network.state_dict(), network)) == tensors
    for dialect in DIALECTS:
        assert spec_from_weights(dialect.write(network.state_dict(), network)) == spec


@pytest.mark.parametrize("name", SPECS)
def test_names_go_there_and_back(name, parity):
    """Ours to the original layout, from there to diffusers' by diffusers itself, and back to ours."""
    network = MMDiT(SPECS[name])
    parity.randomise(network)
    original = ORIGINAL.write(network.state_dict(), network)
    converted = convert_sd3_transformer_checkpoint_to_diffusers(
        {f"model.diffusion_model.{key}": original[key] for key in original}
    )
    back = DIFFUSERS.read(InMemory(converted), network)
    assert set(back) == set(network.state_dict())
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, back[key]), key
        assert torch.equal(tensor, ORIGINAL.read(original, network)[key]), key


@torch.inference_mode()
def test_attention_is_one_call_over_text_and_picture():
    network = MMDiT(SMALL)
    seen = []
    for block in network.blocks:
        attend = block.attend
        block.attend = lambda q, k, v, attend=attend: seen.append(q.shape) or attend(q, k, v)
    network(torch.randn(1, 16, 4, 6), 0.5, Conditioning(torch.randn(1, 5, 96), torch.randn(1, 48)))
    assert seen == [(1, 2, 5 + 6, 64)] * 3


def test_mistakes_are_told():
    network = MMDiT(SMALL)
    given = Conditioning(torch.randn(1, 5, 96), torch.randn(1, 48))
    with pytest.raises(MaquetteError, match=r"no multiple"):
        network(torch.randn(1, 16, 5, 6), 0.5, given)
    with pytest.raises(MaquetteError, match=r"11 x 3 patches .* 10 x 10"):
        network(torch.randn(1, 16, 22, 6), 0.5, given)
    with pytest.raises(MaquetteError, match=r"no `vector`"):
        network(torch.randn(1, 16, 4, 6), 0.5, Conditioning(given.tokens))
