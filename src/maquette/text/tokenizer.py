"""CLIP's tokenizer (Radford et al. 2021, section 2.4; Sennrich et al. 2016): byte-level BPE with ends of words.

The work is done by the `tokenizers` library; here are CLIP's rules. Words are read from and written to the two files
that published models carry, `vocab.json` and `merges.txt`; the one of later versions, `tokenizer.json`, is read too.
Words that a textual inversion added to them (`added_tokens.json`) are one token each, or one for each of their vectors.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Encoding, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from maquette.errors import MaquetteError

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
WHOLE, ADDED = "tokenizer.json", "added_tokens.json"
PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Piece(NamedTuple):
    """A token, and the letters of the text, from `start` up to `end`, that it stands for."""

    id: int
    start: int
    end: int

    def with_id(self, token: int) -> "Piece":
        """Another token for the same letters."""
        return self._replace(id=token)

    @classmethod
    def all(cls, encoding: Encoding) -> list["Piece"]:
        """What the library found in a text."""
        return [cls(token, *place) for token, place in zip(encoding.ids, encoding.offsets, strict=True)]


class CLIPTokenizer:
    """Text to ids: start, the words, end, then padding up to `length`.

    `added` are whole words with ids of their own. Of `<cat>`, `<cat>_1`, `<cat>_2`, ... the first stands for all, as
    diffusers has it of words with several vectors.
    """

    def __init__(
        self,
        vocabulary: dict[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        length: int,
        pad: str | int = END,
        added: Mapping[str, int] | None = None,
    ):
        self.added = dict(added or {})
        known = vocabulary | self.added
        model = models.BPE(vocab=known, merges=list(merges), unk_token=END, end_of_word_suffix=WORD_END)
        self._tokenizer = _with_clip_rules(model)
        self._tokenizer.add_special_tokens([START, END])  # in a text they stand for themselves
        self._tokenizer.add_tokens([AddedToken(word, normalized=True) for word in self.added])
        self._further = {token: further for word, token in self.added.items() if (further := [*_further(word, known)])}
        self.vocabulary, self.merges, self.length = vocabulary, list(merges), length
        self.start, self.end = vocabulary[START], vocabulary[END]
        self.pad = pad if isinstance(pad, int) else vocabulary[pad]

    @classmethod
    def read(cls, path: Path, *, length: int = 77, pad: str | int = END) -> "CLIPTokenizer":
        """Read a folder's `vocab.json` and `merges.txt`, or its `tokenizer.json`; or such a file by its own path.

        `tokenizer_config.json` beside them, if there, gives the padding and may ask for less than `length`; one of an
        early version has the padding of `special_tokens_map.json`, as Stable Diffusion 2's.

        Raises:
            MaquetteError: a file is missing or damaged.
        """
        folder = path if path.is_dir() else path.parent
        whole = folder / WHOLE if path.is_dir() else path
        try:
            config_path = folder / "tokenizer_config.json"
            config = json.loads(config_path.read_text("utf-8")) if config_path.exists() else {}
            special = folder / "special_tokens_map.json"
            if "added_tokens_decoder" not in config and special.is_file():  # then transformers believes it, too
                config |= json.loads(special.read_text("utf-8"))
            two_files = path.is_dir() and (folder / "vocab.json").exists()
            vocabulary, merges, added = _read_two_files(folder) if two_files else _read_whole(whole)
            decoder = config.get("added_tokens_decoder", {}).items()
            added |= {token["content"]: int(index) for index, token in decoder}
            added = {word: index for word, index in added.items() if word not in vocabulary}
            if not {*vocabulary.values()}.isdisjoint(added.values()):
                raise ValueError("words were added in the places of others")
            limit, pad = int(config.get("model_max_length") or length), _content(config.get("pad_token") or pad)
            return cls(vocabulary, merges, length=min(limit, length), pad=pad, added=added)
        except Exception as error:  # the library raises bare exceptions for merges that do not fit
            reason = f"{type(error).__name__}: {error}"
            if isinstance(error, FileNotFoundError):
                reason = f"no {Path(error.filename).name}"
            raise MaquetteError(
                f"{path}: holds no CLIP tokenizer ({reason}); it needs vocab.json and merges.txt, or {WHOLE}: download "
                "them again"
            ) from error

    @classmethod
    def train(cls, texts: Iterable[str], size: int, *, length: int) -> "CLIPTokenizer":
        """Learn a vocabulary of at most `size` tokens by byte-pair encoding."""
        tokenizer = _with_clip_rules(models.BPE(end_of_word_suffix=WORD_END))
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        ends = [letter + WORD_END for letter in alphabet]
        trainer = trainers.BpeTrainer(
            vocab_size=size - 2,
            initial_alphabet=alphabet,
            special_tokens=ends,  # gives them their places: else chance would decide between equally frequent pairs
            end_of_word_suffix=WORD_END,
            max_token_length=16,  # no phrases: Chinese is written without spaces
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        learned = json.loads(tokenizer.to_str())["model"]["merges"]
        merges = [(str(left), str(right)) for left, right in learned]
        # CLIP's order: bytes, bytes that end a word, merges, the two marks last.
        tokens = [*alphabet, *ends]
        known = set(tokens)
        for left, right in merges:
            if left + right not in known:
                known.add(left + right)
                tokens.append(left + right)
        tokens = tokens[: size - 2]
        kept = set(tokens)
        merges = [pair for pair in merges if pair[0] in kept and pair[1] in kept and pair[0] + pair[1] in kept]
        vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
        return cls(vocabulary, merges, length=length)

    def write(self, folder: Path) -> None:
        """Write the files that `read` and other programs open."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.json").write_text(json.dumps(self.vocabulary, ensure_ascii=False) + "\n", "utf-8")
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in self.merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
        if self.added:
            (folder / ADDED).write_text(json.dumps(self.added, ensure_ascii=False) + "\n", "utf-8")
        config = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.length,
            "bos_token": START,
            "eos_token": END,
            "unk_token": END,
            "pad_token": next(word for word, index in (self.vocabulary | self.added).items() if index == self.pad),
            "add_prefix_space": False,
            "do_lower_case": True,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    def __len__(self) -> int:
        """How many rows an embedding of all ids has."""
        return 1 + max([*self.vocabulary.values(), *self.added.values()])

    def pieces(self, text: str) -> list[Piece]:
        """The tokens of a text, without marks or padding."""
        found = Piece.all(self._tokenizer.encode(text, add_special_tokens=False))
        return [all_of for piece in found for all_of in (piece, *map(piece.with_id, self._further.get(piece.id, ())))]

    def words(self, text: str) -> list[int]:
        """The ids of a text without marks or padding."""
        return [piece.id for piece in self.pieces(text)]

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Rows of exactly `length` ids; what does not fit is cut off before the end mark."""
        rows = []
        for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False):
            words = [each for token in encoding.ids for each in (token, *self._further.get(token, ()))]
            row = [self.start, *words[: self.length - 2], self.end]
            rows.append(row + [self.pad] * (self.length - len(row)))
        return rows


def _with_clip_rules(model: models.BPE) -> Tokenizer:
    """Straight quotes, NFC, runs of white space as one blank, lower case; CLIP's pattern; bytes as printable letters.

    OpenAI's code straightens typographic quotes (by ftfy); transformers' fast tokenizer does not.
    """
    tokenizer = Tokenizer(model)
    straight = [normalizers.Replace(Regex("[‘’]"), "'"), normalizers.Replace(Regex("[“”]"), '"')]
    blanks = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([*straight, normalizers.NFC(), blanks, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytewise])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _further(word: str, known: Mapping[str, int]) -> Iterator[int]:
    """The ids of an added word's further vectors."""
    names = (f"{word}_{number}" for number in itertools.count(1))
    return (known[name] for name in itertools.takewhile(known.__contains__, names))


Words = tuple[dict[str, int], list[tuple[str, str]], dict[str, int]]
"""A vocabulary, its merges, and words added to it."""


def _read_two_files(folder: Path) -> Words:
    lines = (folder / "merges.txt").read_text("utf-8").split("\n")
    merges = [_pair(line) for line in lines if line.strip() and not line.startswith("#version")]
    added = json.loads((folder / ADDED).read_text("utf-8")) if (folder / ADDED).is_file() else {}
    return json.loads((folder / "vocab.json").read_text("utf-8")), merges, added


def _read_whole(file: Path) -> Words:
    """The words of a `tokenizer.json`; its rules are CLIP's, which are here."""
    told = json.loads(file.read_text("utf-8"))
    model, added = told["model"], {token["content"]: token["id"] for token in told.get("added_tokens") or ()}
    if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != WORD_END:
        raise ValueError(f"{file.name} is not of CLIP's kind")
    merges = [_pair(pair) if isinstance(pair, str) else (pair[0], pair[1]) for pair in model["merges"]]
    return model["vocab"], merges, added


def _pair(line: str) -> tuple[str, str]:
    left, right = line.split(" ")
    return left, right


def _content(token: str | int | dict[str, str]) -> str | int:
    return token["content"] if isinstance(token, dict) else token
