"""Following pictures: ControlNet, T2I-Adapter and IP-Adapter beside an opened model.

    canny = open_control("control_canny.safetensors", model)
    denoise = controlled(model.denoiser, [canny.follow(edges, scale=0.8, end=0.5)])

`open_control` opens a network, `follow` says which picture, how much and when, and `controlled` wraps the question
*what is x0?* so that its answer heeds all of them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Denoiser
from maquette.diffusion.process import Level, Scalar
from maquette.engine.build import fill
from maquette.engine.control_fit import check_control, check_tower
from maquette.engine.hub import fetch, is_name
from maquette.engine.kinds import CONTROLNET
from maquette.engine.model import Model
from maquette.engine.open import ASSETS
from maquette.engine.parts import Part
from maquette.engine.recognise import part_of
from maquette.errors import MaquetteError
from maquette.families.few_steps import published_name
from maquette.models.clip import CLIPImage, look
from maquette.models.controlnet import ControlNet
from maquette.models.ip_adapter import IPAdapter, looking_at
from maquette.models.t2i_adapter import T2IAdapter
from maquette.models.transformer_controlnet import FluxControlNet, MMDiTControlNet
from maquette.models.unet import UNet
from maquette.weights.open_file import open_weights
from maquette.weights.place import existing

TOWERS = ("image_encoder", "../models/image_encoder")  # where IP-Adapter's published folder has it, seen from a file
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in what a grey picture shows (ITU-R BT.601)

SOFTER = 0.825  # what a block before the middle counts, of the one behind it
SOFT_FEATURES = (0.25, 0.62, 0.825, 1.0)  # what each feature of a T2I-Adapter counts

Mode = Literal["balanced", "prompt", "control"]
"""Which side outweighs the other, as A1111's ControlNet extension has it: with "prompt" and "control" a picture has
less to say the farther a block is from the middle; with "control" it is kept from what is not wanted, so that guidance
strengthens it as it does the words."""

Wrap = Callable[[Denoiser], Denoiser]
Says = Callable[[Tensor, Scalar, Conditioning], tuple[Sequence[Tensor], Sequence[Tensor]]]
"""(x, t, told) -> what is to be added to the conditioning's `control`, and to its `features`."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A picture that is followed while ``first >= time > last``, in the network's time."""

    wrap: Wrap
    first: float = math.inf
    last: float = -math.inf


def controlled(denoise: Denoiser, controls: Iterable[Control]) -> Denoiser:
    """The answer that heeds every control; what they say is added up."""
    for control in controls:
        denoise = _meanwhile(denoise, control)
    return denoise


def _meanwhile(denoise: Denoiser, control: Control) -> Denoiser:
    heeding = control.wrap(denoise)
    return lambda x, level, told: (heeding if control.first >= level.t > control.last else denoise)(x, level, told)


@dataclass(frozen=True, kw_only=True)
class ControlNetwork:
    """A network that follows pictures, opened to work with one model; `tower` is what an IP-Adapter sees with."""

    path: Path
    model: Model
    network: ControlNet | MMDiTControlNet | FluxControlNet | T2IAdapter | IPAdapter
    tower: CLIPImage | None = None

    @torch.no_grad()
    def follow(
        self,
        picture: Tensor,
        *,
        scale: float = 1.0,
        start: float = 0.0,
        end: float = 1.0,
        mode: Mode = "balanced",
        negative: bool | None = None,
        against: Tensor | None = None,
        kind: int | None = None,
    ) -> Control:
        """Follow a picture (1 or B, 3, H, W) in [0, 1], from the share `start` of the process's time up to `end`.

        Its size is that of what is painted; for an IP-Adapter it may be any. `negative` says whether that which is not
        wanted follows it too: by default it does, but for an IP-Adapter and in the mode "control", as each was made.
        With an IP-Adapter what is not wanted looks at the picture `against`, by default an empty one. `kind` is the
        number of the kind of picture, for a ControlNet that follows several.

        Raises:
            MaquetteError: it is no picture, or of a size that cannot be painted, or `start` is not before `end`, or
                something is asked for that this kind of network does not have.
        """
        self._check(picture, mode, against)
        if not 0.0 <= start < end <= 1.0:
            raise MaquetteError(f"control: got start {start:g} and end {end:g}; give 0 <= start < end <= 1")
        picture = picture.to(self.model.device)
        if isinstance(self.network, IPAdapter):
            assert self.tower is not None
            away = picture if negative else against
            wrap = _attention(self.network, self.tower, self.model.network, picture, scale, away)
        else:
            size = picture.shape[2], picture.shape[3]
            if any(side % self.model.multiple for side in size):
                raise MaquetteError(
                    f"control: got a picture of {size[1]}x{size[0]}; its sides must be multiples of "
                    f"{self.model.multiple}, as those of what is painted"
                )
            factor, both = self.model.first_stage.vae.spec.factor, mode != "control" if negative is None else negative
            says = self._says(picture, kind)
            if mode != "balanced":
                says = _softened(says, adapter=isinstance(self.network, T2IAdapter))
            wrap = _addition(says, size, factor, float(scale), both)
        process = self.model.process
        return Control(
            wrap=wrap,
            first=math.inf if start == 0.0 else (1.0 - start) * process.start + start * process.end,
            last=-math.inf if end == 1.0 else (1.0 - end) * process.start + end * process.end,
        )

    def _check(self, picture: Tensor, mode: Mode, against: Tensor | None) -> None:
        for each in (picture, picture if against is None else against):
            if each.ndim != 4 or each.shape[1] != 3:
                raise MaquetteError(f"control: got a picture of shape {tuple(each.shape)}; give (1 or B, 3, H, W)")
        if mode not in get_args(Mode):
            raise MaquetteError(f"control: got the mode {mode!r}; give one of {', '.join(get_args(Mode))}")
        if isinstance(self.network, IPAdapter):
            if mode != "balanced":
                raise MaquetteError(
                    f"{self.path}: an IP-Adapter is kept from what is not wanted; it has no mode {mode}"
                )
        elif against is not None:
            raise MaquetteError(f"{self.path}: only an IP-Adapter has a picture for what is not wanted; leave it out")

    def _says(self, picture: Tensor, kind: int | None) -> Says:
        """What the network says of a picture; all that does not depend on the time is computed here."""
        match self.network:
            case ControlNet() as network:
                hint = network.read(_channels(picture, network.spec.channels))
                return lambda x, t, told: (network(x, t, told, _rows(_under(hint, told), x)), ())
            case MMDiTControlNet() as network:
                hint = network.read(self._latent(picture, shifted=not network.spec.unpooled))
                return lambda x, t, told: (network(x, t, told, _rows(_under(hint, told), x)), ())
            case FluxControlNet() as network:
                hint = network.read(self._latent(picture))
                return lambda x, t, told: network(x, t, told, _rows(_under(hint, told), x), kind)
            case T2IAdapter() as network:
                whole = _filled(picture, network.spec.factor)
                features = network(_channels(whole, network.spec.channels))
                return lambda x, t, told: (
                    (),
                    [_rows(_under(each, told), x).expand(len(x), -1, -1, -1) for each in features],
                )
            case _:
                raise AssertionError(type(self.network))

    def _latent(self, picture: Tensor, *, shifted: bool = True) -> Tensor:
        """The scaled latent of a picture in [0, 1]; some networks were trained without the shift."""
        latents, x = self.model.first_stage.latent, self.model.encode((2 * picture - 1).to(self.model.dtype))
        return x if shifted else replace(latents, shift=0.0).scaled(latents.unscaled(x))


def open_control(
    name: str | Path, model: Model, *, tower: str | Path | None = None, variant: str | None = None
) -> ControlNetwork:
    """Open a ControlNet, T2I-Adapter or IP-Adapter, told by its tensors, to work with a model, where the model is.

    `name` is a file, a diffusers folder, one of the package's by name, or a name of the hub. `tower` is the CLIP image
    tower of an IP-Adapter, by default the folder `image_encoder` that is published beside it.

    Raises:
        MaquetteError: there is no such network, it is damaged, or was made for another kind of model.
    """
    path = _find(name, variant)
    _check_whole(path, variant)
    part = _pooled_by_name(part_of(path, ("control",), "a ControlNet, T2I-Adapter or IP-Adapter", variant))
    network = part.network()
    weights = part.read(network)
    check_control(path, network, model.name, model.network, model.first_stage.vae.spec)
    sees = _find_tower(path, network, tower) if isinstance(network, IPAdapter) else None
    return ControlNetwork(
        path=path,
        model=model,
        network=fill(network, weights, model.device, model.dtype),
        tower=None if sees is None else _opened(sees, model),
    )


def _check_whole(path: Path, variant: str | None) -> None:
    """Refuse what holds differences from a U-Net in place of weights, which a tensor of that name says."""
    weights = open_weights(path, variant)
    marks = {"difference": "a ControlNet's difference from a U-Net", "lora_controlnet": "a Control-LoRA"}
    for mark, what in marks.items():
        if mark in weights or f"control_model.{mark}" in weights:
            raise MaquetteError(f"{path}: holds {what}, which is not supported; give the whole ControlNet")


def _pooled_by_name(part: Part) -> Part:
    """A ControlNet that speaks of the whole picture at once, if it is named as the published one (shuffle)."""
    if part.kind is CONTROLNET and not part.configured and "shuffle" in published_name(part.path):
        return replace(part, spec=replace(part.spec, pooled=True))
    return part


def _find(name: str | Path, variant: str | None = None) -> Path:
    if (path := existing(name)) is not None:
        return path
    if str(name) in names():
        return ASSETS / str(name)
    if isinstance(name, str) and is_name(name):
        return fetch(name, variant, flat=True)
    raise MaquetteError(
        f"there is no control {str(name)!r:.200}: give one of {', '.join(names()) or 'none'}, a file, a folder, or a "
        "name of the hub"
    )


def names() -> list[str]:
    """The control networks in the package."""
    return sorted(file.parent.name for file in ASSETS.glob("*/diffusion_pytorch_model.safetensors"))


def _find_tower(path: Path, adapter: IPAdapter, given: str | Path | None) -> Part:
    """The image tower that an adapter sees with: the given one, or the first of those beside it that fits."""
    if given is not None:
        tower = part_of(_find(given), ("image",), "a CLIP image tower")
        check_tower(path, adapter.spec, tower.spec)
        return tower
    beside = [path.parent / each for each in TOWERS if (path.parent / each).is_dir()]
    if not beside:
        raise MaquetteError(f"{path}: an IP-Adapter needs the CLIP image tower that it was trained with; give tower=")
    towers = [part_of(each, ("image",), "a CLIP image tower") for each in beside]
    for tower in towers[:-1]:
        try:
            check_tower(path, adapter.spec, tower.spec)
        except MaquetteError:
            continue
        return tower
    check_tower(path, adapter.spec, towers[-1].spec)
    return towers[-1]


def _opened(part: Part, model: Model) -> CLIPImage:
    network = part.network()
    tower: CLIPImage = fill(network, part.read(network), model.device, model.dtype)
    return tower


def _addition(says: Says, size: tuple[int, int], factor: int, scale: float, both: bool) -> Wrap:
    """Tell the network what a control says of a picture of this size (height, width)."""

    def wrap(denoise: Denoiser) -> Denoiser:
        def heeding(x: Tensor, level: Level, told: Conditioning) -> Tensor:
            _check_size(size, factor, x, told)
            control, features = says(x, level.t, told)
            strength = scale if both or told.unwanted is None else scale * (1.0 - told.unwanted.to(x))
            told = replace(
                told,
                control=_sum(told.control, control, strength),
                features=_sum(told.features, features, strength),
            )
            return denoise(x, level, told)

        return heeding

    return wrap


def _softened(says: Says, adapter: bool) -> Says:
    """What is said, weaker the farther a block is from the middle; the U-Nets of A1111 have up to 13."""

    def softly(x: Tensor, t: Scalar, told: Conditioning) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        control, features = says(x, t, told)
        of_features = SOFT_FEATURES[-len(features) :] if adapter else _soft(len(features))
        return _times(_soft(len(control)), control), _times(of_features, features)

    return softly


def _soft(count: int) -> list[float]:
    """What each block counts: 0.825^12 the first, 0.825^11 the next, ...; of 13 and more the last counts 1."""
    apart = 12 / max(count - 1, 12)
    return [SOFTER ** (12 - k * apart) for k in range(count)]


def _times(weights: Sequence[float], each: Sequence[Tensor]) -> list[Tensor]:
    return [weight * tensor for weight, tensor in zip(weights, each, strict=True)]


def _attention(
    adapter: IPAdapter, tower: CLIPImage, unet: UNet, picture: Tensor, scale: float, against: Tensor | None
) -> Wrap:
    """Let the cross-attentions look at a picture; rows of what is not wanted look at another, or an empty one."""

    def see(picture: Tensor) -> tuple[Tensor, ...]:
        said: tuple[Tensor, ...] = adapter(adapter.read(tower(look(picture.to(tower.device).float(), tower.spec.size))))
        return said

    seen = see(picture)
    if against is not None:
        empty = see(against)
    elif adapter.spec.reads == "projected":
        empty = adapter(torch.zeros(1, adapter.spec.image, device=tower.device))
    else:
        empty = adapter(adapter.read(tower(torch.zeros(1, 3, tower.spec.size, tower.spec.size))))

    def wrap(denoise: Denoiser) -> Denoiser:
        def heeding(x: Tensor, level: Level, told: Conditioning) -> Tensor:
            layers = [_rows(each, x).expand(len(x), -1, -1) for each in seen]
            if told.unwanted is not None:
                away = told.unwanted.to(x.device)[:, None, None] > 0.5
                layers = [torch.where(away, _rows(none, x), some) for none, some in zip(empty, layers, strict=True)]
            with looking_at(unet, layers, scale):
                return denoise(x, level, told)

        return heeding

    return wrap


def _channels(picture: Tensor, channels: int) -> Tensor:
    """The picture's colours, or how bright it is."""
    if channels != 1:
        return picture
    return (picture * torch.tensor(LUMA, device=picture.device)[:, None, None]).sum(1, keepdim=True)


def _filled(picture: Tensor, multiple: int) -> Tensor:
    """The picture, its right and bottom edges repeated until its sides are multiples."""
    bottom, right = (-side % multiple for side in picture.shape[2:])
    return F.pad(picture, (0, right, 0, bottom), mode="replicate") if bottom or right else picture


def _under(each: Tensor, told: Conditioning) -> Tensor:
    """The part of a map (B, C, h, w), or of patches in rows (B, h w, C), that lies where the noisy data does."""
    if told.window is None:
        return each
    if each.ndim == 4:
        return told.window.of(each)
    height, width = told.window.whole
    patch = math.isqrt(height * width // each.shape[1])
    part = told.window.of(each.unflatten(1, (height // patch, width // patch)).movedim(3, 1))
    return part.movedim(1, 3).flatten(1, 2)


def _check_size(size: tuple[int, int], factor: int, x: Tensor, told: Conditioning) -> None:
    height, width = (side * factor for side in (x.shape[2:] if told.window is None else told.window.whole))
    if size != (height, width):
        raise MaquetteError(
            f"control: the picture to follow is {size[1]}x{size[0]}, what is painted is {width}x{height}; bring it to "
            "that size"
        )


def _rows(each: Tensor, x: Tensor) -> Tensor:
    """As many rows as x has, or one: what is told of some pictures is told again of every other half of guidance."""
    if len(each) == 1:
        return each
    times, rest = divmod(len(x), len(each))
    if rest:
        raise MaquetteError(f"control: got {len(each)} pictures to follow for {len(x)} rows; give one, or one for each")
    return each.repeat(times, *[1] * (each.ndim - 1))


def _sum(old: Sequence[Tensor], new: Sequence[Tensor], strength: float | Tensor) -> tuple[Tensor, ...]:
    """What was said before, and what is said now, as strong as `strength` says, for each row (B,) or for all."""
    scaled = [(strength if isinstance(strength, float) else _by_row(strength, each)) * each for each in new]
    if not old or not scaled:
        return tuple(old) or tuple(scaled)
    if len(old) != len(scaled):
        raise MaquetteError(
            f"control: got networks that speak to {len(old)} and to {len(scaled)} blocks; these do not go together"
        )
    return tuple(a + b for a, b in zip(old, scaled, strict=True))


def _by_row(strength: Tensor, each: Tensor) -> Tensor:
    return strength.reshape(-1, *[1] * (each.ndim - 1))
