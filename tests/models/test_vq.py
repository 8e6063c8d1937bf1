import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import VQModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from references import noise, randomise, relative_error

from maquette.errors import MaquetteError
from maquette.models import published, vq_config
from maquette.models.vq import BETA, VQ, Quantiser, VQSpec, usage
from maquette.models.vq_config import VQConfig, from_config, to_config
from maquette.models.vq_names import DIALECTS, DIFFUSERS, ORIGINAL, spec_from_weights
from maquette.weights.view import InMemory

SMALL = VQSpec(widths=(32, 64), res_blocks=1, groups=8, codes=50)
SPECS = {
    "f2": SMALL,
    "f4, attention at two levels": replace(SMALL, widths=(32, 32, 64), attention=(1, 2)),
    "no attention": replace(SMALL, middle_attention=False),
    "f32": replace(SMALL, channels=4, widths=(32,) * 6, attention=(5,)),
}


def reference(network: VQ) -> VQModel:
    model = VQModel.from_config(to_config(VQConfig(network.spec)))
    model.load_state_dict(dict(DIFFUSERS.write(network.state_dict(), network)), assign=True)
    return model.eval()


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_diffusers_gives_the_same(name):
    spec = SPECS[name]
    network = randomise(VQ(spec))
    theirs, x = reference(network), noise(2, 3, 64, 32).clamp(-1, 1)
    z, latents = network.encode(x), theirs.encode(x).latents
    assert z.shape == (2, spec.channels, 64 // spec.factor, 32 // spec.factor)
    assert relative_error(z, latents) <= 1e-5
    far = 0.1 * noise(*z.shape)
    assert relative_error(network.decode(far), theirs.decode(far).sample) <= 1e-5
    assert torch.equal(network.quantiser(far).indices.flatten(), theirs.quantize(far)[2][2])


@pytest.mark.parametrize("name", [name for name in dir(published) if name.startswith("VQ_") or name == "VQGAN_F16"])
def test_published_shapes(name):
    spec = getattr(published, name)
    with torch.device("meta"):
        network = VQ(spec)
        theirs = VQModel.from_config(to_config(VQConfig(spec)))
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    written = DIFFUSERS.write(network.state_dict(), network)
    assert {key: written.shape(key) for key in written} == shapes
    for dialect in DIALECTS:
        assert spec_from_weights(dialect.write(network.state_dict(), network)) == spec
    assert from_config(to_config(VQConfig(spec))).spec == spec


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("name", SPECS)
def test_names_go_there_and_back(name, dialect):
    network = randomise(VQ(SPECS[name]))
    back = dialect.read(dialect.write(network.state_dict(), network), network)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, back[key]), key


def test_diffusers_reads_the_original_names_so():
    """Its converter, made for the KL autoencoder, knows no attention in levels and no codebook."""
    network = randomise(VQ(SMALL))
    original = ORIGINAL.write(network.state_dict(), network)
    converted = convert_ldm_vae_checkpoint(dict(original), to_config(VQConfig(SMALL)))
    converted |= {key: original[key] for key in original if key.startswith("quantize.")}
    back = DIFFUSERS.read(InMemory(converted), network)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, back[key]), key


def test_the_gradient_goes_straight_through():
    """van den Oord et al. 2017, equation 3: codes learn from the first loss alone, the encoder from the second."""
    quantiser = Quantiser(50, 3)
    torch.nn.init.normal_(quantiser.codebook.weight)
    z = noise(2, 3, 4, 4).requires_grad_()
    quantised = quantiser(z)
    codes = quantiser.lookup(quantised.indices)
    assert torch.allclose(quantised.z, codes)
    weights = noise(2, 3, 4, 4, seed=2)
    (through,) = torch.autograd.grad((quantised.z * weights).sum(), z, retain_graph=True)
    assert torch.equal(through, weights)
    to_z, to_codes = torch.autograd.grad(quantised.loss.sum(), [z, quantiser.codebook.weight])
    each = z[0].numel()
    assert torch.allclose(to_z, BETA * 2 * (z - codes) / each)
    pull = (2 * (codes - z) / each).permute(0, 2, 3, 1).flatten(0, 2)
    places = F.one_hot(quantised.indices.flatten(), 50).to(pull)
    assert torch.allclose(to_codes, places.T @ pull, atol=1e-6)


def test_a_step_lowers_the_loss():
    torch.manual_seed(0)
    network = VQ(SMALL)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    x = noise(2, 3, 16, 16).clamp(-1, 1)
    losses = []
    for _ in range(6):
        picture, quantised = network(x)
        loss = (picture - x).abs().mean() + quantised.loss.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_usage():
    even, one = torch.arange(8).repeat(3), torch.zeros(2, 4, 4, dtype=torch.int64)
    assert usage(even, 8) == (pytest.approx(8), 1)
    assert usage(even, 16) == (pytest.approx(8), 0.5)
    assert usage(one, 8) == (pytest.approx(1), pytest.approx(1 / 8))
    skewed = usage(torch.tensor([0, 0, 0, 1]), 2).perplexity
    assert skewed == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_mistakes_are_told():
    options = to_config(VQConfig(SMALL))
    with pytest.raises(MaquetteError, match=r"vq_embed_dim"):
        vq_config.from_config({**options, "vq_embed_dim": 8})
    with pytest.raises(MaquetteError, match=r"attends where its encoder does"):
        vq_config.from_config({**options, "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"]})
    network = VQ(SMALL)
    theirs = dict(ORIGINAL.write(network.state_dict(), network))
    with pytest.raises(MaquetteError, match=r"codes of 8 channels"):
        spec_from_weights(InMemory({**theirs, "quantize.embedding.weight": torch.zeros(50, 8)}))
