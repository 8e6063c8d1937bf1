"""ESRGAN's network against its definition, written down here once more from the names that its files have."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.engine.build import fill, outline
from maquette.errors import MaquetteError
from maquette.models.rrdb import RRDB, RRDBSpec
from maquette.models.rrdb_names import DIALECTS
from maquette.weights.dialect import recognise
from maquette.weights.view import InMemory

SPECS = {
    "four times": RRDBSpec(width=8, growth=4, blocks=2),
    "twice, as Real-ESRGAN does": RRDBSpec(width=8, growth=4, blocks=1, unshuffle=2),
    "as large": RRDBSpec(width=8, growth=4, blocks=1, unshuffle=4),
}
NUMBERED_SPECS = {
    "four times": RRDBSpec(width=8, growth=4, blocks=2),
    "twice": RRDBSpec(width=8, growth=4, blocks=3, doublings=1),
    "eight times": RRDBSpec(width=8, growth=4, blocks=1, doublings=3),
    "as large": RRDBSpec(width=8, growth=4, blocks=1, doublings=0),
}


def weights(spec: RRDBSpec, layout: str) -> dict[str, Tensor]:
    """Random weights of a published layout."""
    generator = torch.Generator().manual_seed(3)
    made: dict[str, Tensor] = {}

    def conv(name: str, read: int, out: int) -> None:
        made[f"{name}.weight"] = torch.randn(out, read, 3, 3, generator=generator) / (9 * read) ** 0.5
        made[f"{name}.bias"] = torch.randn(out, generator=generator) / 4

    inner = {"real": "body.{}.rdb{}.conv{}", "named": "RRDB_trunk.{}.RDB{}.conv{}"}
    dense = inner.get(layout, "model.1.sub.{}.RDB{}.conv{}.0")
    n = spec.doublings
    names = {
        "real": ("conv_first", "conv_body", [f"conv_up{k + 1}" for k in range(n)], "conv_hr", "conv_last"),
        "named": ("conv_first", "trunk_conv", [f"upconv{k + 1}" for k in range(n)], "HRconv", "conv_last"),
        "numbered": (
            "model.0",
            f"model.1.sub.{spec.blocks}",
            {0: [], 1: ["model.3"], 2: ["model.3", "model.6"], 3: ["model.3", "model.6", "model.9"]}[n],
            {0: "model.2", 1: "model.5", 2: "model.8", 3: "model.11"}[n],
            {0: "model.4", 1: "model.7", 2: "model.10", 3: "model.13"}[n],
        ),
    }
    first, body, doublings, fine, last = names[layout]
    conv(first, spec.channels * spec.unshuffle**2, spec.width)
    for block in range(spec.blocks):
        for each in (1, 2, 3):
            for k in range(1, 6):
                out = spec.growth if k < 5 else spec.width
                conv(dense.format(block, each, k), spec.width + (k - 1) * spec.growth, out)
    for name in (body, *doublings, fine):
        conv(name, spec.width, spec.width)
    conv(last, spec.width, spec.channels)
    return made


def reference(spec: RRDBSpec, made: dict[str, Tensor], x: Tensor) -> Tensor:
    """Wang et al. 2018, section 3.1, and the code that they published: the weights in the order of their use."""
    left = iter([(made[name], made[name.removesuffix("weight") + "bias"]) for name in made if name.endswith("weight")])

    def conv(x: Tensor) -> Tensor:
        weight, bias = next(left)
        return F.conv2d(x, weight, bias, padding=1)

    def active(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    first = y = conv(F.pixel_unshuffle(x, spec.unshuffle))
    for _ in range(spec.blocks):
        block = y
        for _ in range(3):
            seen = [y]
            for _ in range(4):
                seen.append(active(conv(torch.cat(seen, 1))))
            y = y + 0.2 * conv(torch.cat(seen, 1))
        y = block + 0.2 * y
    y = first + conv(y)
    for _ in range(spec.doublings):
        y = active(conv(F.interpolate(y, scale_factor=2, mode="nearest")))
    return conv(active(conv(y)))


CASES = [("real", key, spec) for key, spec in SPECS.items()]
CASES += [("named", "four times", SPECS["four times"])]
CASES += [("numbered", key, spec) for key, spec in NUMBERED_SPECS.items()]


@pytest.mark.parametrize(("layout", "key", "spec"), CASES, ids=[f"{layout}, {key}" for layout, key, _ in CASES])
def test_a_file_of_each_layout_says_what_it_is_and_answers_as_defined(layout: str, key: str, spec: RRDBSpec) -> None:
    made = weights(spec, layout)
    view = InMemory(made)
    dialect = recognise(view, DIALECTS)
    assert dialect.spec(view) == spec
    network = fill(outline(RRDB, spec), dialect.read(view, outline(RRDB, spec)), torch.device("cpu"), torch.float32)
    x = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = network(x)
        assert y.shape == (2, 3, 8 * spec.scale, 12 * spec.scale)
        torch.testing.assert_close(y, reference(spec, made, x), rtol=1e-5, atol=1e-5)


def test_the_published_shape_has_the_published_number_of_parameters() -> None:
    network = outline(RRDB, RRDBSpec())
    assert sum(parameter.numel() for parameter in network.parameters()) == 16_697_987  # RealESRGAN_x4plus.pth


def test_other_networks_are_refused() -> None:
    made = weights(SPECS["four times"], "real")
    made["conv_first.weight"] = torch.zeros(8, 5, 3, 3)
    with pytest.raises(MaquetteError, match="reads 5 channels and answers 3"):
        DIALECTS[0].spec(InMemory(made))
