"""LoRA files as a weight view: adapters found by name and merged into each tensor as it is read.

Module names are not parsed. kohya's spelling replaces every dot by an underscore, which cannot be undone; diffusers,
Stability and Black Forest Labs each name modules differently. So the caller lists, for each of our tensors, how the
dialects spell its module, and a file's modules are looked up in that list.
"""

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from maquette.errors import MaquetteError
from maquette.weights.adapters import Adapter, Parts, make_adapter
from maquette.weights.json_file import read_json
from maquette.weights.view import View, Weights, describe

# How a key ends, and which part of an adapter it is.
_ENDINGS: Mapping[str, str] = {
    **{f".lora_{part}.weight": part for part in ("down", "up", "mid")},  # kohya
    **{f".lora.{part}.weight": part for part in ("down", "up")},  # diffusers, before PEFT
    **{f".lora_linear_layer.{part}.weight": part for part in ("down", "up")},
    **{f"_lora.{part}.weight": part for part in ("down", "up")},  # diffusers' attention processors
    **{
        f".lora_{letter}{name}.weight": part
        for letter, part in (("A", "down"), ("B", "up"))
        for name in ("", ".default")
    },
    **{f".lora_B{name}.bias": "up_bias" for name in ("", ".default")},
    **{f".lora_magnitude_vector{end}": "magnitude" for end in ("", ".weight", ".default", ".default.weight")},
    **{f".{part}": part for part in ("alpha", "dora_scale", "diff", "diff_b")},
    **{f".{part}": part for n in "12" for part in (f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}")},
    **{f".{part}": part for n in "12" for part in (f"lokr_w{n}", f"lokr_w{n}_a", f"lokr_w{n}_b", f"lokr_t{n}")},
    ".w_norm": "diff",  # LyCORIS, for norms
    ".b_norm": "diff_b",
}
_PEFT_ROOT = "base_model.model."
_PEFT_CONFIG = "adapter_config.json"
_XLABS = re.compile(r"(double_blocks\.\d+)\.processor\.(qkv|proj)_lora([12])\.(down|up)\.weight")
_NORMS = (".query_norm.scale", ".key_norm.scale")  # of FLUX.1, which its own LoRAs replace
MISFITS = 0.1  # of the modules may be of another shape and left out; with more it is of another model (SD 1 on SD 2)
FIRST = ("conv_in.weight", "patch_embed.weight")
"""The layers that read the latent; models that read more beside it, behind it, have more inputs there."""


@dataclass(frozen=True, slots=True)
class Target:
    """One of our weights as a place for adapters.

    `spellings` are the names that files give its module, without ".weight". If their module is only some `rows` of
    ours (q of a fused q, k, v), or ours only a `part` of the rows of theirs, these say which; `swap_halves` says that
    the two halves of the rows stand exchanged there.
    """

    name: str
    spellings: tuple[str, ...]
    rows: slice | None = None
    part: slice | None = None
    swap_halves: bool = False


@dataclass(frozen=True, slots=True)
class LoRA:
    """The adapters of one file by module, as the file spells it; `surplus` are keys that belong to none.

    Targets whose names begin as one of `scales` have that scale, all others `scale`.
    """

    source: str
    modules: Mapping[str, Adapter]
    surplus: tuple[str, ...]
    scale: float = 1.0
    scales: Mapping[str, float] = field(default_factory=dict)

    def scale_of(self, target: str) -> float:
        """How strongly the target of this name is changed."""
        return next((scale for begin, scale in self.scales.items() if target.startswith(begin)), self.scale)


class Report(NamedTuple):
    """Which keys of one LoRA found a place in the model, and which did not."""

    source: str
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]


def split_key(key: str) -> tuple[str, str] | None:
    """A LoRA file's key as (module, part); None if it is not one. `x.lora_up.weight` is ("x", "up")."""
    if xlabs := _XLABS.search(key):
        block, layer, stream, part = xlabs.groups()
        return f"{key[: xlabs.start()]}{block}.{'img' if stream == '1' else 'txt'}_attn.{layer}", part
    if key.endswith(_NORMS):
        return key.removesuffix(".scale"), "whole"
    ending = next((ending for ending in _ENDINGS if key.endswith(ending)), None)
    if ending is None:
        return None
    module = key.removesuffix(ending).removeprefix(_PEFT_ROOT)
    return _processor_module(module) if ending.startswith("_") else module, _ENDINGS[ending]


def holds_lora(weights: Weights) -> bool:
    """Whether a file is a LoRA; whole norms of FLUX.1, which its own LoRAs hold as well, make none."""
    return any(split is not None and split[1] != "whole" for split in map(split_key, weights))


def _processor_module(module: str) -> str:
    """The module that an attention processor's layer stood for: `attn1.processor.to_out` is `attn1.to_out.0`."""
    parent, _, leaf = module.rpartition(".")
    if parent.endswith("self_attn"):  # CLIP's attention has other names
        return f"{parent}.{leaf.replace('to_', '')}_proj"
    return f"{parent.removesuffix('.processor')}.{'to_out.0' if leaf == 'to_out' else leaf}"


def read_lora(weights: Weights, scale: float = 1.0) -> LoRA:
    """The adapters of a LoRA file of any spelling: kohya, LyCORIS (LoCon, LoHa, LoKr, full), DoRA, diffusers, PEFT.

    Raises:
        MaquetteError: the file holds no adapter, or half of one.
    """
    source = describe(weights)
    if not math.isfinite(scale):
        raise MaquetteError(f"{source}: the scale {scale} is no number to multiply by; give one such as 0.8")
    grouped: dict[str, dict[str, str]] = {}
    surplus = []
    for key in weights:
        split = split_key(key)
        if split is None:
            surplus.append(key)
        elif split[1] in grouped.setdefault(split[0], {}):
            raise MaquetteError(f"{source}: module {split[0]!r} has two keys for its {split[1]}; use another file")
        else:
            grouped[split[0]][split[1]] = key
    if not holds_lora(weights):
        raise MaquetteError(f"{source}: holds no LoRA (first tensor: {next(iter(weights), None)!r}); use another file")
    settings, beside = _peft_settings(weights, source), _settings_beside(weights)
    peft = {root: _peft(*((settings, root) if beside is None else (beside, ""))) for root in map(_root, grouped)}
    modules = {}
    for module, keys in grouped.items():
        its = peft[_root(module)]
        modules[module] = make_adapter(source, module, Parts(weights, keys), _alpha(its, module), its.power)
    return LoRA(source, modules, tuple(surplus), scale)


class _Peft(NamedTuple):
    """What PEFT's settings say of one network's adapters."""

    alpha: float | None
    alphas: Mapping[str, object]  # by the end of a module's name
    power: float


def _peft_settings(weights: Weights, source: str) -> Mapping[str, object]:
    """The settings that diffusers keeps as JSON in the metadata: `unet.lora_alpha`, `unet.alpha_pattern`, ..."""
    try:
        settings = json.loads(weights.metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError) as error:
        raise MaquetteError(f"{source}: its lora_adapter_metadata are damaged; remove them") from error
    return settings if isinstance(settings, dict) else {}


def _settings_beside(weights: Weights) -> Mapping[str, object] | None:
    """The settings in a PEFT folder, `adapter_config.json` beside `adapter_model...`; ranks are those of the shapes."""
    path = weights.source(next(iter(weights)))
    if path is None or path.stem != "adapter_model" or not (path.parent / _PEFT_CONFIG).is_file():
        return None
    return read_json(path.parent / _PEFT_CONFIG)


def _peft(settings: Mapping[str, object], root: str) -> _Peft:
    """The settings of the network whose modules start with `root`; in a PEFT folder they are without it."""
    alpha, alphas = settings.get(root + "lora_alpha"), settings.get(root + "alpha_pattern")
    return _Peft(
        float(alpha) if isinstance(alpha, int | float) else None,
        # The names are regular expressions by rights, but written literally.
        {name.strip("^$").replace("\\.", "."): a for name, a in alphas.items()} if isinstance(alphas, dict) else {},
        0.5 if settings.get(root + "use_rslora") is True else 1.0,
    )


def _root(module: str) -> str:
    """The network that a dotted name starts with: "unet." of `unet.mid_block.attentions.0`."""
    return module.partition(".")[0] + "."


def _alpha(peft: _Peft, module: str) -> float | None:
    """The alpha of a module: of the longest end of its name that has one, or everybody's."""
    words = module.split(".")
    ends = (".".join(words[start:]) for start in range(len(words)))
    own = next((peft.alphas[end] for end in ends if end in peft.alphas), None)
    return float(own) if isinstance(own, int | float) else peft.alpha


class _Edit(NamedTuple):
    """One adapter's change to one of our tensors."""

    adapter: Adapter
    scale: float
    target: Target


class Merged(View):
    """A view with adapters merged into its tensors as they are read; made by `with_lora`.

    `reports` tells what of each file was used, `changed` which tensors differ from the base.
    """

    def __init__(
        self,
        base: Weights,
        weights: Mapping[str, Sequence[_Edit]],
        biases: Mapping[str, Sequence[_Edit]],
        reports: tuple[Report, ...],
    ) -> None:
        super().__init__(base)
        self._weights = weights
        self._biases = biases
        self.reports = reports
        self.changed = frozenset({*weights, *biases})

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.base[name]
        if name not in self.changed:
            return tensor
        # All adapters are computed from the weight of the base, so their order does not matter.
        base = tensor.to(torch.float32)
        merged = base.clone()
        for edits, of_bias in ((self._weights.get(name, ()), False), (self._biases.get(name, ()), True)):
            for adapter, scale, target in edits:
                rows = target.rows or slice(None)
                theirs = _swap(base[rows], target)
                delta = (adapter.bias if of_bias else adapter.delta)(theirs, target.part)
                merged[rows] += scale * _swap(delta, target)
        return merged if tensor.dtype.itemsize == 1 else merged.to(tensor.dtype)  # float8 would round a LoRA away


def _swap(rows: Tensor, target: Target) -> Tensor:
    """The two halves of the rows exchanged, if the target's stand so; its own inverse."""
    return rows.roll(len(rows) // 2, dims=0) if target.swap_halves else rows


def with_lora(base: Weights, loras: Sequence[LoRA], targets: Iterable[Target]) -> Merged:
    """The base with all `loras` merged, each times its scale: W + sum of scale_i * (W_i - W).

    To take them out again, read the names in `changed` from the base.

    Raises:
        MaquetteError: a LoRA matches nothing, or more than a stray module of it is of another shape.
    """
    targets = tuple(targets)
    weights: dict[str, list[_Edit]] = {}
    biases: dict[str, list[_Edit]] = {}
    reports = []
    for lora in loras:
        used: set[str] = set()
        misfits: list[str] = []
        for target in targets:
            found = _find(lora, target)
            if found is None or target.name not in base:
                continue
            if misfit := _misfit(base, target, found):
                _check_inputs(base, target, found)
                misfits.append(misfit)
                continue
            edit = _Edit(found, lora.scale_of(target.name), target)
            if found.algebra is not None:
                weights.setdefault(target.name, []).append(edit)
                used |= found.weight_keys
            bias = target.name.removesuffix("weight") + "bias"
            if found.has_bias and bias in base:
                biases.setdefault(bias, []).append(edit)
                used |= found.bias_keys
        reports.append(_report(lora, used, targets, misfits))
    return Merged(base, weights, biases, tuple(reports))


def _find(lora: LoRA, target: Target) -> Adapter | None:
    """The file's adapter for this target."""
    hits = [spelling for spelling in dict.fromkeys(target.spellings) if spelling in lora.modules]
    if len(hits) > 1:
        raise MaquetteError(f"{lora.source}: {' and '.join(map(repr, hits))} are the same module; use another file")
    return lora.modules[hits[0]] if hits else None


def _misfit(base: Weights, target: Target, found: Adapter) -> str | None:
    """What is wrong with the shape of an adapter, if anything is; `FIRST` layers may have more inputs than it."""
    shape = base.shape(target.name)
    rows = len(range(shape[0])[target.rows or slice(None)])
    fewer = target.name.rpartition(":")[2] in FIRST
    if found.fits((rows, *shape[1:]), target.part, fewer=fewer):
        return None
    return f"module {found.module!r} does not fit {target.name!r} of shape {(rows, *shape[1:])}"


def _check_inputs(base: Weights, target: Target, found: Adapter) -> None:
    """Refuse a LoRA that lets a transformer read more beside the latent than the model that is open does."""
    if target.name.rpartition(":")[2] == FIRST[1] and found.inputs > math.prod(base.shape(target.name)[1:]):
        raise MaquetteError(
            f"{found.source}: lets the model read a picture beside the latent; open the model with it "
            "(--lora, or loras= of maquette.open) instead of naming it in a request"
        )


def _report(lora: LoRA, used: set[str], targets: Sequence[Target], misfits: Sequence[str]) -> Report:
    keys = [key for found in lora.modules.values() for key in found.parts.keys.values()]
    if not used or len(misfits) > max(1, int(MISFITS * len(lora.modules))):
        raise MaquetteError(f"{lora.source}: {_why_unused(lora, targets, misfits)}")
    if misfits:
        more = f", and {len(misfits) - 1} more" if len(misfits) > 1 else ""
        warnings.warn(f"{lora.source}: {misfits[0]}{more}; left out", stacklevel=3)
    matched = tuple(key for key in keys if key in used)
    return Report(lora.source, matched, tuple(key for key in keys if key not in used) + lora.surplus)


def _why_unused(lora: LoRA, targets: Sequence[Target], misfits: Sequence[str]) -> str:
    """Why nothing of a file has a place in a model."""
    if misfits:
        return f"{misfits[0]}; the LoRA was made for another model"
    if lora.surplus and not any(found.algebra or found.has_bias for found in lora.modules.values()):
        return f"its tensors end in {_endings(lora.surplus)}, adapters of an unknown kind; use a LoRA"
    expected = next((spelling for target in targets for spelling in target.spellings), "none")
    return (
        f"none of its {len(lora.modules)} modules is in this model (the first is {next(iter(lora.modules))!r}, the "
        f"model's {expected!r}); the LoRA was made for another family"
    )


def _endings(keys: Iterable[str]) -> str:
    """The last words of some keys, each once."""
    return ", ".join(dict.fromkeys(key.removesuffix(".weight").rpartition(".")[2] for key in keys))
