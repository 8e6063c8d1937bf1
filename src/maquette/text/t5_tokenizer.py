"""T5's tokenizer (Raffel et al. 2020; Kudo 2018): a unigram model over pieces of words, from a `tokenizer.json`."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from maquette.errors import MaquetteError
from maquette.text.prompt import Place

FILE = "tokenizer.json"


class T5Tokenizer:
    """Text to ids: the pieces, the end mark, then padding up to `length`."""

    def __init__(self, tokenizer: Tokenizer, *, length: int, pad: int) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.enable_truncation(length)
        self._tokenizer.no_padding()
        self.length, self.pad = length, pad

    @classmethod
    def read(cls, path: Path, *, length: int, pad: int = 0) -> "T5Tokenizer":
        """Read a `tokenizer.json`, or the one in a folder.

        Raises:
            MaquetteError: the file is missing or damaged.
        """
        file = path / FILE if path.is_dir() else path
        try:
            return cls(Tokenizer.from_file(str(file)), length=length, pad=pad)
        except Exception as error:  # the library raises bare exceptions
            raise MaquetteError(f"{path}: holds no T5 tokenizer ({error}); it needs {FILE}") from error

    def write(self, folder: Path) -> None:
        """Write the files that `read` and other programs open."""
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.no_truncation()
        self._tokenizer.save(str(folder / FILE))
        self._tokenizer.enable_truncation(self.length)
        config = {
            "tokenizer_class": "T5TokenizerFast",
            "model_max_length": self.length,
            "eos_token": "</s>",
            "pad_token": self._tokenizer.id_to_token(self.pad),
            "unk_token": "<unk>",
        }
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
