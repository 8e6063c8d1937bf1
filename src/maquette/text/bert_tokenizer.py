"""BERT's tokenizer (Devlin et al. 2019; WordPiece): lower case, the longest known beginnings of words, two marks."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from maquette.errors import MaquetteError
from maquette.text.t5_tokenizer import FILE, T5Tokenizer, read_json

LARGEST = 1 << 24  # bytes of a vocabulary; BERT's has 0.2 million
MARKS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]")


def read_wordpiece(path: Path) -> Tokenizer:
    """The tokenizer of a `vocab.txt`, a word piece on each line.

    Raises:
        MaquetteError: it is too large, or has not BERT's marks.
    """
    if path.stat().st_size > LARGEST:
        raise MaquetteError(f"{path}: has more than {LARGEST} bytes, no vocabulary of BERT; use another file")
    words = path.read_text("utf-8").splitlines()
    vocabulary = {word: index for index, word in enumerate(words)}
    if not all(mark in vocabulary for mark in MARKS):
        raise MaquetteError(f"{path}: has not all of {', '.join(MARKS)}; it is no vocabulary of BERT, use another file")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    marks = [(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=marks)
    tokenizer.add_special_tokens(list(MARKS))
    return tokenizer


class BertTokenizer(T5Tokenizer):
    """Text to ids: the first mark, the pieces, the last mark, then padding up to `length`."""

    FILES: ClassVar[Mapping[str, Callable[[Path], Tokenizer]]] = {FILE: read_json, "vocab.txt": read_wordpiece}
    CONFIG: ClassVar[Mapping[str, str]] = {
        "tokenizer_class": "BertTokenizer",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
    }
