"""In bfloat16 every transformer gives nearly what it gives in float32; time, angles and norms are not rounded."""

from dataclasses import replace

import pytest
import torch
from references import relative_error
from transformer_references import KINDS, randomise

from maquette.models.dit import DiTSpec
from maquette.models.published import FLUX_DEV, SD3_MEDIUM, T5_XXL

SPECS = {
    "sd3.5": replace(SD3_MEDIUM, width=128, heads=2, layers=3, context=96, vector=48, grid=10, qk_norm=True, dual=(0,)),
    "flux": replace(FLUX_DEV, width=256, heads=2, double=2, single=2, context=96, vector=48),
    "dit": DiTSpec(size=8, width=128, heads=2, layers=3, classes=1000),
    "t5": replace(T5_XXL, vocabulary=99, width=96, layers=3, heads=4, head_width=16, hidden=160),
}


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_bfloat16_is_near(name):
    spec = SPECS[name]
    kind = KINDS[type(spec)]
    network, inputs = randomise(kind.network(spec)), kind.inputs(spec)
    told = {name for name, value in inputs.items() if name not in ("t", "ids", "classes") and torch.is_tensor(value)}
    inputs |= {name: inputs[name].to(torch.bfloat16) for name in told}  # as a denoiser gives them
    exact = kind.ours(network, **inputs | {name: inputs[name].float() for name in told})
    rounded = kind.ours(network.to(torch.bfloat16), **inputs)
    for output, expected in exact.items():
        assert rounded[output].dtype == torch.bfloat16
        assert relative_error(rounded[output], expected) <= 2e-2
