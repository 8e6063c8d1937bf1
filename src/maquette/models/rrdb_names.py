"""The published layouts of ESRGAN's network: Real-ESRGAN's, ESRGAN's, and the numbered one of most that followed."""

from collections.abc import Callable
from functools import partial
from itertools import count, product
from typing import NamedTuple

from maquette.errors import MaquetteError
from maquette.models.rrdb import RRDB, RRDBSpec
from maquette.weights.dialect import Dialect, Table, counted, layers, size
from maquette.weights.view import Weights, describe


class Layout(NamedTuple):
    """What a layout calls things."""

    conv_in: str
    dense: str
    """A convolution, by the numbers of its block (from 0), of its dense block and of its own (from 1)."""
    conv_body: Callable[[int], str]
    """By the number of blocks."""
    doubling: Callable[[int], str]
    """By its number, from 1."""
    conv_fine: Callable[[int], str]
    """By the number of doublings."""
    conv_out: Callable[[int], str]


def _always(name: str) -> Callable[[int], str]:
    return lambda _: name


REAL = Layout(
    conv_in="conv_first",
    dense="body.{}.rdb{}.conv{}",
    conv_body=_always("conv_body"),
    doubling=lambda k: f"conv_up{k}",
    conv_fine=_always("conv_hr"),
    conv_out=_always("conv_last"),
)
NAMED = Layout(
    conv_in="conv_first",
    dense="RRDB_trunk.{}.RDB{}.conv{}",
    conv_body=_always("trunk_conv"),
    doubling=lambda k: f"upconv{k}",
    conv_fine=_always("HRconv"),
    conv_out=_always("conv_last"),
)
# Layers without weights are counted as well: each doubling is one that enlarges, a convolution and a leaky ReLU.
NUMBERED = Layout(
    conv_in="model.0",
    dense="model.1.sub.{}.RDB{}.conv{}.0",
    conv_body=lambda blocks: f"model.1.sub.{blocks}",
    doubling=lambda k: f"model.{3 * k}",
    conv_fine=lambda doublings: f"model.{3 * doublings + 2}",
    conv_out=lambda doublings: f"model.{3 * doublings + 4}",
)


def table(layout: Layout, network: RRDB) -> Table:
    """The sources of the network's tensors in a layout."""
    spec = network.spec
    names = {
        "conv_in": layout.conv_in,
        "conv_body": layout.conv_body(spec.blocks),
        "conv_fine": layout.conv_fine(spec.doublings),
        "conv_out": layout.conv_out(spec.doublings),
    }
    names |= {f"doublings.{k}": layout.doubling(k + 1) for k in range(spec.doublings)}
    for block, dense, conv in product(range(spec.blocks), range(3), range(5)):
        names[f"blocks.{block}.dense.{dense}.convs.{conv}"] = layout.dense.format(block, dense + 1, conv + 1)
    return layers(network, "", "", names)


def spec(layout: Layout, view: Weights) -> RRDBSpec:
    """Read the spec off names and shapes.

    Raises:
        MaquetteError: the network reads another number of channels than a picture, or its patches, have.
    """
    first = layout.dense.format("{}", 1, 1) + ".weight"
    doublings = next(k for k in count() if f"{layout.doubling(k + 1)}.weight" not in view)
    channels = size(view, f"{layout.conv_out(doublings)}.weight", 0)
    inputs = size(view, f"{layout.conv_in}.weight", 1)
    unshuffle = next((side for side in (1, 2, 4) if inputs == channels * side**2), None)
    if unshuffle is None or unshuffle > 2**doublings:
        raise MaquetteError(
            f"{describe(view)}: the network reads {inputs} channels and answers {channels}, and doubles {doublings} "
            "times: unlike every published one; use another file"
        )
    return RRDBSpec(
        channels=channels,
        width=size(view, f"{layout.conv_in}.weight", 0),
        growth=size(view, first.format(0), 0),
        blocks=len(counted(view, first)),
        doublings=doublings,
        unshuffle=unshuffle,
    )


def _dialect(name: str, layout: Layout) -> Dialect[RRDB, RRDBSpec]:
    marks = (f"{layout.conv_in}.weight", f"{layout.dense.format(0, 1, 1)}.weight")
    return Dialect(name, marks, partial(table, layout), partial(spec, layout))


DIALECTS = (_dialect("Real-ESRGAN", REAL), _dialect("ESRGAN", NAMED), _dialect("ESRGAN, numbered", NUMBERED))
