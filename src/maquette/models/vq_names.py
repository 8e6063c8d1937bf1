"""The published layouts of the VQ autoencoder: the original one (taming-transformers, latent-diffusion), diffusers'."""

from functools import partial

from maquette.errors import MaquetteError
from maquette.models import pyramid_names
from maquette.models.pyramid_names import QUANT, Layout
from maquette.models.vq import VQ, VQSpec
from maquette.weights.dialect import Dialect, Table, layers, recognise, size
from maquette.weights.view import Weights, describe

CODEBOOK = "quantize.embedding"


def table(layout: Layout, vq: VQ) -> Table:
    """The sources of the autoencoder's tensors in a layout."""
    outer = layers(vq, "", "", {"quantiser.codebook": CODEBOOK, **QUANT})
    return outer | pyramid_names.table(layout, vq.spec, vq.encoder, vq.decoder)


def spec(layout: Layout, view: Weights) -> VQSpec:
    """Read the spec off an autoencoder in a layout; see `spec_from_weights`."""
    found = VQSpec(**pyramid_names.numbers(layout, view), codes=size(view, f"{CODEBOOK}.weight", 0))
    if size(view, f"{CODEBOOK}.weight", 1) != found.channels:
        raise MaquetteError(
            f"{describe(view)}: codes of {size(view, f'{CODEBOOK}.weight', 1)} channels between pyramids of "
            f"{found.channels}: unlike every published autoencoder; use another file"
        )
    return found


def spec_from_weights(view: Weights) -> VQSpec:
    """Read every number of the spec off names and shapes, in any layout; groups, invisible there, are 32.

    Raises:
        MaquetteError: the layout is unknown, or 32 groups are impossible.
    """
    return recognise(view, DIALECTS).spec(view)


def _dialect(layout: Layout) -> Dialect[VQ, VQSpec]:
    found = (f"{CODEBOOK}.weight", *pyramid_names.marks(layout))
    return Dialect(layout.name, found, partial(table, layout), partial(spec, layout), (r"loss\..*",))


MIXED, ORIGINAL, DIFFUSERS_OLD, DIFFUSERS = DIALECTS = tuple(map(_dialect, pyramid_names.LAYOUTS))
