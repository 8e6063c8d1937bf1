"""BERT's tokenizer from vocab.txt gives the ids that transformers' gives."""

from pathlib import Path

import pytest
from transformers import BertTokenizer as Reference

from maquette.errors import MaquetteError
from maquette.text.bert_tokenizer import BertTokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "app", "##le", "##s", ",", "!", "cafe", "果", "the"]
TEXTS = ["a red apple", "The RED apples, café!", "苹果 a", "", "unknown [MASK] words", "a " * 30]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
    return tmp_path


def test_ids_are_those_of_transformers(folder: Path) -> None:
    ours = BertTokenizer.read(folder, length=12)
    theirs = Reference.from_pretrained(folder)
    expected = [theirs(text, padding="max_length", max_length=12, truncation=True).input_ids for text in TEXTS]
    found = ours(TEXTS)
    assert found[:4] + found[5:] == expected[:4] + expected[5:]
    assert found[4][:3] == [2, 1, found[4][2]]
    ours.write(folder / "written")
    assert BertTokenizer.read(folder / "written", length=12)(TEXTS) == found


def test_other_files_are_refused(folder: Path) -> None:
    (folder / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(MaquetteError, match="it is no vocabulary of BERT"):
        BertTokenizer.read(folder, length=12)
    with pytest.raises(MaquetteError, match=r"needs tokenizer\.json or vocab\.txt"):
        BertTokenizer.read(folder / "none", length=12)
