"""In bfloat16 every network gives nearly what it gives in float32; time, angles and norms are not rounded."""

from dataclasses import replace

import pytest
import references as r
import torch
import transformer_references

from maquette.models.dit import DiTSpec
from maquette.models.published import FLUX_DEV, SD3_MEDIUM, T5_XXL

KINDS = r.KINDS | transformer_references.KINDS
SPECS = {
    "sd1": r.SMALL_SD1,
    "sd2": r.SMALL_SD2,
    "vae": r.SMALL_VAE,
    "clip": r.SMALL_CLIP,
    "open clip": r.SMALL_OPEN_CLIP,
    "sd3.5": replace(SD3_MEDIUM, width=128, heads=2, layers=3, context=96, vector=48, grid=10, qk_norm=True, dual=(0,)),
    "flux": replace(FLUX_DEV, width=256, heads=2, double=2, single=2, context=96, vector=48),
    "dit": DiTSpec(size=8, width=128, heads=2, layers=3, classes=1000),
    "t5": replace(T5_XXL, vocabulary=99, width=96, layers=3, heads=4, head_width=16, hidden=160),
}
EXACT = ("t", "guidance")  # what no caller rounds


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_bfloat16_is_near(name):
    spec = SPECS[name]
    kind = KINDS[type(spec)]
    network = kind.randomise(kind.network(spec)).to(torch.bfloat16)
    inputs = kind.inputs(spec)
    for told, value in inputs.items():
        if told not in EXACT and torch.is_tensor(value) and value.is_floating_point():
            inputs[told] = value.to(torch.bfloat16)  # as a denoiser gives them
    rounded = kind.ours(network, **inputs)
    exact = kind.ours(network.float(), **inputs)  # the same numbers
    for output, expected in exact.items():
        assert rounded[output].dtype == torch.bfloat16
        assert expected.dtype == torch.float32
        assert r.relative_error(rounded[output], expected) <= 2e-2
