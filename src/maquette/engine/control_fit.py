"""Whether a network that follows pictures belongs to a model, by widths and resolutions."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from maquette.errors import MaquetteError
from maquette.models.clip import CLIPImageSpec
from maquette.models.controlnet import ControlNet
from maquette.models.flux import Flux
from maquette.models.ip_adapter import IPAdapter, IPAdapterSpec, cross_attentions
from maquette.models.mmdit import MMDiT
from maquette.models.t2i_adapter import T2IAdapter
from maquette.models.transformer_controlnet import FluxControlNet, MMDiTControlNet
from maquette.models.unet import UNet

Compared = tuple[str, Any, Any]
"""What is compared, what the control has, what the model has."""


NETWORKS: dict[type, tuple[type[Any], str]] = {MMDiTControlNet: (MMDiT, "SD3"), FluxControlNet: (Flux, "FLUX")}


def check_control(path: Path, control: Any, name: str, network: Any, first_stage: Any) -> None:
    """Refuse a control that was made for another kind of model than the one called `name`.

    Raises:
        MaquetteError: they differ, with the numbers of both.
    """
    wanted, what = NETWORKS.get(type(control), (UNet, "a U-Net that reads text"))
    if not isinstance(network, wanted) or network.spec.context is None:
        raise MaquetteError(f"{path}: follows pictures for {what}, which {name} is not; use another")
    for what, theirs, ours in COMPARE[type(control)](control, network, first_stage):
        if theirs != ours:
            raise MaquetteError(
                f"{path}: was made for another model than {name}: its {what} is {theirs}, the model's is {ours}; use "
                "one that was made for this family"
            )


def _controlnet(control: ControlNet, network: UNet, first_stage: Any) -> Iterator[Compared]:
    theirs, ours = control.spec.unet, network.spec
    yield "width at each skip", control.encoder.skips, network.skips
    if any(any(level) for level in theirs.down) or theirs.middle:
        yield "width of text", theirs.context, ours.context
    yield "width of vectors", theirs.vector, ours.vector
    if theirs.in_channels != ours.in_channels:
        yield "number of latent channels", theirs.in_channels, first_stage.channels
    yield "size of a latent's place", control.spec.factor, first_stage.factor


def _t2i_adapter(control: T2IAdapter, network: UNet, first_stage: Any) -> Iterator[Compared]:
    """Of each feature the width and the pixels of the picture that are one of its places."""
    theirs, ours, side = [], [], control.spec.factor
    for level, width in enumerate(control.spec.widths):
        side *= 2 if level in control.spec.resampled else 1
        theirs.append((width, side))
    for level, depths in enumerate(network.spec.down):
        last = level + 1 == len(network.spec.down)
        behind = level if any(depths) or last else level + 1
        ours.append((network.spec.widths[level], first_stage.factor << behind))
    if len(theirs) > len(ours):
        ours.append((network.spec.widths[-1], first_stage.factor << (len(network.spec.widths) - 1)))
    yield "width and scale of each feature", theirs, ours


def _ip_adapter(control: IPAdapter, network: UNet, first_stage: Any) -> Iterator[Compared]:
    widths = tuple(module.q.out_features for module in cross_attentions(network))
    yield "number of cross-attentions", len(control.spec.widths), len(widths)
    yield "width at each cross-attention", control.spec.widths, widths
    yield "width of text", control.spec.context, network.spec.context


def _transformer(control: Any, network: Any, first_stage: Any) -> Iterator[Compared]:
    theirs, ours = control.spec.body, network.spec
    yield "width", theirs.width, ours.width
    yield "width of text", theirs.context, ours.context
    yield "width of vectors", theirs.vector, ours.vector
    read = control.spec.channels if isinstance(control, MMDiTControlNet) else theirs.in_channels
    yield "number of latent channels", (theirs.in_channels, read), (first_stage.channels, first_stage.channels)


COMPARE: dict[type, Callable[[Any, Any, Any], Iterator[Compared]]] = {
    ControlNet: _controlnet,
    MMDiTControlNet: _transformer,
    FluxControlNet: _transformer,
    T2IAdapter: _t2i_adapter,
    IPAdapter: _ip_adapter,
}


def check_tower(path: Path, adapter: IPAdapterSpec, tower: CLIPImageSpec) -> None:
    """Refuse an image tower that an IP-Adapter was not trained with.

    Raises:
        MaquetteError: the widths of what one gives and the other reads differ.
    """
    given = tower.projection if adapter.reads == "projected" else tower.width
    if given != adapter.image:
        known = {1024: "ViT-H", 1280: "ViT-H" if adapter.reads == "patches" else "ViT-bigG"}.get(adapter.image)
        raise MaquetteError(
            f"{path}: reads {adapter.image} numbers of the image tower{f' ({known})' if known else ''}, this tower "
            f"gives {given}; give the one that it was trained with as tower="
        )
