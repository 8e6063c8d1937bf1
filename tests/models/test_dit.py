from dataclasses import replace

import pytest
import torch
from transformer_references import compare, dit_reference, noise, randomise

from maquette.diffusion.conditioning import Conditioning
from maquette.engine.kinds import kind_of_config
from maquette.errors import MaquetteError
from maquette.models import dit_config
from maquette.models.dit import DiT, DiTSpec, class_vector
from maquette.models.dit_names import DIALECTS, DIFFUSERS, ORIGINAL, spec_from_weights
from maquette.models.published import DIT
from maquette.nn.patch import grid_positions
from maquette.weights.view import InMemory

SMALL = DiTSpec(size=8, width=128, heads=2, layers=3, classes=10)


@pytest.mark.parametrize("spec", [SMALL, replace(SMALL, patch=4, learned_sigma=False)])
def test_diffusers_gives_the_same(spec):
    assert max(compare(spec).values()) <= 1e-5


@torch.no_grad()
def test_the_network_gives_epsilon_and_without_a_class_the_null_one():
    network = randomise(DiT(SMALL))
    x, null = noise(2, 4, 8, 8), Conditioning(vector=class_vector([None, None], 10))
    epsilon, variance = network.epsilon_and_variance(x, 500, null)
    assert torch.equal(network(x, 500, Conditioning()), epsilon)
    assert variance is not None
    assert not torch.allclose(epsilon, variance)
    assert not torch.allclose(network(x, 500, Conditioning(vector=class_vector([3, 3], 10))), epsilon)


def test_positions_tell_rows_from_columns():
    """The last patch of an oblong picture stands where it does in a square one."""
    wide, square = grid_positions(2, 6, 32).unflatten(0, (2, 6)), grid_positions(6, 6, 32).unflatten(0, (6, 6))
    assert torch.equal(wide, square[:2])
    assert not torch.allclose(wide[1, 4], square[4, 1])


@pytest.mark.parametrize(("name", "millions"), [
    ("DiT-S/2", 33), ("DiT-S/4", 33), ("DiT-S/8", 33), ("DiT-B/2", 130), ("DiT-B/4", 130), ("DiT-B/8", 131),
    ("DiT-L/2", 458), ("DiT-L/4", 458), ("DiT-L/8", 459), ("DiT-XL/2", 675), ("DiT-XL/4", 675), ("DiT-XL/8", 676),
])  # fmt: skip
def test_published_shapes(name, millions):
    """Table 4 of the paper."""
    with torch.device("meta"):
        network = DiT(DIT[name])
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(millions * 1e6, abs=0.7e6)
    for dialect in DIALECTS:
        assert spec_from_weights(dialect.write(network.state_dict(), network)) == network.spec
    assert dit_config.from_config(dit_config.to_config(network.spec)) == network.spec


def test_names_go_there_and_back():
    network = randomise(DiT(SMALL))
    ours = network.state_dict()
    original, diffusers = (dialect.write(ours, network) for dialect in (ORIGINAL, DIFFUSERS))
    for dialect, theirs in ((ORIGINAL, original), (DIFFUSERS, diffusers)):
        back = dialect.read(theirs, network)
        assert all(torch.equal(tensor, back[key]) for key, tensor in ours.items())
    parts = [diffusers[f"transformer_blocks.1.attn1.to_{part}.weight"] for part in "qkv"]
    assert torch.equal(original["blocks.1.attn.qkv.weight"], torch.cat(parts))


def test_written_files_are_whole():
    """The original stores the positions, diffusers the embeddings once more in each block."""
    network = randomise(DiT(SMALL))
    original = ORIGINAL.write(network.state_dict(), network)
    assert original.shape("pos_embed") == (1, 16, 128)
    assert spec_from_weights(original) == SMALL
    assert spec_from_weights(InMemory({key: original[key] for key in original if key != "pos_embed"})).size == 32
    reference = dit_reference(network)  # reads strictly
    assert torch.allclose(original["pos_embed"], reference.pos_embed.pos_embed, atol=1e-6)


def test_a_new_network_says_nothing_yet():
    """adaLN-Zero: every block starts as the identity, and the output as zero."""
    network = randomise(DiT(SMALL))
    network.initialise()
    tokens = noise(2, 16, 128)
    assert torch.equal(network.blocks[0](tokens, noise(2, 128)), tokens)
    assert not network(noise(2, 4, 8, 8), 10.0, Conditioning()).any()


def test_mistakes_are_told():
    with pytest.raises(MaquetteError, match=r"class 10; the model knows 0 to 9"):
        class_vector([3, 10], 10)
    with pytest.raises(MaquetteError, match=r"expected 4, or 8"):
        dit_config.from_config({**dit_config.to_config(SMALL), "out_channels": 5})


def test_the_published_config_is_of_the_older_class() -> None:
    """facebook/DiT-XL-2-256, and what diffusers 0.27 makes of it."""
    told = {
        "_class_name": "Transformer2DModel",
        "_diffusers_version": "0.12.0.dev0",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": 72,
        "cross_attention_dim": None,
        "dropout": 0.0,
        "in_channels": 4,
        "norm_elementwise_affine": False,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": 16,
        "num_embeds_ada_norm": 1000,
        "num_layers": 28,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "out_channels": 8,
        "patch_size": 2,
        "sample_size": 32,
        "upcast_attention": False,
        "use_linear_projection": False,
    }
    for options in (told, {**told, "attention_type": "default"}):
        kind = kind_of_config(options)
        assert kind is not None and kind.network is DiT
        assert kind.from_config(options, "config.json").spec == DIT["DiT-XL/2"]
    with pytest.raises(MaquetteError, match="norm_type"):
        dit_config.from_config({**told, "norm_type": "ada_norm_single"})  # PixArt's
