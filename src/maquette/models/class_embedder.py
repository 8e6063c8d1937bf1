"""The class embedder of latent diffusion (Rombach et al. 2022, section 4.3): a class is one token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maquette.errors import MaquetteError
from maquette.nn.network import Network
from maquette.weights.dialect import Dialect, layers, size

WITHOUT_NULL = 1000  # rows of the first published model, which knows ImageNet's classes alone


@dataclass(frozen=True, kw_only=True)
class ClassEmbedderSpec:
    """Shape of the table; the defaults are those of ImageNet's cin256-v2, whose last row is no class at all."""

    rows: int = 1001
    width: int = 512

    @property
    def classes(self) -> int:
        """How many classes there are; a row beyond them stands for none."""
        return self.rows if self.rows == WITHOUT_NULL else self.rows - 1


class ClassEmbedder(Network):
    """Numbers of classes, None for no class -> tokens (B, 1, width)."""

    def __init__(self, spec: ClassEmbedderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(spec.rows, spec.width)

    def forward(self, numbers: Sequence[int | None]) -> Tensor:
        """Raises MaquetteError for a class that the model does not know."""
        classes = self.spec.classes
        for number in numbers:
            if number is not None and not 0 <= number < classes:
                raise MaquetteError(f"got class {number}; the model knows 0 to {classes - 1}, and empty for no class")
        rows = torch.tensor([min(classes, self.spec.rows - 1) if each is None else each for each in numbers])
        tokens: Tensor = self.embedding(rows.to(self.device))
        if classes == self.spec.rows:  # no row for no class
            tokens = tokens * torch.tensor([float(each is not None) for each in numbers]).to(tokens)[:, None]
        return tokens[:, None]


ORIGINAL: Dialect[ClassEmbedder, ClassEmbedderSpec] = Dialect(
    "original",
    ("embedding.weight",),
    lambda network: layers(network, "", "", {"embedding": "embedding"}),
    lambda view: ClassEmbedderSpec(rows=size(view, "embedding.weight", 0), width=size(view, "embedding.weight", 1)),
)
DIALECTS = (ORIGINAL,)
