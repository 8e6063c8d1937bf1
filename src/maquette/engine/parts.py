"""A file's networks: its tensors divided by prefix, each network told by the marks of its layout, from names alone."""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from maquette.engine.build import outline
from maquette.engine.kinds import Kind, find_dialect
from maquette.errors import MaquetteError
from maquette.families.family import Latent, Reading
from maquette.models import published
from maquette.models.clip_names import OPEN_CLIP
from maquette.weights.dialect import BOOKKEEPING, Account, Dialect, account
from maquette.weights.precision import descaled
from maquette.weights.view import Chosen, Weights, describe, ema, select

# What stands before the names of each network in original single files; text encoders in the order of their reading.
PREFIXES = (
    "model.diffusion_model.",
    "first_stage_model.",
    "vae.",
    "cond_stage_model.transformer.",
    "cond_stage_model.1.transformer.",  # stable-diffusion.cpp's second tower
    "cond_stage_model.model.",
    "cond_stage_model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.0.model.",
    "conditioner.embedders.1.model.",
    "text_encoders.clip_l.transformer.",
    "text_encoders.clip_g.transformer.",
    "text_encoders.t5xxl.transformer.",
    "control_model.",
    "params_ema.",
    "params.",
)
AVERAGES = "model_ema."
NUMBER = re.compile(r"\d+")
PUBLISHED_LAYERS = {published.OPEN_CLIP_H_TEXT.width: published.OPEN_CLIP_H_TEXT.layers}  # of towers that may be cut
# Tensors without a prefix that say how a model was trained.
MARKERS = ("v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std")
# Nobody needs them: the schedule and the losses, logit scales and projections beside the towers, T5's pieces, what a
# training of words kept, the network that estimates SD 2's depth.
IGNORED = (
    *BOOKKEEPING,
    *map(re.escape, MARKERS),
    r"model_ema\..*",
    r"(.*\.)?logit_scale",
    r"(cond_stage_model|conditioner\.embedders\.\d)\.(text_projection|logit_scale)(\..*)?",
    r"embedding_manager\..*",
    r"(.*\.)?(spiece_model|scaled_fp8)",
    r"depth_model\..*",
    r"cond_stage_model\.(clip_l|clip_h|clip_g)\..*",
    r"global_step|iteration",
)

STRICT = ("denoiser", "control", "upscaler")
"""The roles of networks that are refused where a tensor is left over: it may be a part of what they compute."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network of a model: what it is, and its tensors in the names of its layout."""

    kind: Kind
    dialect: Dialect[Any, Any]
    spec: Any
    weights: Weights
    path: Path
    latent: Latent | None = None
    """Of a first stage, if a config beside it says it."""
    configured: bool = False
    """The spec is from a config beside the weights, not from their shapes."""

    def network(self) -> Any:
        """The network without memory behind its tensors."""
        try:
            return outline(self.kind.network, self.spec)
        except (ArithmeticError, ValueError, RuntimeError) as error:
            raise self._damaged(error) from error

    def read(self, network: Any) -> Weights:
        """The tensors of the network in our names.

        Raises:
            MaquetteError: a tensor is missing, or of another shape than the network's; or one is left over, and the
            network is one that paints.
        """
        try:
            return self.dialect.read(self._known(network), network)
        except (IndexError, RuntimeError) as error:  # a number where a matrix belongs
            raise self._damaged(error) from error

    def _known(self, network: Any) -> Weights:
        """The tensors without those that the network does not know, with a warning, if it is one that may have such.

        What only its number tells from a tensor that the network reads is a layer behind one that is missing.
        """
        table = self.dialect.table(network)
        needed = {name for source in table.values() for name in source.names}
        layers = {NUMBER.sub("#", name) for name in needed}
        surplus = self.account(network).surplus
        if self.kind.role in STRICT or any(NUMBER.sub("#", name) in layers for name in surplus):
            return self.weights
        if surplus:
            warn_of_surplus(self.path, surplus, f"of its {self.kind.name}")
        return Chosen(self.weights, {name: name for name in self.weights if name in needed})

    def _damaged(self, error: Exception) -> MaquetteError:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        return MaquetteError(f"{self.path}: the shapes of its {self.kind.name} belong to no network ({reason:.100})")

    def account(self, network: Any = None) -> Account:
        """The tensors that the network needs and are not there, and those that it does not know."""
        table = self.dialect.table(self.network() if network is None else network)
        ignored = self.dialect.ignored if self.kind.role in STRICT else (*self.dialect.ignored, *IGNORED)
        return account(self.weights, (n for source in table.values() for n in source.names), ignored)


def warn_of_surplus(path: Path, names: Sequence[str], what: str) -> None:
    """Say which tensors of a file are not read."""
    more = ", ..." if len(names) > 3 else ""
    warnings.warn(f"{path}: {len(names)} tensors {what} are not read: {', '.join(names[:3])}{more}", stacklevel=2)


def unread_layers(reading: Reading, part: Part) -> int:
    """How many of a tower's last layers a family leaves out; some files were saved without those.

    The depth of the published tower of its width tells; where there is none, the layout.
    """
    if not reading.cut:
        return reading.skip
    missing = PUBLISHED_LAYERS.get(part.spec.width, math.inf) - part.spec.layers
    if 0 <= missing <= reading.skip:
        return reading.skip - int(missing)
    return reading.skip if part.dialect.name in OPEN_CLIP else 0


class Split(NamedTuple):
    """A file's networks, in the order of `PREFIXES`, and the names that belong to none."""

    parts: tuple[Part, ...]
    surplus: tuple[str, ...]
    prefixes: tuple[str, ...]
    """What stood before the names of each part."""


def split(weights: Weights, path: Path, *, averaged: bool = False, roles: tuple[str, ...] = ()) -> Split:
    """Divide a file into its networks; of a whole CLIP the tower of `roles` is taken, or the text's.

    `averaged` takes the moving average of the weights where a training checkpoint holds both.

    Raises:
        MaquetteError: a part is in none of the known layouts, or its shapes do not belong together.
    """
    weights = descaled(ema(weights) if averaged else weights)
    parts: list[Part] = []
    prefixes: list[str] = []
    owned: set[str] = set()
    for prefix in PREFIXES:
        view = select(weights, prefix)
        if len(view) and find_dialect(view) is not None:
            parts.append(make_part(view, path, roles))
            prefixes.append(prefix)
            owned.update(prefix + name for name in view)
    rest = [name for name in weights if name not in owned]
    left = account(rest, (), IGNORED).surplus
    bare = Chosen(weights, {name: name for name in left})
    if left and find_dialect(bare) is not None:
        parts.append(make_part(bare, path, roles))
        prefixes.append("")
        left = []
    return Split(tuple(parts), tuple(left), tuple(prefixes))


def make_part(view: Weights, path: Path, roles: tuple[str, ...] = ()) -> Part:
    """The network that a view is, its spec read off the shapes; `roles` as `split` has them."""
    found = find_dialect(view, roles)
    if found is None:
        raise MaquetteError(
            f"{describe(view)}: in none of the known layouts (first tensor: {next(iter(view), None)!r:.80}); "
            "use another file"
        )
    kind, dialect = found
    try:
        spec = dialect.spec(view)
    except (ArithmeticError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise MaquetteError(f"{path}: the shapes of its {kind.name} belong to no network ({reason:.100})") from error
    return Part(kind=kind, dialect=dialect, spec=spec, weights=view, path=path)


def markers(weights: Weights) -> Mapping[str, bool]:
    """The tensors that say how a model was trained, whether each is there."""
    return {name: name in weights for name in MARKERS}
