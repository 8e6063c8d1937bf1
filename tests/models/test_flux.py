from dataclasses import replace

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.models.flux import Flux, FluxSpec
from maquette.models.flux_names import DIALECTS, DIFFUSERS, ORIGINAL, spec_from_weights
from maquette.weights.dialect import read
from maquette.weights.view import InMemory

DEV = FluxSpec()
SCHNELL = replace(DEV, guidance=False)
SMALL = replace(DEV, width=256, heads=2, double=2, single=2, context=96, vector=48)
SPECS = {"dev": SMALL, "schnell": replace(SMALL, guidance=False), "fill": replace(SMALL, in_channels=96)}


def reference(spec: FluxSpec) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=4 * spec.in_channels,
        out_channels=4 * spec.out_channels,
        num_layers=spec.double,
        num_single_layers=spec.single,
        num_attention_heads=spec.heads,
        joint_attention_dim=spec.context,
        pooled_projection_dim=spec.vector,
        guidance_embeds=spec.guidance,
    )


@pytest.mark.parametrize("name", SPECS)
@torch.inference_mode()
def test_diffusers_gives_the_same(name, parity):
    spec = SPECS[name]
    theirs = reference(spec).eval()
    parity.randomise(theirs)
    view = InMemory(theirs.state_dict())
    assert spec_from_weights(view) == spec
    ours = Flux(spec)
    ours.load_state_dict(dict(DIFFUSERS.read(view, ours)))

    h, w = 6, 10
    x, tokens, vector = torch.randn(2, 16, h, w), torch.randn(2, 5, 96), torch.randn(2, 48)
    t, guidance = torch.tensor([0.9, 0.37]), torch.tensor([3.5, 2.0]) if spec.guidance else None
    concat = torch.randn(2, spec.in_channels - 16, h, w) if spec.in_channels > 16 else None
    packed = [FluxPipeline._pack_latents(part, 2, part.shape[1], h, w) for part in (x, concat) if part is not None]
    image_ids = FluxPipeline._prepare_latent_image_ids(2, h // 2, w // 2, "cpu", torch.float32)
    out = theirs(torch.cat(packed, dim=2), tokens, vector, t, image_ids, torch.zeros(5, 3), guidance).sample
    expected = FluxPipeline._unpack_latents(out, 8 * h, 8 * w, 8)
    parity.assert_equal(ours(x, t, Conditioning(tokens, vector, concat, guidance)), expected)


@pytest.mark.parametrize(("spec", "parameters", "tensors"), [
    (DEV, 11_901_408_320, 780),
    (SCHNELL, 11_891_178_560, 776),
])  # fmt: skip
def test_published_shapes(spec, parameters, tensors):
    with torch.device("meta"):
        network = Flux(spec)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert len(ORIGINAL.write(network.state_dict(), network)) == tensors
    for dialect in DIALECTS:
        assert spec_from_weights(dialect.write(network.state_dict(), network)) == spec


def test_names_go_there_and_back():
    """Ours to the original layout, from there to diffusers' by diffusers itself, and back to ours.

    Diffusers' converter knows the published width alone, but divides rows only: one column is enough.
    """
    with torch.device("meta"):
        network = Flux(replace(DEV, double=2, single=2))
    ours = {name: torch.randn(len(tensor), *[1] * (tensor.dim() - 1)) for name, tensor in network.state_dict().items()}
    original = ORIGINAL.write(ours, network)
    converted = convert_flux_transformer_checkpoint_to_diffusers(dict(original))
    back = read(InMemory(converted), DIFFUSERS.table(network))
    again = read(original, ORIGINAL.table(network))
    assert set(back) == set(ours)
    for key, tensor in ours.items():
        assert torch.equal(tensor, back[key]), key
        assert torch.equal(tensor, again[key]), key


def test_mistakes_are_told():
    network = Flux(SMALL)
    given = Conditioning(torch.randn(1, 5, 96), torch.randn(1, 48))
    with pytest.raises(MaquetteError, match=r"no `guidance`"):
        network(torch.randn(1, 16, 4, 6), 0.5, given)
    with torch.device("meta"):
        narrow = Flux(replace(SMALL, heads=4, axes=(16, 24, 24)))
    with pytest.raises(MaquetteError, match=r"heads of 64"):
        spec_from_weights(ORIGINAL.write(narrow.state_dict(), narrow))
