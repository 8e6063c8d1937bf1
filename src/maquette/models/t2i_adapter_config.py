"""The spec of a T2I-Adapter as diffusers writes it down: the `config.json` of a T2IAdapter."""

from collections.abc import Mapping
from typing import Any, Literal

from maquette.models.config import BUILT, Config
from maquette.models.t2i_adapter import T2IAdapterSpec

FORMS: Mapping[str, Literal["full", "xl", "light"]] = {
    "full_adapter": "full",
    "full_adapter_xl": "xl",
    "light_adapter": "light",
}


def from_config(options: Mapping[str, Any], where: str = "config.json") -> T2IAdapterSpec:
    """The spec that a T2IAdapter's options describe; `where` names their file in messages.

    Raises:
        MaquetteError: an option is damaged or unknown.
    """
    config = Config(options, where)
    form = FORMS.get(str(config.get("adapter_type", "full_adapter")))
    if form is None:
        raise config.refuse("adapter_type", f"expected {', '.join(FORMS)}")
    widths = config.integers("channels")
    spec = T2IAdapterSpec(
        channels=config.integer("in_channels", 3),
        widths=(*widths, widths[-1]) if form == "light" else widths,  # the last level of a light one is not listed
        blocks=config.integer("num_res_blocks", 2, BUILT // len(widths)),
        factor=config.integer("downscale_factor", 8),
        form=form,
    )
    config.finish(())
    return spec


def to_config(spec: T2IAdapterSpec) -> dict[str, Any]:
    """The options with which diffusers' T2IAdapter computes the same."""
    return {
        "_class_name": "T2IAdapter",
        "adapter_type": next(theirs for theirs, ours in FORMS.items() if ours == spec.form),
        "in_channels": spec.channels,
        "channels": list(spec.widths[:-1] if spec.form == "light" else spec.widths),
        "num_res_blocks": spec.blocks,
        "downscale_factor": spec.factor,
    }
