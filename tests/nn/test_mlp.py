"""The gated feed-forward layer, in two products where nothing learns."""

import torch
import torch.nn.functional as F

from maquette.nn.mlp import GEGLU


def test_two_products_give_what_one_gives() -> None:
    torch.manual_seed(0)
    layer, x = GEGLU(6, 10).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    value, gate = F.linear(x, layer.up.weight, layer.up.bias).chunk(2, dim=-1)
    expected = layer.down(value * F.gelu(gate))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)


def test_a_layer_in_place_of_the_first_is_asked() -> None:
    """As LoRA, or weights that are kept in 8 bits, put it there."""

    class Twice(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    layer = GEGLU(6, 10).requires_grad_(False)
    plain, x = layer.up, torch.randn(2, 5, 6)
    layer.up = Twice(6, 20)
    layer.up.load_state_dict(plain.state_dict())
    got = layer(x)
    layer.up = plain
    plain.weight *= 2
    plain.bias *= 2
    with torch.no_grad():
        torch.testing.assert_close(layer(x), got)
