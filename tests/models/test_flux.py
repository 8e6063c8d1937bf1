from dataclasses import replace

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from transformer_references import compare, noise

from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.models import flux_config
from maquette.models.flux import Flux
from maquette.models.flux_names import DIALECTS, DIFFUSERS, ORIGINAL, spec_from_weights
from maquette.models.published import FLUX_CONTROL, FLUX_DEV, FLUX_FILL, FLUX_SCHNELL
from maquette.weights.dialect import read
from maquette.weights.view import InMemory

SMALL = replace(FLUX_DEV, width=256, heads=2, double=2, single=2, context=96, vector=48)
SPECS = {"dev": SMALL, "schnell": replace(SMALL, guidance=False), "fill": replace(SMALL, in_channels=96)}


@pytest.mark.parametrize("name", SPECS)
def test_diffusers_gives_the_same(name):
    assert max(compare(SPECS[name]).values()) <= 1e-5


@pytest.mark.parametrize(("spec", "parameters", "tensors"), [
    (FLUX_DEV, 11_901_408_320, 780),
    (FLUX_SCHNELL, 11_891_178_560, 776),
    (FLUX_FILL, 11_901_408_320 + 320 * 3072, 780),
    (FLUX_CONTROL, 11_901_408_320 + 64 * 3072, 780),
])  # fmt: skip
def test_published_shapes(spec, parameters, tensors):
    with torch.device("meta"):
        network = Flux(spec)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert len(ORIGINAL.write(network.state_dict(), network)) == tensors
    for dialect in DIALECTS:
        assert spec_from_weights(dialect.write(network.state_dict(), network)) == spec
    assert flux_config.from_config(flux_config.to_config(spec)) == spec


def test_names_go_there_and_back():
    """Ours to the original layout, from there to diffusers' by diffusers itself, and back to ours.

    Diffusers' converter knows the published width alone, but divides rows only: one column is enough.
    """
    with torch.device("meta"):
        network = Flux(replace(FLUX_DEV, double=2, single=2))
    ours = {
        name: noise(len(tensor), *[1] * (tensor.ndim - 1), seed=seed)
        for seed, (name, tensor) in enumerate(network.state_dict().items())
    }
    original = ORIGINAL.write(ours, network)
    converted = InMemory(convert_flux_transformer_checkpoint_to_diffusers(dict(original)))
    for dialect, file in ((ORIGINAL, original), (DIFFUSERS, converted)):
        back = read(file, dialect.table(network))
        assert set(back) == set(ours)
        for key, tensor in ours.items():
            assert torch.equal(tensor, back[key]), key


@torch.no_grad()
def test_blocks_run_through_the_seam():
    network = Flux(SMALL)
    seen = []
    run = network.run
    network.run = lambda block, *args: seen.append(block) or run(block, *args)
    network(noise(1, 16, 4, 6), 0.5, Conditioning(noise(1, 5, 96), noise(1, 48), guidance=torch.tensor([3.5])))
    assert seen == [*network.double_blocks, *network.single_blocks]


def test_mistakes_are_told():
    network = Flux(SMALL)
    with pytest.raises(MaquetteError, match=r"no `guidance`"):
        network(noise(1, 16, 4, 6), 0.5, Conditioning(noise(1, 5, 96), noise(1, 48)))
    with torch.device("meta"):
        narrow = Flux(replace(SMALL, heads=4, axes=(16, 24, 24)))
    with pytest.raises(MaquetteError, match=r"heads of 64"):
        spec_from_weights(ORIGINAL.write(narrow.state_dict(), narrow))
    with pytest.raises(MaquetteError, match=r"sum to the width of a head, 128"):
        flux_config.from_config({**flux_config.to_config(SMALL), "axes_dims_rope": [16, 24, 24]})
