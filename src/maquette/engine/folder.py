"""A model in the diffusers layout: a folder for each part, with a config beside its weights."""

from pathlib import Path
from typing import Any

from maquette.engine.kinds import KINDS, TEXTS, Kind, class_names, find_dialect, kind_of_config
from maquette.engine.parts import Part, make_part
from maquette.errors import MaquetteError
from maquette.families.known import FAMILIES
from maquette.weights.json_file import read_json
from maquette.weights.open_file import open_weights
from maquette.weights.precision import descaled
from maquette.weights.view import describe

INDEX = "model_index.json"
FAMILY_KEY = "_maquette_family"  # beside diffusers' own keys, which ignores those that begin with _
CONFIG = "config.json"
DENOISERS = ("unet", "transformer")
FIRST_STAGES = ("vae", "vqvae")
FLAT = "UNet2DModel"  # the oldest folders, of this network alone, keep everything at the top
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3", "bert")
SCHEDULER = "scheduler_config.json"


def read_part(path: Path, variant: str | None = None, roles: tuple[str, ...] = ()) -> Part:
    """The network of a part's folder, or of one file; by the config beside it, or by its shapes where there is none.

    Of a whole CLIP it is the tower of `roles`, the text's where none are given.

    Raises:
        MaquetteError: a file is missing or damaged, or the config is of another network.
    """
    config = (path if path.is_dir() else path.parent) / CONFIG
    weights = descaled(open_weights(path, variant))
    if not config.is_file():
        return make_part(weights, path, roles)
    options = read_json(config)
    found, kind = find_dialect(weights, roles), kind_of_config(options, roles)
    if found is not None and not path.is_dir() and kind is not found[0]:
        return make_part(weights, path, roles)  # a config of something else that happens to lie there
    if kind is None:
        raise MaquetteError(
            f"{config}: the network {', '.join(class_names(options)) or 'without a name'} is not supported; known are "
            f"{', '.join(name for kind in KINDS for name in kind.classes)}"
        )
    spec, latent = kind.from_config(options, str(config))
    if found is None or found[0] is not kind:
        raise MaquetteError(f"{describe(weights)}: does not hold the {kind.name} of {config}; use another file")
    return Part(kind=kind, dialect=found[1], spec=spec, weights=weights, path=path, latent=latent, configured=True)


def find_scheduler(folder: Path) -> Path:
    """Where a model's folder keeps its scheduler's config."""
    inside = folder / "scheduler" / SCHEDULER
    return folder / SCHEDULER if not inside.is_file() and _is_flat(folder) else inside


def _is_flat(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and FLAT in class_names(read_json(folder / CONFIG))


def read_parts(folder: Path, variant: str | None = None) -> dict[str, Part]:
    """The parts of a model's folder by name: "denoiser", "vae", "text_encoder", "text_encoder_2", ..."""
    parts: dict[str, Part] = {}
    if variant is not None and not any(folder.glob(f"*/*.{variant}*")):
        raise MaquetteError(f"{folder}: no part of it has the variant {variant!r}; leave it out, or choose another")
    for name, folders in (("denoiser", DENOISERS), ("vae", FIRST_STAGES), *((name, (name,)) for name in ENCODERS)):
        there = next((folder / each for each in folders if (folder / each).is_dir()), None)
        if there is None and name == "denoiser" and _is_flat(folder):
            there = folder
        if there is None:
            continue
        has_variant = variant is not None and any(there.glob(f"*.{variant}*"))
        parts[name] = read_part(there, variant if has_variant else None)
        _check_role(parts[name].kind, name, there)
    for name, wanted in (("denoiser", DENOISERS), ("vae", FIRST_STAGES)):
        if name not in parts and not (name == "vae" and without_first_stage(parts["denoiser"].spec)):
            raise MaquetteError(
                f"{folder / wanted[0]}: is missing; the model's folder is incomplete, download it again"
            )
    return parts


def without_first_stage(spec: Any) -> bool:
    """Whether a denoiser may paint pixels."""
    return any(family.pixels and family.matches(spec) for family in FAMILIES.values())


def _check_role(kind: Kind, name: str, folder: Path) -> None:
    roles = {"denoiser": ("denoiser",), "vae": ("vae",)}.get(name, TEXTS)
    if kind.role not in roles:
        raise MaquetteError(f"{folder}: holds a {kind.name}; use the part of this model")
