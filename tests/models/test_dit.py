from dataclasses import replace

import pytest
import torch
from diffusers import DiTTransformer2DModel

from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.models.dit import DiT, DiTSpec, class_vector, sized
from maquette.models.dit_names import DIALECTS, DIFFUSERS, ORIGINAL, spec_from_weights
from maquette.weights.view import InMemory

SMALL = DiTSpec(size=8, width=128, heads=2, layers=3, classes=10)


def reference(spec: DiTSpec) -> DiTTransformer2DModel:
    """Diffusers' DiT, with the epsilon and the frequencies that the weights were trained with.

    Its defaults are another epsilon in every second norm, and frequencies of exponent i / (half - 1).
    """
    network = DiTTransformer2DModel(
        num_attention_heads=spec.heads,
        attention_head_dim=spec.width // spec.heads,
        out_channels=2 * spec.channels if spec.learned_sigma else spec.channels,
        num_layers=spec.layers,
        sample_size=spec.size,
        patch_size=spec.patch,
        num_embeds_ada_norm=spec.classes,
        norm_eps=1e-6,
    )
    for block in network.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm1.emb = network.transformer_blocks[0].norm1.emb  # trained as one
    return network.eval()


@pytest.mark.parametrize("spec", [SMALL, replace(SMALL, patch=4, learned_sigma=False)])
@torch.inference_mode()
def test_diffusers_gives_the_same(spec, parity):
    theirs = reference(spec)
    parity.randomise(theirs)
    view = InMemory(theirs.state_dict())
    assert spec_from_weights(view) == replace(spec, size=32)
    ours = DiT(spec)
    ours.load_state_dict(dict(DIFFUSERS.read(view, ours)))

    x, t, classes = torch.randn(3, 4, 8, 8), torch.tensor([999.0, 500.0, 1.0]), [3, 9, None]
    given = Conditioning(vector=class_vector(classes, 10))
    expected = theirs(x, t, torch.tensor([3, 9, 10])).sample
    epsilon, variance = ours.epsilon_and_variance(x, t, given)
    parity.assert_equal(epsilon if variance is None else torch.cat([epsilon, variance], dim=1), expected)
    parity.assert_equal(ours(x, t, given), expected[:, :4])
    parity.assert_equal(ours(x[2:], t[2:], Conditioning()), expected[2:, :4])


@torch.inference_mode()
def test_a_picture_may_be_oblong(parity):
    """Rows and columns are told apart: a network that reads positions alone gives the transposed picture."""
    network = DiT(replace(SMALL, learned_sigma=False))
    parity.randomise(network)
    wide = network(torch.ones(1, 4, 4, 12), 10.0, Conditioning())
    square = network(torch.ones(1, 4, 12, 12), 10.0, Conditioning())
    assert wide.shape == (1, 4, 4, 12)
    assert parity.error(wide, square[:, :, :4]) < 0.5  # other tokens to attend to, the same positions
    assert parity.error(wide.mT, square[:, :, :, :4]) > 0.5


@pytest.mark.parametrize(("size", "patch", "parameters"), [
    ("S", 2, 33e6), ("S", 8, 33e6), ("B", 2, 130e6), ("B", 8, 131e6), ("L", 2, 458e6), ("L", 8, 459e6),
    ("XL", 2, 675e6), ("XL", 4, 675e6), ("XL", 8, 676e6),
])  # fmt: skip
def test_published_shapes(size, patch, parameters):
    """Millions of parameters as in table 4 of the paper; its S/2 counts 33."""
    with torch.device("meta"):
        network = DiT(sized(size, patch))
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(parameters, rel=0.02)
    for dialect in DIALECTS:
        assert spec_from_weights(dialect.write(network.state_dict(), network)) == network.spec


def test_names_go_there_and_back(parity):
    network = DiT(SMALL)
    parity.randomise(network)
    for dialect, reads in ((ORIGINAL, {"pos_embed"}), (DIFFUSERS, set())):
        theirs = dialect.write(network.state_dict(), network)
        back = dialect.read(theirs, network)
        assert reads <= set(theirs)
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, back[key]), key
    assert set(theirs) == set(reference(SMALL).state_dict())
    qkv = ORIGINAL.write(network.state_dict(), network)["blocks.1.attn.qkv.weight"]
    parts = [theirs[f"transformer_blocks.1.attn1.to_{part}.weight"] for part in "qkv"]
    assert torch.equal(qkv, torch.cat(parts))


def test_a_new_network_is_the_identity_of_nothing(parity):
    """adaLN-Zero: every block starts as the identity, and the output as zero."""
    network = DiT(SMALL)
    parity.randomise(network)
    network.initialise()
    tokens = torch.randn(2, 16, 128)
    assert torch.equal(network.blocks[0](tokens, torch.randn(2, 128)), tokens)
    assert not network(torch.randn(2, 4, 8, 8), 10.0, Conditioning()).any()


def test_mistakes_are_told():
    with pytest.raises(MaquetteError, match=r"class 10; the model knows 0 to 9"):
        class_vector([3, 10], 10)
    with pytest.raises(MaquetteError, match=r"size 'M'"):
        sized("M", 2)
