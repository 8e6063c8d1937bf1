"""The contrastive loss against its definition, the temperature's bound, and that pictures and texts find each other."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_autoencoder import EXTENT, batch
from tiny import TEXTS

from maquette.models.clip import CLIPImageSpec, CLIPTextSpec
from maquette.text.tokenizer import CLIPTokenizer
from maquette.training.clip import CLIP, HOTTEST, CLIPRecipe, CLIPTask, contrastive_loss
from maquette.training.figures import NonFinite
from maquette.training.learner import OptimiserSpec
from maquette.training.stream import Batch

TOKENIZER = CLIPTokenizer.train(TEXTS, 600, length=20)
TEXT = CLIPTextSpec(
    vocabulary=len(TOKENIZER), positions=20, width=32, layers=2, heads=2, hidden=64, projection=16, end=TOKENIZER.end
)
IMAGE = CLIPImageSpec(size=EXTENT, patch=16, width=32, layers=2, heads=2, hidden=64, projection=16)


def pairs(seed: int = 0) -> Batch:
    drawn = batch(4, seed)
    return Batch(0, drawn.pictures, list(TEXTS), drawn.scenes, None)


def task(precision: str = "float32", steps: int = 40) -> CLIPTask:
    optimiser = OptimiserSpec(rate=3e-3, warmup=4, betas=(0.9, 0.98))
    return CLIPTask(CLIPRecipe(steps=steps, batch=4, optimiser=optimiser), TEXT, IMAGE, TOKENIZER, 0, precision)


def test_the_loss_is_its_definition() -> None:
    similarities = 3 * torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, total = similarities.numpy(), 0.0
    for i in range(5):
        row = sum(math.exp(values[i, j]) for j in range(5))
        column = sum(math.exp(values[j, i]) for j in range(5))
        total -= math.log(math.exp(values[i, i]) / row) / 2 + math.log(math.exp(values[i, i]) / column) / 2
    assert float(contrastive_loss(similarities)) == pytest.approx(total / 5, rel=1e-12)


def test_knowing_nothing_costs_the_logarithm_of_the_batch() -> None:
    assert float(contrastive_loss(torch.zeros(8, 8))) == pytest.approx(math.log(8))
    assert float(contrastive_loss(100 * torch.eye(8))) == pytest.approx(0.0, abs=1e-6)


def test_similarities_are_cosines_times_the_inverse_temperature() -> None:
    torch.manual_seed(0)
    clip = CLIP(TEXT, IMAGE)
    ids, pictures = torch.tensor(TOKENIZER(TEXTS)), torch.randn(3, 3, EXTENT, EXTENT)
    with torch.no_grad():
        found = clip(ids, pictures)
        texts, images = clip.text(ids).projected, clip.image(pictures).projected
    assert found.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            assert float(found[i, j]) == pytest.approx(
                float(F.cosine_similarity(images[i], texts[j], dim=0)) / 0.07, rel=1e-4
            )


def test_the_inverse_temperature_stays_below_a_hundred() -> None:
    torch.manual_seed(0)
    clip = CLIP(TEXT, IMAGE)
    with torch.no_grad():
        clip.log_scale.fill_(math.log(10 * HOTTEST))
        assert float(clip(torch.tensor(TOKENIZER(TEXTS)), torch.randn(4, 3, EXTENT, EXTENT)).abs().max()) <= HOTTEST


def test_four_pictures_and_their_captions_find_each_other() -> None:
    learning = task("bfloat16")
    figures = [learning.update(step, pairs()) for step in range(40)]
    assert figures[0]["loss"] > 1.0 and figures[-1]["loss"] < 0.2
    assert figures[-1]["retrieval"] == 1.0


def test_samples_are_captions_beside_what_they_were_taken_for(tmp_path) -> None:
    learning = task()
    learning.update(0, pairs())
    learning.show(100, tmp_path / "samples")
    lines = (tmp_path / "samples/00000100.txt").read_text("utf-8").splitlines()
    assert [line.split("  ->  ")[0] for line in lines] == list(TEXTS)
    assert {line.split("  ->  ")[1] for line in lines} <= set(TEXTS)


def test_nan_stops_before_any_weight_is_harmed() -> None:
    learning = task()
    with torch.no_grad():
        learning.clip.image.patch_embedding.weight[0, 0, 0, 0] = float("inf")
    before = {name: tensor.clone() for name, tensor in learning.state().items()}
    with pytest.raises(NonFinite, match="loss became nan at step 0"):
        learning.update(0, pairs())
    assert all(torch.equal(tensor, before[name]) for name, tensor in learning.state().items())
    assert all(np.isfinite(tensor.numpy()).all() for tensor in learning.state().values())
