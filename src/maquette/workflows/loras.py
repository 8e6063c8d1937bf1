"""What a request adds to a model while it is painted: LoRAs and learned words, by A1111's names and hashes.

A1111's prompts say <lora:name:0.8>, <lora:name:TEXT:UNET> or <lora:name:te=TEXT:unet=UNET>: the file `name` in a
folder, and how strongly it changes the text encoders and the network.
"""

import itertools
import re
from collections.abc import Generator, Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from maquette.diffusion.singlestep import Step
from maquette.engine.adapt import Added, LoRAFile
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.weights.place import Look, existing, expanded, look
from maquette.workflows.names import nearest
from maquette.workflows.request import Request, Resolved
from maquette.workflows.settings import Embedding, Lora

TAG = re.compile(r"<(?P<kind>lora|lyco):(?P<told>[^<>]{1,400})>")  # lyco is what an extension called them
SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
NEXT = "give --lora-folder FOLDER (or MAQUETTE_LORA_FOLDER), or --lora FILE:SCALE"
DIGITS = 12  # of a hash are told
Result = TypeVar("Result")


def read_tag(told: str) -> dict[str, Any]:
    """The fields of a `Lora` that "name:0.8" or "name:0.5:0.8" means.

    Raises:
        ValueError: a scale is no number.
    """
    name, *scales = (part.strip() for part in told.split(":"))
    named = dict(part.split("=", 1) for part in scales if "=" in part)
    numbers = [part for part in scales if "=" not in part]
    text = float(named.get("te", numbers[0] if numbers else 1.0))
    scale = float(named.get("unet", numbers[1] if len(numbers) > 1 else text))
    return {"file": name, "scale": scale, **({} if text == scale else {"text_scale": text})}


def write_tag(lora: Lora) -> str:
    """What a prompt of A1111's says for a LoRA."""
    scales = [lora.scale] if lora.text_scale is None else [lora.text_scale, lora.scale]
    return f"<lora:{':'.join([name_of(lora.file), *map(tell, scales)])}>"


def name_of(file: str) -> str:
    """What A1111 calls a file: its name without folder and ending."""
    path = Path(file)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def names_of(files: Iterable[str]) -> list[str]:
    """The same of each of some files; a name that is there already is numbered: x, x (2), x (3)."""
    names: list[str] = []
    for name in map(name_of, files):
        numbered = (name if k == 1 else f"{name} ({k})" for k in itertools.count(1))
        names.append(next(each for each in numbered if each not in names))
    return names


def tell(number: float) -> str:
    """A number as short as it can be told exactly."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def take_tags(prompt: str) -> tuple[str, list[dict[str, Any]]]:
    """A prompt without its tags, and the fields of the LoRAs that they name. Raises ValueError as `read_tag`."""
    return TAG.sub("", prompt), [read_tag(match["told"]) for match in TAG.finditer(prompt)]


def resolve_added(request: Request, model: Model) -> dict[str, Any]:
    """The prompt without tags, and all LoRAs and learned words of a request, each with its file.

    Raises:
        MaquetteError: a LoRA is not there, or is named in words that do not hold for the whole picture.
    """
    loras, words = request.loras, request.embeddings
    if loras is None:
        loras = tuple(
            Lora(file=str(each.path), scale=each.scale, text_scale=each.text_scale) for each in model.added.loras
        )
    if words is None:
        words = tuple(Embedding(word=word, file=str(file)) for word, file in model.added.words)
    try:
        prompt, tagged = take_tags(request.prompt)
        loras = (*loras, *map(Lora.model_validate, tagged))
    except ValueError:
        raise MaquetteError("the prompt names a LoRA without a number; write <lora:name:0.8>") from None
    for where, text in _other_words(request):
        if (match := TAG.search(text)) is not None:
            raise MaquetteError(
                f"{match[0]:.60} stands in the words of {where}; write it in the prompt: it acts everywhere"
            )
    found = (lora.model_copy(update={"file": find_lora(lora.file, model.lora_folder)}) for lora in loras)
    return {"prompt": prompt, "loras": tuple(found), "embeddings": words}


def _other_words(request: Request) -> Iterable[tuple[str, str]]:
    yield "the negative prompt", request.negative
    yield from (("a region", region.prompt) for region in request.regions)
    if request.detail is not None:
        yield "the detailer", f"{request.detail.prompt or ''} {request.detail.negative or ''}"
    if request.variation is not None:
        yield "the variation", request.variation.prompt or ""


def find_lora(name: str, folder: Path | None) -> str:
    """The file of a LoRA: a path, or a file of that name in the folder or one below it, with or without its ending.

    Raises:
        MaquetteError: there is none, or no folder.
    """
    path = existing(name)
    if path is not None and path.is_file():
        return name
    if folder is None:
        raise MaquetteError(f"there is no LoRA {name!r:.200}; {NEXT}")
    files = _files(folder)
    for wanted in (Path(name).name, name_of(name)):
        if wanted in files:
            return str(files[wanted])
    near = nearest(name_of(name), [each for each in files if not each.endswith(SUFFIXES)]) if files else "it is empty"
    raise MaquetteError(f"there is no LoRA {name!r:.200} in the folder {folder}; {near}")


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by name, with and without ending; of several the first in order."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            files.setdefault(path.name, path)
            files.setdefault(path.stem, path)
    return files


def added(request: Resolved) -> Added:
    """What a resolved request adds, as a model takes it: the files that are there now."""
    loras, words = request.loras or (), request.embeddings or ()
    return Added(
        tuple(LoRAFile(each.file, each.scale, each.text_scale) for each in loras),
        tuple((each.word, each.file) for each in words),
    ).looked_at()


def wearing(model: Model, wanted: Added, work: Generator[Step, None, Result]) -> Generator[Step, None, Result]:
    """The same work, by a model that has what is wanted added at each step, and its own again whenever it ends."""
    try:
        while True:
            with model.turn:  # the network does one thing at a time
                model.wear(wanted)  # other work may have had its turn in between
                try:
                    step = next(work)
                except StopIteration as end:
                    result: Result = end.value
                    return result
            yield step
    finally:
        with model.turn:
            work.close()
            model.wear(model.added)


def hashes(request: Resolved) -> Mapping[str, str]:
    """The hashes of the LoRAs and learned words of a request, as A1111 tells them: "lora NAME", "embedding WORD"."""
    files = [each.file for each in request.loras or ()]
    told = {f"lora {name}": file_hash(file) for name, file in zip(names_of(files), files, strict=True)}
    return told | {f"embedding {each.word}": file_hash(each.file, whole=True) for each in request.embeddings or ()}


def file_hash(file: str, whole: bool = False) -> str:
    """The first 12 digits of a file's SHA-256, of a safetensors' without its header unless the `whole` is meant.

    So A1111 names LoRAs: training tools write to the header.
    """
    path = expanded(file)
    try:
        return _hash(path, look(path), whole or path.suffix.lower() != ".safetensors")
    except OSError as error:
        raise MaquetteError(f"{file}: cannot be read ({error.strerror}); check the path") from None


@lru_cache(maxsize=256)
def _hash(path: Path, seen: Look | None, whole: bool) -> str:
    with path.open("rb") as file:
        if not whole:
            file.seek(min(int.from_bytes(file.read(8), "little") + 8, path.stat().st_size))
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:DIGITS]
