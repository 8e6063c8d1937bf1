"""Opening weights: a file of any format, told by its content, or a folder of them.

The readers of the rarer formats are imported when such a file is met.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from maquette.errors import MaquetteError
from maquette.weights.mapped_file import MappedFile, bad_file, quoted
from maquette.weights.safetensors_file import SafetensorsFile
from maquette.weights.view import Weights, union

MAX_INDEX = 4 << 20
MAX_SHARDS = 1000

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
_ENDINGS = (".safetensors", ".bin")  # in order of preference

_USUAL = {"diffusion_pytorch_model", "model", "pytorch_model", "adapter_model"}  # what others read of several

# How a file of no use starts, what it is, and what to do about it.
_MISTAKES = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (b"<", "is a web page or another text", "download the file itself; the site may want you to log in"),
    (b"\x1f\x8b", "is a compressed archive", "unpack it"),
    (b"7z\xbc\xaf", "is a compressed archive", "unpack it"),
    (b"Rar!", "is a compressed archive", "unpack it"),
)


def open_weights(path: Path | str, variant: str | None = None) -> Weights:
    """The tensors of a file, or of a folder with one model's files, as a lazy view.

    A file's format is told by its content: safetensors, torch.save (zipped or old), GGUF, or the JSON index of a
    sharded model. In a folder, safetensors are preferred to .bin, and `variant` chooses among files such as
    `model.fp16.safetensors`; without it the one of no variant is taken, or the only one there is.

    Raises:
        MaquetteError: the file is missing, damaged, dangerous, empty or of an unknown format.
    """
    path = Path(path)
    view = _open(_choose(path, variant) if _is_folder(path) else path)
    if not len(view):
        raise bad_file(path, "holds no tensors", "use another file")
    return view


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # opening it as a file will say why
        return False


def _open(path: Path) -> Weights:
    file = MappedFile(path)
    head = file.read(0, min(file.size, 64))
    if not head:
        raise bad_file(path, "is empty")
    for opening, reader in _READERS:
        if opening(head):
            return reader(path)
    for start, what, remedy in _MISTAKES:
        if head.lstrip().startswith(start):
            raise bad_file(path, what, remedy)
    if not any(head):
        raise bad_file(path, "starts with zeros: the download was not finished")
    raise bad_file(path, "is neither safetensors nor a torch checkpoint nor GGUF", "use one of these")


def _is_safetensors(head: bytes) -> bool:
    """Eight bytes of length, then a JSON object; eight bytes of text are no length."""
    return head[8:9] == b"{" and not (head[:8].isascii() and head[:8].decode("ascii").isprintable())


def _open_shards(path: Path) -> Weights:
    """The model whose JSON index `path` is: one view over all files that it names, which lie beside it."""
    file = MappedFile(path)
    if file.size > MAX_INDEX:
        raise bad_file(path, f"is a JSON text of {file.size} bytes, too long for an index", "use another file")
    try:
        index = json.loads(file.read(0, file.size))
    except (ValueError, RecursionError) as error:
        raise bad_file(path, "is a damaged JSON text") from error
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise bad_file(path, "is a JSON text but no index of weights", "give the weights themselves")
    names = sorted(set(places.values()))
    if len(names) > MAX_SHARDS:
        raise bad_file(path, f"names {len(names)} files", "use another file")
    shards = {name: _open_shard(path, name) for name in names}
    for tensor, place in places.items():
        if tensor not in shards[place]:
            raise bad_file(path, f"says that tensor {quoted(tensor)} is in {quoted(place)}, where it is not")
    return union(shards.values())


def _open_shard(index: Path, name: str) -> Weights:
    if name in {"", ".", ".."} or set(name) & set("/\\:\0") or len(name) > 200:
        raise bad_file(index, f"names {quoted(name)}, which is no file beside it", "do not trust it")
    shard = index.with_name(name)
    if not shard.is_file():
        raise bad_file(index, f"names {quoted(name)}, which is missing", "download all parts")
    from maquette.weights.ckpt import Checkpoint

    view = _open(shard)
    if not isinstance(view, SafetensorsFile | Checkpoint):
        raise bad_file(index, f"names {quoted(name)}, which is no part of a model", "download it again")
    return view


def _open_gguf(path: Path) -> Weights:
    from maquette.weights.gguf import GGUFFile

    return GGUFFile(path)


def _open_checkpoint(path: Path) -> Weights:
    from maquette.weights.ckpt import Checkpoint

    return Checkpoint(path)


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[Path], Weights]], ...] = (
    (lambda head: head.startswith(b"GGUF"), _open_gguf),
    (lambda head: head.startswith((b"PK\3\4", b"PK\5\6")), _open_checkpoint),
    (_is_safetensors, SafetensorsFile),
    (lambda head: head.startswith(b"\x80"), _open_checkpoint),
    (lambda head: head.lstrip().startswith(b"{"), _open_shards),
)


def _choose(folder: Path, variant: str | None) -> Path:
    """The file of a folder that stands for its model."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise bad_file(folder, f"cannot be listed ({error.strerror})", "check the path") from error
    for ending in _ENDINGS:
        found = {name: _variant(name) for name in names if _is_whole(name, ending)}
        variants = set(found.values())
        wanted = variant or ("" if "" in variants or len(variants) != 1 else variants.pop())
        chosen = [name for name, its in found.items() if its == wanted]
        usual = [name for name in chosen if name.split(".")[0] in _USUAL] if len(chosen) > 1 else chosen
        if len(usual) == 1:
            return folder / usual[0]
        if found:
            raise MaquetteError(f"{folder}: holds {', '.join(map(quoted, found))}; say which of them to open")
    raise MaquetteError(f"{folder}: holds no weights (*.safetensors, *.bin); give the file or one part of the model")


def _is_whole(name: str, ending: str) -> bool:
    """Whether a file is a model of that kind or the index of one, not one of its parts."""
    is_index = name.endswith(".json") and ".index." in name and ending + "." in name
    return is_index or (name.endswith(ending) and not _SHARD.search(name))


def _variant(name: str) -> str:
    """The word between a file's name and its endings: "fp16" of `model.fp16.safetensors`."""
    words = name.split(".")[1:]
    return ".".join(word for word in words if word not in {"safetensors", "bin", "index", "json"})
