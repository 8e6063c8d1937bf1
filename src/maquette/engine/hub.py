"""Models by their name on the hub, "org/model": fetched by `huggingface_hub` with its endpoint, cache, offline mode.

Only here is the network touched, and only for a name that is no path.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from maquette.engine.folder import CONFIG, INDEX
from maquette.errors import MaquetteError

NAME = re.compile(r"[\w.-]+/[\w.-]+(/[\w./ -]+)?", re.ASCII)
PATIENCE = 5.0  # seconds that the hub has to answer the first question
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".json")
# The oldest folders, of one network in pixels, keep everything at the top.
_SMALL = re.compile(
    r"model_index\.json|([^/]+/)?config\.json|(scheduler/)?scheduler_config\.json|"
    r"tokenizer(_\d)?/(vocab\.json|merges\.txt|vocab\.txt|spiece\.model|tokenizer\.json|tokenizer_config\.json|"
    r"special_tokens_map\.json)"
)
# A shard's number stands behind the variant, or before it; the variant of an index stands last, or before the ending.
_WEIGHTS = re.compile(
    r"((?P<folder>unet|transformer|vae|vqvae|bert|text_encoder(_\d)?)/(diffusion_pytorch_model|model|pytorch_model)|"
    r"diffusion_pytorch_model)"
    r"(-\d{5}-of-\d{5})?(\.(?P<variant>[\w-]+?))?(-\d{5}-of-\d{5})?"
    r"(?P<ending>\.safetensors|\.bin)(\.index(\.(?P<late>[\w-]+))?\.json)?"
)


def is_name(text: str) -> bool:
    """Whether a text that is no path names a model of the hub: not if it looks like a path that somebody mistyped."""
    parts = text.split("/")
    is_file = len(parts) == 2 and Path(text).suffix.lower() in SUFFIXES
    return NAME.fullmatch(text) is not None and not is_file and not Path(parts[0]).exists()


def fetch(name: str, variant: str | None = None, *, flat: bool = False) -> Path:
    """The folder of a model of the hub, or of one file of it ("org/model/file.safetensors"), in the hub's cache.

    `flat` says that what is wanted is one network, which its repository keeps at the top. A file comes with the config
    beside it. Where the hub cannot be asked, what the cache holds is taken.

    Raises:
        MaquetteError: there is no such model, it needs a login, or it is not in the cache and there is no network.
    """
    import huggingface_hub
    from huggingface_hub import errors

    repository, file = "/".join(name.split("/")[:2]), "/".join(name.split("/")[2:])
    silence = ""
    try:
        files, silence = _ask(repository)
        local = bool(silence)
        if file:
            if (config := str(PurePosixPath(file).with_name(CONFIG))) in files:
                huggingface_hub.hf_hub_download(repository, config)
            return Path(huggingface_hub.hf_hub_download(repository, file, local_files_only=local))
        wanted = None if local else wanted_files(files, variant, flat=flat)
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=wanted, local_files_only=local))
    except errors.GatedRepoError as error:
        raise MaquetteError(
            f"{repository}: its owner asks for a login; accept the terms there, then `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError) as error:
        if silence:
            raise MaquetteError(
                f"{name}: there is no such file or folder, and as a name of the hub it is not in the cache, nor could "
                f"the hub be asked ({silence}); check the path, or the network"
            ) from error
        raise MaquetteError(f"{name}: not found as a path, nor on the hub or in its cache; check the name") from error
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        raise MaquetteError(f"{name}: cannot be fetched from the hub ({_reason(error)}); check the network") from error


def _ask(repository: str) -> tuple[list[str], str]:
    """The files of a repository, and why the hub could not be asked for them, if so: one question, without retries."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE:
        return [], "HF_HUB_OFFLINE is set"
    try:
        found = huggingface_hub.HfApi().model_info(repository, timeout=PATIENCE)
    except (errors.HfHubHTTPError, errors.HFValidationError):
        raise
    except Exception as error:  # which one depends on the library's HTTP client, and that on its version
        return [], _reason(error)
    return [each.rfilename for each in found.siblings or ()], ""


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def wanted_files(files: Sequence[str], variant: str | None = None, *, flat: bool = False) -> list[str]:
    """Of a repository's files those that a model in the diffusers layout needs, each network in one format only.

    Of one that keeps a single network at the top, `flat`, what stands there.

    Raises:
        MaquetteError: there is no such model, or network.
    """
    given = files
    if flat:
        files = [file for file in files if "/" not in file]
    wanted = [file for file in files if _SMALL.fullmatch(file)]
    found: dict[str, dict[tuple[str, str], list[str]]] = {}
    for file in files:
        match = _WEIGHTS.fullmatch(file)
        if match is not None:
            its = match["variant"] or match["late"] or ""
            found.setdefault(match["folder"] or "", {}).setdefault((match["ending"], its), []).append(file)
    for choices in found.values():
        order = [(ending, its) for ending in (".safetensors", ".bin") for its in dict.fromkeys((variant or "", ""))]
        chosen = next(key for key in (*order, *sorted(choices, reverse=True)) if key in choices)
        wanted += choices[chosen]
    if not (found and CONFIG in wanted if flat else INDEX in wanted):
        what = f"network with its {CONFIG} at the top" if flat else "model in the diffusers layout"
        raise MaquetteError(
            f"this repository holds no {what}; give one of its files: org/model/FILE, such as "
            f"{next((file for file in given if file.endswith(('.safetensors', '.ckpt', '.gguf'))), 'none')}"
        )
    return wanted
