"""What the parity tests of all networks share: weights that hide nothing, and one measure of error."""

import pytest
import torch
from torch import Tensor, nn


class Parity:
    """Comparison of a network with a reference on the same random weights."""

    tolerance = 1e-5

    @staticmethod
    def randomise(module: nn.Module, seed: int = 0) -> None:
        """Give every parameter a random value: none stays zero or one, so no layer hides another's mistake."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.dim() > 1:
                    parameter.copy_(noise * 1.5 * parameter[0].numel() ** -0.5)
                else:
                    parameter.copy_(0.3 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))

    @staticmethod
    def error(ours: Tensor, theirs: Tensor) -> float:
        """|ours - theirs| / |theirs|."""
        assert ours.shape == theirs.shape
        return float((ours - theirs).norm() / theirs.norm())

    def assert_equal(self, ours: Tensor, theirs: Tensor) -> None:
        error = self.error(ours, theirs)
        assert error <= self.tolerance, f"relative error {error:.1e}"


@pytest.fixture
def parity() -> Parity:
    return Parity()
