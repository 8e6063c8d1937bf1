"""What a U-Net computes once for rows that only their words tell apart."""

from dataclasses import replace
from typing import Any

import pytest
import references as r
import torch
from diffusers import LatentConsistencyModelPipeline
from torch import nn

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.guidance import Pair
from maquette.errors import MaquetteError
from maquette.models import unet_config, unet_names
from maquette.models.unet import UNet, UNetSpec
from maquette.weights.view import InMemory

SPEC = UNetSpec(widths=(32, 64), down=((1,), (1,)), middle=1, up=((1, 1), (1, 1)), context=16, heads=2)


def watched(spec: UNetSpec) -> tuple[UNet, list[int]]:
    """A U-Net with random weights, and how many rows each of its blocks was given."""
    network, rows = UNet(spec), []
    r.randomise(network)
    own = network.run

    def run(block: nn.Module, *given: Any) -> Any:
        rows.append(len(given[0]))
        return own(block, *given)

    network.run = run
    return network.requires_grad_(False), rows


@pytest.mark.parametrize("features", [0, 2])
def test_what_no_word_has_touched_is_computed_once(features: int) -> None:
    network, rows = watched(SPEC)
    x = torch.cat([r.noise(2, 4, 16, 16)] * 3)
    extra = tuple(r.noise(6, width, 16 >> level, 16 >> level) for level, width in enumerate(SPEC.widths[:features]))
    told = Conditioning(tokens=r.noise(6, 7, 16, seed=2), features=extra)
    expected = network(x, 500.0, told)
    assert set(rows) == {6}
    rows.clear()
    got = network(x, 500.0, replace(told, repeats=3))
    assert rows[0] == (6 if features else 2) and set(rows[1:]) == {6}
    assert r.relative_error(got, expected) < 1e-5


def test_rows_that_a_vector_tells_apart_are_computed_each() -> None:
    network, rows = watched(replace(SPEC, vector=8))
    told = Conditioning(tokens=r.noise(2, 7, 16), vector=r.noise(2, 8))
    x = torch.cat([r.noise(1, 4, 16, 16)] * 2)
    expected = network(x, 500.0, told)
    assert torch.equal(network(x, 500.0, replace(told, repeats=2)), expected) and set(rows) == {2}


def test_guidance_says_that_it_repeats() -> None:
    asked: list[Conditioning] = []

    def denoise(x: torch.Tensor, level: Any, told: Conditioning) -> torch.Tensor:
        asked.append(told)
        return x

    told = [Conditioning(tokens=r.noise(2, 7, 16, seed=seed)) for seed in range(3)]
    pair = Pair(denoise, [(told[0], 1.0), (told[1], 0.5)], told[2])
    pair.both(r.noise(2, 4, 8, 8), None)  # type: ignore[arg-type]
    assert [each.repeats for each in asked] == [3]
    assert asked[0].to(dtype=torch.bfloat16).repeats == 3 and asked[0][:2].repeats == asked[0].repeat(2).repeats == 1


def test_guidance_is_embedded_as_in_latent_consistency_models() -> None:
    network = r.randomise(UNet(replace(r.SMALL_SD1, guidance=32)))
    reference, x, tokens = r.unet_reference(network), r.noise(2, 4, 16, 16), r.noise(2, 7, r.SMALL_SD1.context, seed=2)
    scale, t = torch.tensor([7.3, 1.0]), torch.tensor([3.0, 961.0])
    angles = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scale - 1, embedding_dim=32)
    with torch.no_grad():
        theirs = reference(x, t, tokens, timestep_cond=angles).sample
        ours = network(x, t, Conditioning(tokens=tokens, guidance=scale))
        other = network(x, t, Conditioning(tokens=tokens, guidance=scale + 1))
    assert r.relative_error(ours, theirs) < 1e-5 < r.relative_error(other, theirs)


def test_a_network_that_reads_guidance_is_not_asked_without() -> None:
    with pytest.raises(MaquetteError, match="has no `guidance`"):
        UNet(replace(SPEC, guidance=8))(r.noise(1, 4, 16, 16), 5.0, Conditioning(tokens=r.noise(1, 7, 16)))


@pytest.mark.parametrize("dialect", unet_names.DIALECTS, ids=lambda dialect: dialect.name)
def test_the_width_of_guidance_is_read_off_the_weights(dialect: Any) -> None:
    spec = replace(r.SMALL_SD2, guidance=32)
    network = UNet(spec)
    assert unet_names.spec_from_weights(dialect.write(InMemory(network.state_dict()), network)) == spec
    assert unet_config.from_config(unet_config.to_config(spec)) == spec
