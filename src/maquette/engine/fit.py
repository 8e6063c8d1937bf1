"""Whether the parts of a model belong together, by their widths."""

from collections.abc import Iterator
from typing import Any

from maquette.engine.kinds import TEXTS
from maquette.engine.recognise import Recognition
from maquette.errors import MaquetteError
from maquette.models.dit import DiTSpec
from maquette.models.flux import FluxSpec
from maquette.models.mmdit import MMDiTSpec
from maquette.models.unet import UNetSpec
from maquette.nn.pyramid import PyramidSpec


def check_fit(found: Recognition) -> None:
    """Refuse parts of different models.

    Raises:
        MaquetteError: two parts do not fit, with the widths of both.
    """
    spec = found.parts["denoiser"].spec
    t5 = [part.spec for part in found.parts.values() if part.kind.role == "t5"]
    others = [part.spec for part in found.parts.values() if part.kind.role in TEXTS and part.kind.role != "t5"]
    stage = [("latent channels", *_channels(spec, found.parts["vae"].spec))] if "vae" in found.parts else []
    for what, wanted, given in (*stage, *_widths(spec, others, t5)):
        if wanted != given:
            raise MaquetteError(
                f"{found.path}: the {what} of its parts differ ({wanted} and {given}); use parts of one model"
            )


def _channels(spec: Any, first_stage: PyramidSpec) -> tuple[int, int]:
    return spec.channels if isinstance(spec, DiTSpec) else spec.out_channels, first_stage.channels


def _widths(spec: Any, clip: list[Any], t5: list[Any]) -> Iterator[tuple[str, int, int]]:
    """(what, what the denoiser reads, what the text encoders give)."""
    if isinstance(spec, UNetSpec):
        yield "context widths", spec.context or 0, sum(each.width for each in clip)
    elif isinstance(spec, MMDiTSpec | FluxSpec):
        yield from (("context widths", spec.context, each.width) for each in t5)
        pooled = sum(each.projection or each.width for each in clip)
        yield "vector widths", spec.vector, clip[0].width if isinstance(spec, FluxSpec) else pooled
