"""A judge that knows the scenes: what a perfect reader would answer."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.models.judge import Backdrop, Opinion
from maquette.training.autoencoder import to_signed
from maquette.training.drawing import draw, semantic_map
from maquette.training.emoji import catalogue
from maquette.training.judge import labels
from maquette.training.scenes import Scene
from maquette.training.words import BACKGROUNDS, RECOLOURS

SURE = 20.0  # the logit of what is so


def opinion(scenes: list[Scene], pictures: Tensor | None = None) -> Opinion:
    """The truth about scenes, as a judge would say it; features are the colours of a 4 x 4 grid."""
    told = labels(scenes, np.stack([semantic_map(scene) for scene in scenes]))
    if pictures is None:
        pictures = to_signed(np.stack([draw(scene) for scene in scenes]))

    def sure(truth: Tensor, classes: int) -> Tensor:
        return SURE * F.one_hot(truth, classes).float()

    backdrop = [
        sure(truth, n) for truth, n in zip(told.backdrop.unbind(1), (len(BACKGROUNDS),) * 2 + (3,), strict=True)
    ]
    return Opinion(
        sure(told.emoji, 1 + len(catalogue())),
        sure(told.recolour, 1 + len(RECOLOURS)),
        Backdrop(*backdrop),
        F.adaptive_avg_pool2d(pictures, 4).flatten(1),
    )


class Oracle:
    """Recognises the pictures of the scenes it was told of; any other picture is nothing on black."""

    def __init__(self, scenes: list[Scene]) -> None:
        self.known = {draw(scene).tobytes(): scene for scene in scenes}
        self.asked = 0

    def __call__(self, x: Tensor) -> Opinion:
        self.asked += len(x)
        pixels = ((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        truths = []
        for picture, signed in zip(pixels, x, strict=True):
            scene = self.known.get(picture.tobytes())
            if scene is None:
                truths.append(_nothing(signed[None]))
            else:
                truths.append(opinion([scene], signed[None]))
        emoji, recolour, backdrops, features = zip(*truths, strict=True)
        backdrop = Backdrop(*(torch.cat(part) for part in zip(*backdrops, strict=True)))
        return Opinion(torch.cat(emoji), torch.cat(recolour), backdrop, torch.cat(features))


def _nothing(x: Tensor) -> Opinion:
    empty = torch.zeros(1, 16, 16, 1 + len(catalogue()))
    empty[..., 0] = SURE
    black = torch.zeros(1, len(BACKGROUNDS))
    black[0, list(BACKGROUNDS).index("black")] = SURE
    plain = torch.tensor([[SURE, 0.0, 0.0]])
    recolour = torch.zeros(1, 16, 16, 1 + len(RECOLOURS))
    return Opinion(empty, recolour, Backdrop(black, black, plain), F.adaptive_avg_pool2d(x, 4).flatten(1))
