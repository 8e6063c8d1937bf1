"""What diffusers calls the layers of ControlNets for SD3 and FLUX.1; all published ones are in its layout."""

from maquette.errors import MaquetteError
from maquette.models import flux_names, mmdit_names
from maquette.models.transformer_controlnet import (
    FluxControlNet,
    FluxControlNetSpec,
    MMDiTControlNet,
    MMDiTControlNetSpec,
)
from maquette.weights.dialect import Dialect, Table, layers, size
from maquette.weights.view import Weights, describe


def mmdit(network: MMDiTControlNet) -> Table:
    """The sources of a ControlNet for SD3."""
    residuals = {f"residuals.{index}": f"controlnet_blocks.{index}" for index in range(len(network.residuals))}
    own = layers(network, "", "", {"hint": "pos_embed_input.proj", **residuals})
    return _body(mmdit_names.diffusers(network.body)) | own


def flux(network: FluxControlNet) -> Table:
    """The sources of a ControlNet for FLUX.1."""
    double = {
        f"double_residuals.{index}": f"controlnet_blocks.{index}" for index in range(len(network.double_residuals))
    }
    single = {
        f"single_residuals.{index}": f"controlnet_single_blocks.{index}"
        for index in range(len(network.single_residuals))
    }
    outer = {"hint": "controlnet_x_embedder", "modes": "controlnet_mode_embedder"}
    return _body(flux_names.diffusers(network.body)) | layers(network, "", "", {**outer, **double, **single})


def _body(table: Table) -> Table:
    return {f"body.{name}": source for name, source in table.items()}


def spec_of_mmdit(view: Weights) -> MMDiTControlNetSpec:
    """Read the spec off names and shapes; what the pooled text is was zeros in training, as in InstantX's.

    Raises:
        MaquetteError: it is of the kind that goes with SD3.5 large, which reads no text.
    """
    if "pos_embed.pos_embed" not in view or "context_embedder.weight" not in view:
        raise MaquetteError(
            f"{describe(view)}: this ControlNet has no positions or reads no text, as those for SD3.5 large do not; "
            "such are not supported: use another one"
        )
    channels = size(view, "pos_embed_input.proj.weight", 1)
    return MMDiTControlNetSpec(body=mmdit_names.spec_from_diffusers(view), channels=channels)


def spec_of_flux(view: Weights) -> FluxControlNetSpec:
    """Read the spec off names and shapes."""
    modes = "controlnet_mode_embedder.weight"
    return FluxControlNetSpec(
        body=flux_names.spec_from_diffusers(view), modes=size(view, modes, 0) if modes in view else None
    )


MMDIT = Dialect("diffusers", ("pos_embed_input.proj.weight", "controlnet_blocks.0.weight"), mmdit, spec_of_mmdit)
FLUX = Dialect("diffusers", ("controlnet_x_embedder.weight", "controlnet_blocks.0.weight"), flux, spec_of_flux)
