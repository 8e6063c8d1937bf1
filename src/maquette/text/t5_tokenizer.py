"""T5's tokenizer (Raffel et al. 2020; Kudo 2018): a unigram model over pieces of words."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from tokenizers import Tokenizer

from maquette.errors import MaquetteError
from maquette.text.prompt import Place
from maquette.text.sentencepiece_model import read_sentencepiece

FILE = "tokenizer.json"


def read_json(path: Path) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`."""
    return Tokenizer.from_file(str(path))


class T5Tokenizer:
    """Text to ids: the pieces, the end mark, then padding up to `length`."""

    FILES: ClassVar[Mapping[str, Callable[[Path], Tokenizer]]] = {FILE: read_json, "spiece.model": read_sentencepiece}
    """The files that hold one, the best first, and how they are read; other names count by their endings."""
    CONFIG: ClassVar[Mapping[str, str]] = {
        "tokenizer_class": "T5TokenizerFast",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    """What other programs are told."""

    def __init__(self, tokenizer: Tokenizer, *, length: int, pad: int) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.enable_truncation(length)
        self._tokenizer.no_padding()
        self.length, self.pad = length, pad

    @classmethod
    def read(cls, path: Path, *, length: int, pad: int = 0) -> Self:
        """Read one of `FILES`, or the first of them in a folder.

        Raises:
            MaquetteError: the file is missing or damaged.
        """
        names = " or ".join(cls.FILES)
        file = next((path / name for name in cls.FILES if (path / name).is_file()), path)
        reader = next((read for name, read in cls.FILES.items() if Path(name).suffix == file.suffix), read_json)
        try:
            return cls(reader(file), length=length, pad=pad)
        except MaquetteError:
            raise
        except Exception as error:  # the library raises bare exceptions
            raise MaquetteError(f"{path}: holds no {cls.__name__} ({error}); it needs {names}") from error

    def write(self, folder: Path) -> None:
        """Write the files that `read` and other programs open."""
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.no_truncation()
        self._tokenizer.save(str(folder / FILE))
        self._tokenizer.enable_truncation(self.length)
        pad = self._tokenizer.id_to_token(self.pad)
        config = {**self.CONFIG, "model_max_length": self.length, "pad_token": pad}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Rows of exactly `length` ids; what does not fit is cut off before the end mark."""
        rows = [list(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))]
        return [row + [self.pad] * (self.length - len(row)) for row in rows]

    def places(self, text: str) -> list[Place | None]:
        """The letters that each of the ids stands for; the end mark and padding have none."""
        encoding = self._tokenizer.encode(text)
        marks = encoding.special_tokens_mask
        places = [None if mark else place for mark, place in zip(marks, encoding.offsets, strict=True)]
        return places + [None] * (self.length - len(places))
