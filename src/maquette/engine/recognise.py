"""What a model is: told from names, shapes and configs, with the evidence for everything that these cannot say.

The family follows from the structure of the denoiser, by the table of families; the name from the published specs.
Weights do not tell what a network predicts, how latents are scaled or where noise ends: that comes from an argument,
a config beside the file, tensors that serve as marks, its metadata, or else the family's default.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from maquette.diffusion.prediction import EPSILON, PREDICTIONS, V
from maquette.diffusion.process import EDM, Discrete
from maquette.engine.folder import FAMILY_KEY, INDEX, find_scheduler, read_part, read_parts
from maquette.engine.hints import SPELLINGS, Hints, hints, prediction_by_spread
from maquette.engine.kinds import TEXTS
from maquette.engine.parts import Part, split
from maquette.engine.scheduler import ZERO_SNR, is_edm, read_edm, read_flow, read_scheduler
from maquette.engine.widen import Widened, widened
from maquette.errors import MaquetteError
from maquette.families.family import Family, Latent
from maquette.families.few_steps import is_named, of_model, published_name
from maquette.families.known import FAMILIES
from maquette.models.unet import UNetSpec
from maquette.weights.json_file import read_json
from maquette.weights.open_file import open_weights
from maquette.weights.view import Weights, describe

MOST_CHANNELS = 1024  # of a first stage


class Evidence(NamedTuple):
    """Something that the shapes do not say, and what decided it."""

    what: str
    value: str
    why: str
    assumed: bool = False
    """Nothing told it, and other values are as likely."""


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """A model's parts by name ("denoiser", "vae", "text_encoder", ...) and what is known of it.

    `family` is complete: its process, prediction, latents and defaults are those of this model; None where there is no
    denoiser.
    """

    path: Path
    title: str
    family: Family | None
    parts: Mapping[str, Part]
    evidence: tuple[Evidence, ...]
    surplus: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def widened(self) -> bool:
        """Whether a LoRA that it was opened with lets the denoiser read more than its file does."""
        denoiser = self.parts.get("denoiser")
        return denoiser is not None and isinstance(denoiser.weights, Widened)

    @property
    def is_folder(self) -> bool:
        return self.path.is_dir()


class Wishes(NamedTuple):
    """What the caller says of a model: it counts before everything else."""

    family: str | None = None
    prediction: str | None = None
    variant: str | None = None
    averaged: bool = False
    vae: Path | None = None
    texts: tuple[Path, ...] = ()
    loras: tuple[Path, ...] = ()


NO_WISHES = Wishes()


def recognise(path: Path, wishes: Wishes = NO_WISHES) -> Recognition:
    """Say what a file or a folder in the diffusers layout is, without reading tensor data.

    Raises:
        MaquetteError: it is damaged, in no known layout, or not of the family that was asked for.
    """
    if wishes.averaged and path.is_dir():
        raise MaquetteError(f"{path}: a folder keeps one set of weights; averaged is for training checkpoints")
    return _folder(path, wishes) if (path / INDEX).is_file() else _file(path, wishes)


def _file(path: Path, wishes: Wishes) -> Recognition:
    weights = open_weights(path, wishes.variant)
    if path.is_dir():
        part = read_part(path, wishes.variant)
        found: Sequence[Part] = (part,)
        surplus: tuple[str, ...] = ()
    else:
        found, surplus, _ = split(weights, path, averaged=wishes.averaged)
    if not found:
        raise MaquetteError(
            f"{path}: in none of the known layouts (first tensor: {next(iter(weights), None)!r:.80}); use another file"
        )
    denoiser = _only([part for part in found if part.kind.role == "denoiser"], path)
    first_stage = _only([part for part in found if part.kind.role == "vae"], path)
    texts = [part for part in found if part.kind.role in TEXTS]
    if denoiser is None:
        parts = {part.kind.name if part.kind.role != "vae" else "vae": part for part in found}
        title = ", ".join(part.kind.name for part in found)
        return Recognition(
            path=path, title=title, family=None, parts=parts, evidence=(), surplus=surplus, metadata=weights.metadata
        )
    says = dict(hints(path, weights))
    denoiser = widened(denoiser, wishes.loras)
    parts = {"denoiser": denoiser} | ({} if first_stage is None else {"vae": first_stage})
    family, evidence = _choose_family(parts, texts, wishes, says, path)
    family, measured = _with_tensors(family, weights)
    recognition = Recognition(
        path=path,
        title=_title(denoiser.spec, family),
        family=family,
        parts=parts,
        evidence=(*_invisible(denoiser, weights), *evidence, *measured),
        surplus=surplus,
        metadata=weights.metadata,
    )
    return _with_given(recognition, texts, wishes)


def _only(parts: list[Part], path: Path) -> Part | None:
    if len(parts) > 1:
        raise MaquetteError(f"{path}: holds {len(parts)} of {parts[0].kind.name}; use a file with one model")
    return parts[0] if parts else None


def _folder(path: Path, wishes: Wishes) -> Recognition:
    index, parts = read_json(path / INDEX), read_parts(path, wishes.variant)
    parts["denoiser"] = widened(parts["denoiser"], wishes.loras)
    texts = [part for part in parts.values() if part.kind.role in TEXTS]
    says: dict[str, tuple[str, str]] = {}
    named = index.get(FAMILY_KEY)
    if wishes.family is None and isinstance(named, str) and named in FAMILIES:
        wishes = wishes._replace(family=named)
    scheduler = find_scheduler(path)
    options = read_json(scheduler) if scheduler.is_file() else None
    if options is not None and is_edm(options):
        says["family"] = ("cosxl" if options.get("sigma_data") == 1 else "playground-2.5", f"{scheduler.name}: EDM")
    elif options is not None and "prediction_type" in options:
        says["prediction"] = (str(options["prediction_type"]), f"prediction_type in {scheduler.name}")
    family, evidence = _choose_family(parts, texts, wishes, says, path)
    if options is not None:
        family = _with_scheduler(family, options, str(scheduler), wishes)
    if isinstance(index.get("force_zeros_for_empty_prompt"), bool):
        family = replace(family, zero_empty_negative=index["force_zeros_for_empty_prompt"])
    recognition = Recognition(
        path=path,
        title=_title(parts["denoiser"].spec, family),
        family=_with_size(family, path, parts),
        parts={name: part for name, part in parts.items() if part.kind.role not in TEXTS},
        evidence=evidence,
    )
    return _with_given(recognition, texts, wishes)


def _with_scheduler(family: Family, options: Mapping[str, Any], where: str, wishes: Wishes) -> Family:
    """The family with the process of a folder's scheduler, and its prediction if nobody asked for another."""
    if is_edm(options):
        edm, prediction = read_edm(options, where)
        return replace(family, process=edm, prediction=prediction if wishes.prediction is None else family.prediction)
    if not isinstance(family.process, Discrete):
        process, by_size = read_flow(options, where, family.process)
        return replace(family, process=process, shift_by_size=by_size)
    discrete, prediction = read_scheduler(options, where)
    prediction = prediction if wishes.prediction is None else family.prediction
    if prediction is EPSILON and discrete.at(discrete.start).alpha == 0.0:
        plain = {name: value for name, value in options.items() if name != ZERO_SNR}
        warnings.warn(f"{where}: {ZERO_SNR} needs v, and the network predicts epsilon: not used", stacklevel=5)
        discrete, _ = read_scheduler(plain, where)
    return replace(family, process=discrete, prediction=prediction)


def _with_size(family: Family, path: Path, parts: Mapping[str, Part]) -> Family:
    """The family with the size of pictures that the denoiser's config gives, in latents."""
    config = parts["denoiser"].path / "config.json"
    side = read_json(config).get("sample_size") if config.is_file() else None
    if type(side) is not int or not 0 < side <= 1024:
        return family
    side *= parts["vae"].spec.factor if "vae" in parts else 1
    return replace(family, defaults=replace(family.defaults, width=side, height=side))


def _with_given(found: Recognition, texts: list[Part], wishes: Wishes) -> Recognition:
    """The recognition with its text encoders named, and with parts that the caller gives instead of its own."""
    family, parts, evidence = found.family, dict(found.parts), list(found.evidence)
    assert family is not None
    if wishes.vae is not None:
        parts["vae"] = part_of(wishes.vae, ("vae",), "a first stage")
    given = [part_of(text, TEXTS, "a text encoder") for text in wishes.texts]
    for role in TEXTS:
        wanted = [reading.part for reading in family.readings if reading.kind == role]
        there = _instead([t for t in texts if t.kind.role == role], [t for t in given if t.kind.role == role], wanted)
        if len(there) > len(wanted):
            raise MaquetteError(f"{found.path}: {family.name} reads {len(wanted)} {role} encoders, not {len(there)}")
        # The larger tower is read second in every family with two.
        parts |= dict(zip(wanted, sorted(there, key=lambda part: part.spec.width), strict=False))
    for reading in family.readings:
        part = parts.get(reading.part)
        if part is not None and part.kind.role == "clip" and not part.configured:
            parts[reading.part] = replace(part, spec=replace(part.spec, activation=reading.activation))
            evidence.append(Evidence(reading.part, reading.activation, f"published for {family.name}"))
    latent = parts["vae"].latent if "vae" in parts else None
    if latent is not None:
        overflows, measured = latent.overflows and family.latent.overflows, family.latent.measured
        family = replace(family, latent=replace(latent, overflows=overflows, measured=measured))
    why = "the config beside the first stage" if latent is not None else f"published for {family.name}"
    if not family.pixels and not any(each.what == "latents" for each in evidence):
        evidence.append(Evidence("latents", _formula(family.latent), why))
    if isinstance(family.process, EDM) and latent is not None:  # published configs leave them EDM's spread
        family = replace(family, latent=family.latent.divided(family.process.sigma_data))
    return replace(found, family=family, parts=parts, evidence=tuple(evidence))


def _instead(own: list[Part], given: list[Part], wanted: Sequence[str]) -> list[Part]:
    """A file's towers of a kind with the given ones in place of those as wide, or beside them where there is room."""
    widths = {part.spec.width for part in given}
    kept = [part for part in own if part.spec.width not in widths]
    return [*given, *kept] if not given or len(given) + len(kept) <= len(wanted) else given


def part_of(path: Path, roles: tuple[str, ...], what: str, variant: str | None = None) -> Part:
    """The one network of these roles in a file or a part's folder; `what` they are is for messages.

    Raises:
        MaquetteError: there is none, or more than one.
    """
    if path.is_dir() or (path.parent / "config.json").is_file():
        found: Sequence[Part] = (read_part(path, variant, roles),)
    else:
        found = split(open_weights(path, variant), path, roles=roles).parts
    fitting = [part for part in found if part.kind.role in roles]
    if len(fitting) != 1:
        raise MaquetteError(f"{path}: holds {len(fitting)} networks that could be {what}; give a file with one")
    return fitting[0]


def _choose_family(
    parts: Mapping[str, Part],
    texts: Sequence[Part],
    wishes: Wishes,
    says: Hints,
    path: Path,
) -> tuple[Family, tuple[Evidence, ...]]:
    """The family of a denoiser, with its prediction and process, and what decided them."""
    spec = parts["denoiser"].spec
    name, why = (wishes.family, "asked for, or named by the model") if wishes.family else says.get("family", ("", ""))
    if not wishes.family and (edit := FAMILIES.get(f"{name}-edit")) is not None and edit.matches(spec):
        name = edit.name  # the marks are the same
    if not name and (named := [each for each in FAMILIES.values() if is_named(each, path) and each.matches(spec)]):
        name, why = named[0].name, f"named as published: {published_name(path)}"
    if name:
        candidates = [of_model(_by_name(name), path)]
        if not candidates[0].matches(spec):
            raise MaquetteError(f"{path}: is not of the family {name!r}: its denoiser has another structure")
        evidence = [Evidence("family", name, why)]
    else:
        candidates = _candidates(spec, {part.kind.role for part in texts}, "vae" in parts or wishes.vae is not None)
        evidence = [Evidence("family", ", ".join(each.name for each in candidates), "the denoiser's structure")]
    if not candidates:
        raise MaquetteError(f"{path}: its denoiser, {spec}, is of no known family; give family=")
    value, why = _prediction(wishes, says, discrete=isinstance(candidates[0].process, Discrete))
    assumed = value is None and len({id(family.prediction) for family in candidates}) > 1
    if assumed and (measured := prediction_by_spread(parts["denoiser"].weights)) is not None:
        (value, why), assumed = measured, False
    if value is None:
        family, why = candidates[0], f"the default of {candidates[0].name}"
    else:
        wanted = PREDICTIONS[value]
        fitting = next((family for family in candidates if family.prediction is wanted), candidates[0])
        family = replace(fitting, prediction=wanted)
    evidence.append(Evidence("prediction", _name_of(family), why, assumed))
    if "zero_terminal_snr" in says and family.process == Discrete.scaled_linear():
        family, more = _up_to_pure_noise(family, says["zero_terminal_snr"][1], path)
        evidence += more
    return family, tuple(evidence)


def _up_to_pure_noise(family: Family, why: str, path: Path) -> tuple[Family, list[Evidence]]:
    """The family with noise up to zero terminal SNR, which only a network that predicts v can begin with."""
    if family.prediction is not V:
        message = f"{path}: {why} asks for zero terminal SNR, which needs v; it predicts {_name_of(family)}: not used"
        warnings.warn(message, stacklevel=5)
        return family, []
    process = Discrete.scaled_linear(zero_terminal_snr=True)
    return replace(family, process=process), [Evidence("noise", "up to pure noise (zero terminal SNR)", why)]


def _candidates(spec: Any, roles: set[str], staged: bool) -> list[Family]:
    """The families that a denoiser may be of, with text encoders of these roles and perhaps with a first stage."""
    found = [family for family in FAMILIES.values() if not family.by_name and family.matches(spec)]
    found = [family for family in found if spec in family.published.values()] or found
    found = [family for family in found if roles <= {reading.kind for reading in family.readings}] or found
    return [family for family in found if family.pixels is not staged] or found


def _name_of(family: Family) -> str:
    return next(name for name, prediction in PREDICTIONS.items() if prediction is family.prediction)


def _by_name(name: str) -> Family:
    if name not in FAMILIES:
        raise MaquetteError(f"there is no family {name!r}; known are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _prediction(wishes: Wishes, says: Hints, *, discrete: bool) -> tuple[str | None, str]:
    """What the network predicts and what says so; some hints speak of `discrete` families alone."""
    told: tuple[str | None, str] = says.get("prediction", (None, ""))
    told = says.get("discrete prediction", told) if discrete else told
    value, why = (wishes.prediction, "asked for") if wishes.prediction else told
    value = SPELLINGS.get(value, value) if value is not None else None
    if value is not None and value not in PREDICTIONS:
        raise MaquetteError(f"unknown prediction {value!r} ({why}); known are {', '.join(PREDICTIONS)}")
    return value, why


def _with_tensors(family: Family, weights: Weights) -> tuple[Family, tuple[Evidence, ...]]:
    """The family with the numbers that a file's smallest tensors give, and which they are."""
    if "scale_factor" in weights and family.latent.measured:
        scale = _numbers(weights, "scale_factor")[0]
        family = replace(family, latent=replace(family.latent, scale=scale))
    elif "edm_vpred.sigma_max" in weights and isinstance(family.process, EDM):
        low, high = (_numbers(weights, f"edm_vpred.{name}")[0] for name in ("sigma_min", "sigma_max"))
        family = replace(family, process=replace(family.process, sigma_min=low, sigma_max=high))
        return family, (Evidence("noise", f"of {low:g} to {high:g} times the data", "edm_vpred.sigma_min and _max"),)
    elif "edm_mean" in weights and "edm_std" in weights and isinstance(family.process, EDM):
        mean, spread = _numbers(weights, "edm_mean"), _numbers(weights, "edm_std")
        latent = replace(family.latent, shift=mean, scale=tuple(1.0 / each for each in spread))
        family = replace(family, latent=latent)
    else:
        return family, ()
    why = "the tensor scale_factor" if family.latent.measured else "the tensors edm_mean and edm_std"
    return family, (Evidence("latents", _formula(family.latent), why),)


def _formula(latent: Latent) -> str:
    shift, scale = (
        f"{each:g}" if isinstance(each, float) else "(" + ", ".join(f"{number:g}" for number in each) + ")"
        for each in (latent.shift, latent.scale)
    )
    return f"(z - {shift}) * {scale}"


def _numbers(weights: Weights, name: str) -> tuple[float, ...]:
    """A small tensor's numbers, which must be usable."""
    if name not in weights or math.prod(weights.shape(name)) > MOST_CHANNELS:
        raise MaquetteError(f"{describe(weights)}: the tensor {name!r} is missing or too large; use another file")
    numbers = tuple(map(float, weights[name].flatten().tolist()))
    if not numbers or not all(map(math.isfinite, numbers)) or (name != "edm_mean" and min(numbers) <= 0):
        raise MaquetteError(f"{describe(weights)}: the tensor {name!r} holds {numbers}; use another file")
    return numbers


def _invisible(denoiser: Part, weights: Weights) -> Iterator[Evidence]:
    """What the spec takes for granted because no shape says it."""
    spec = denoiser.spec
    if isinstance(spec, UNetSpec) and not denoiser.configured:
        heads = "8 heads everywhere" if spec.heads else f"heads of {spec.head_width}"
        why = f"published networks whose proj_in is {'linear' if spec.linear_projection else 'a convolution'}"
        yield Evidence("heads", heads, why)


def _title(spec: Any, family: Family) -> str:
    published = (item for each in FAMILIES.values() for item in each.published.items())
    return next((name for name, its in published if its == spec), f"custom {family.name}")
