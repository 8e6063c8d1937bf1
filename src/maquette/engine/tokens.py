"""Where a text encoder's tokenizer is found: given, in the model's folder, beside its file, or in the hub's cache."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maquette.errors import MaquetteError
from maquette.families.family import Reading
from maquette.models.bert import BertSpec
from maquette.models.clip import CLIPTextSpec
from maquette.models.t5 import T5Spec
from maquette.text.bert_tokenizer import BertTokenizer
from maquette.text.t5_tokenizer import T5Tokenizer
from maquette.text.tokenizer import CLIPTokenizer
from maquette.weights.json_file import TOKENIZER, read_text, too_long

# Models on the hub that carry the tokenizers of the published families, in the order in which the cache is searched.
CLIP_FILES = ("vocab.json", "merges.txt")
T5_FILES, BERT_FILES = tuple(T5Tokenizer.FILES), tuple(BertTokenizer.FILES)
FILES = {*CLIP_FILES, *T5_FILES, *BERT_FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
CLIP_PLACES = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
    ("stabilityai/stable-diffusion-3.5-medium", "tokenizer/"),
    ("black-forest-labs/FLUX.1-dev", "tokenizer/"),
    ("black-forest-labs/FLUX.1-schnell", "tokenizer/"),
)
T5_PLACES = (
    ("black-forest-labs/FLUX.1-dev", "tokenizer_2/"),
    ("black-forest-labs/FLUX.1-schnell", "tokenizer_2/"),
    ("stabilityai/stable-diffusion-3.5-medium", "tokenizer_3/"),
    ("stabilityai/stable-diffusion-3.5-large", "tokenizer_3/"),
    ("stabilityai/stable-diffusion-3-medium-diffusers", "tokenizer_3/"),
    ("google/t5-v1_1-xxl", ""),
)
PLACES = {
    "clip": (CLIP_FILES, CLIP_PLACES),
    "t5": (T5_FILES, T5_PLACES),
    "bert": (BERT_FILES, (("google-bert/bert-base-uncased", ""), ("CompVis/ldm-text2im-large-256", "tokenizer/"))),
}
MODELS = {"clip": "BPE", "t5": "Unigram", "bert": "WordPiece"}  # what tokenizer.json calls them
HELP = {
    "clip": (
        "vocab.json and merges.txt, or CLIP's tokenizer.json",
        "hf download openai/clip-vit-large-patch14 vocab.json merges.txt",
    ),
    "t5": (
        "T5's tokenizer.json or spiece.model",
        "hf download black-forest-labs/FLUX.1-schnell tokenizer_2/tokenizer.json",
    ),
    "bert": ("BERT's vocab.txt or tokenizer.json", "hf download google-bert/bert-base-uncased vocab.txt"),
}


def find_tokenizer(
    reading: Reading, spec: CLIPTextSpec | T5Spec | BertSpec, model: Path, given: Sequence[Path]
) -> CLIPTokenizer | T5Tokenizer:
    """The tokenizer of one text encoder.

    Raises:
        MaquetteError: none is found, with what is missing and how to get it; or one belongs to another model.
    """
    own = model / tokenizer_folder(reading) if model.is_dir() else None
    place = next((each for each in _places(reading, model, given) if _is_of_kind(each, reading.kind)), None)
    if place is None and own is not None and own.is_dir():
        place = own  # damaged: reading it says how
    if place is None:
        files, command = HELP[reading.kind]
        raise MaquetteError(
            f"{model}: carries no tokenizer for its {reading.part}: {files}; put them beside it, or give their folder "
            f"as tokenizer; one way to get them is `{command}`"
        )
    _check_lengths(place)
    if isinstance(spec, BertSpec):
        pieces = BertTokenizer.read(place, length=spec.positions, pad=reading.pad or 0)
        _check_size(place, len(pieces), spec.vocabulary, model)
        return pieces
    if isinstance(spec, T5Spec):
        long = T5Tokenizer.read(place, length=reading.length or spec.distance, pad=reading.pad or 0)
        _check_size(place, len(long), spec.vocabulary, model)
        return long
    # In a model's own folder, a config beside the words says how they are filled up, else the family does.
    tokenizer = CLIPTokenizer.read(place, length=spec.positions)
    if place != own or not (place / "tokenizer_config.json").is_file():
        tokenizer.pad = tokenizer.end if reading.pad is None else reading.pad
    _check_size(place, len(tokenizer), spec.vocabulary, model)
    if place != own and tokenizer.end != spec.end:
        raise MaquetteError(
            f"{place}: its end mark is {tokenizer.end}, {model} expects {spec.end}; it belongs to another model"
        )
    return tokenizer


def ended(spec: Any, tokenizer: CLIPTokenizer | T5Tokenizer) -> Any:
    """A tower's spec with its tokenizer's end mark: configs say "the largest id", and words may be added behind."""
    return replace(spec, end=tokenizer.end) if isinstance(tokenizer, CLIPTokenizer) else spec


def _check_lengths(place: Path) -> None:
    """Refuse a file that is too long to be a tokenizer's, before anything reads all of it."""
    for file in (place / name for name in FILES) if place.is_dir() else (place,):
        if file.is_file() and file.stat().st_size > TOKENIZER:
            raise too_long(file, TOKENIZER)


def _check_size(place: Path, words: int, known: int, model: Path) -> None:
    if words > known:
        raise MaquetteError(
            f"{place}: has {words} words, more than the {known} that {model} knows; it belongs to another model"
        )


def tokenizer_folder(reading: Reading) -> str:
    """Where a diffusers folder keeps the tokenizer of a text encoder."""
    return "tokenizer" if reading.part == "bert" else reading.part.replace("text_encoder", "tokenizer")


def _places(reading: Reading, model: Path, given: Sequence[Path]) -> Iterator[Path]:
    """Where to look, the most particular place first."""
    for path in (*given, model if model.is_dir() else model.parent):
        yield path / tokenizer_folder(reading)
        yield path
        if path in given:
            yield path / "tokenizer"
    yield from _cached(reading.kind)


def _cached(kind: str) -> Iterator[Path]:
    """Folders in the hub's cache; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    files, places = PLACES[kind]
    for repository, folder in places:
        paths = [try_to_load_from_cache(repository, folder + file) for file in files]
        there = [path for path in paths if isinstance(path, str)]
        if len(there) == len(paths) or (there and kind != "clip"):
            yield Path(there[0]).parent


def _is_of_kind(place: Path, kind: str) -> bool:
    """Whether a folder, or a tokenizer.json, holds a tokenizer of the kind.

    Raises:
        MaquetteError: the tokenizer.json is too long to be one.
    """
    if kind == "clip" and place.is_dir() and all((place / name).is_file() for name in CLIP_FILES):
        return True
    for one, name in (("t5", "spiece.model"), ("bert", "vocab.txt")):
        if kind == one and ((place / name).is_file() or (place.is_file() and place.suffix == Path(name).suffix)):
            return True
    whole = place / "tokenizer.json" if place.is_dir() else place
    if not whole.is_file() or whole.suffix != ".json":
        return False
    try:
        model = json.loads(read_text(whole, TOKENIZER).decode("utf-8"))["model"]
        return bool(model["type"] == MODELS[kind])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
