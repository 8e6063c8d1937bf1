"""What a request makes of a model's answers, against diffusers."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from maquette.diffusion.prediction import EPSILON, Prediction, V
from maquette.diffusion.schedules import schedule
from maquette.workflows.guide import Guide
from maquette.workflows.request import Request


@pytest.mark.parametrize("prediction", [EPSILON, V], ids=["epsilon", "v"])
def test_contrast_is_brought_back_to_the_output_as_in_diffusers(model, prediction: Prediction) -> None:
    model.prediction = prediction
    words = {"prompt": "a red apple", "negative": "a dog", "guidance": 7.5, "rescale": 0.7}
    request = Request.read({**words, "seed": 1}).resolved(model.family.defaults)
    levels = schedule("trailing", model.process, 4)
    x, level = torch.randn(1, 4, 2, 4, generator=torch.Generator().manual_seed(2)), levels[1]
    wanted, unwanted = (
        prediction.target(x0, level.noise(x, x0), level)
        for x0 in (model.denoiser(x, level, model.condition([text])) for text in ("a red apple", "a dog"))
    )
    expected = rescale_noise_cfg(unwanted + 7.5 * (wanted - unwanted), wanted, guidance_rescale=0.7)
    torch.testing.assert_close(Guide(model, request, levels).guided()(x, level), prediction.x0(expected, x, level))
