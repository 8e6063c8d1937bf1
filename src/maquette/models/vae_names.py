"""The published layouts of the KL autoencoder: the original one (latent-diffusion) and diffusers', new and old."""

from functools import partial

from maquette.models import pyramid_names
from maquette.models.pyramid_names import QUANT, Layout
from maquette.models.vae import VAE, VAESpec
from maquette.weights.dialect import Dialect, Table, layers, recognise
from maquette.weights.view import Weights


def table(layout: Layout, vae: VAE) -> Table:
    """The sources of the autoencoder's tensors in a layout."""
    return layers(vae, "", "", QUANT) | pyramid_names.table(layout, vae.spec, vae.encoder, vae.decoder)


def spec(layout: Layout, view: Weights) -> VAESpec:
    """Read the spec off an autoencoder in a layout; see `spec_from_weights`."""
    return VAESpec(**pyramid_names.numbers(layout, view), quant_conv="quant_conv.weight" in view)


def spec_from_weights(view: Weights) -> VAESpec:
    """Read every number of the spec off names and shapes, in any layout; groups, invisible there, are 32.

    The factor that scales the latents is invisible too: it belongs to the family (`maquette.models.vae_config`).

    Raises:
        MaquetteError: the layout is unknown, or 32 groups are impossible.
    """
    return recognise(view, DIALECTS).spec(view)


def _dialect(layout: Layout) -> Dialect[VAE, VAESpec]:
    found = ("decoder.conv_in.weight", *pyramid_names.marks(layout))
    return Dialect(layout.name, found, partial(table, layout), partial(spec, layout), (r"loss\..*",))


MIXED, ORIGINAL, DIFFUSERS_OLD, DIFFUSERS = DIALECTS = tuple(map(_dialect, pyramid_names.LAYOUTS))
