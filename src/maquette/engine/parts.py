"""A file's networks: its tensors divided by prefix, each network told by the marks of its layout, from names alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from maquette.engine.build import outline
from maquette.engine.kinds import Kind, find_dialect
from maquette.errors import MaquetteError
from maquette.families.family import Latent
from maquette.weights.dialect import BOOKKEEPING, Account, Dialect, account
from maquette.weights.precision import descaled
from maquette.weights.view import Chosen, Weights, describe, ema, select

# What stands before the names of each network in original single files; text encoders in the order of their reading.
PREFIXES = (
    "model.diffusion_model.",
    "first_stage_model.",
    "vae.",
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "cond_stage_model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.0.model.",
    "conditioner.embedders.1.model.",
    "text_encoders.clip_l.transformer.",
    "text_encoders.clip_g.transformer.",
    "text_encoders.t5xxl.transformer.",
    "control_model.",
)
AVERAGES = "model_ema."
# Tensors without a prefix that say how a model was trained.
MARKERS = ("v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std")
# Nobody needs them: the schedule and the losses, logit scales, T5's pieces, the network that estimates SD 2's depth.
IGNORED = (
    *BOOKKEEPING,
    *map(re.escape, MARKERS),
    r"model_ema\..*",
    r"(.*\.)?logit_scale",
    r"(.*\.)?(spiece_model|scaled_fp8)",
    r"depth_model\..*",
    r"cond_stage_model\.(clip_l|clip_h|clip_g)\..*",
    r"global_step|iteration",
)


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
            MaquetteError: a tensor is missing, left over, or of another shape than the network's.
        """
        try:
            return self.dialect.read(self.weights, network)
        except (IndexError, RuntimeError) as error:  # a number where a matrix belongs
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> MaquetteError:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        return MaquetteError(f"{self.path}: the shapes of its {self.kind.name} belong to no network ({reason:.100})")

    def account(self) -> Account:
        """The tensors that the network needs and are not there, and those that it does not know."""
        table = self.dialect.table(self.network())
        return account(self.weights, (n for source in table.values() for n in source.names), self.dialect.ignored)


class Split(NamedTuple):
    """A file's networks, in the order of `PREFIXES`, and the names that belong to none."""

    parts: tuple[Part, ...]
    surplus: tuple[str, ...]
    prefixes: tuple[str, ...]
    """What stood before the names of each part."""


def split(weights: Weights, path: Path, *, averaged: bool = False) -> Split:
    """Divide a file into its networks.

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
            parts.append(make_part(view, path))
            prefixes.append(prefix)
            owned.update(prefix + name for name in view)
    rest = [name for name in weights if name not in owned]
    left = account(rest, (), IGNORED).surplus
    bare = Chosen(weights, {name: name for name in left})
    if left and find_dialect(bare) is not None:
        parts.append(make_part(bare, path))
        prefixes.append("")
        left = []
    return Split(tuple(parts), tuple(left), tuple(prefixes))


def make_part(view: Weights, path: Path) -> Part:
    """The network that a view is, its spec read off the shapes."""
    found = find_dialect(view)
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
