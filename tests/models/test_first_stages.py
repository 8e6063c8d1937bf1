"""Latent-diffusion's KL autoencoders beside SD's: f = 4 to 32, with attention where the resolution is low."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL
from references import compare

from maquette.models import published
from maquette.models.vae import VAE
from maquette.models.vae_config import VAEConfig, from_config, to_config
from maquette.models.vae_names import DIALECTS, DIFFUSERS, spec_from_weights


@pytest.mark.parametrize("name", [name for name in dir(published) if name.startswith("KL_")])
def test_published_shapes(name):
    spec = getattr(published, name)
    with torch.device("meta"):
        network = VAE(spec)
        theirs = AutoencoderKL.from_config(to_config(VAEConfig(spec)))
    written = DIFFUSERS.write(network.state_dict(), network)
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    assert {key: written.shape(key) for key in written} == shapes
    for dialect in DIALECTS:
        assert spec_from_weights(dialect.write(network.state_dict(), network)) == spec
    assert from_config(to_config(VAEConfig(spec))).spec == spec


def test_diffusers_gives_the_same_with_attention_in_levels():
    spec = replace(published.KL_F32, widths=(16, 16, 32, 32, 32, 64), groups=4, channels=8)
    assert max(compare(spec, size=(64, 64)).values()) <= 1e-5
