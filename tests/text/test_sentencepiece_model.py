"""T5's tokenizer from `spiece.model` alone: the ids that sentencepiece itself gives, and damaged files refused."""

import io
import random
from pathlib import Path

import pytest
import sentencepiece

from maquette.errors import MaquetteError
from maquette.text.sentencepiece_model import fields, read_sentencepiece
from maquette.text.t5_tokenizer import T5Tokenizer

WORDS = "a red apple lies on the old table under green trees while rain falls over the small town"
TEXTS = [
    "a red apple",
    "  two  spaces,   and\ttabs\nand lines ",
    "the ﬁrst １２３ ｆｕｌｌ　ｗｉｄｔｈ café cafe\u0301",
    "苹果 在 the table 🍎",
    "",
    " ",
    "unknownwordsoftheoldtown!?",
    "half▁marked",
]


def train(**options: object) -> bytes:
    generator = random.Random(0)
    lines = [" ".join(generator.choices(WORDS.split(), k=8)) for _ in range(200)]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=out,
        vocab_size=90,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def model() -> bytes:
    return train()


@pytest.fixture
def file(model: bytes, tmp_path: Path) -> Path:
    (tmp_path / "spiece.model").write_bytes(model)
    return tmp_path / "spiece.model"


def test_ids_are_those_of_sentencepiece(file: Path) -> None:
    theirs, ours = sentencepiece.SentencePieceProcessor(model_file=str(file)), read_sentencepiece(file)
    assert ours.get_vocab_size() == theirs.vocab_size()
    for text in TEXTS:
        assert ours.encode(text).ids == [*theirs.encode(text), theirs.eos_id()], text


@pytest.mark.parametrize("place", ["folder", "file"])
def test_the_tokenizer_reads_it_and_writes_what_it_reads_again(place: str, file: Path, tmp_path: Path) -> None:
    tokenizer = T5Tokenizer.read(tmp_path if place == "folder" else file, length=12)
    rows = tokenizer(TEXTS)
    assert all(len(row) == 12 for row in rows)
    assert rows[4] == [1] + [0] * 11
    tokenizer.write(tmp_path / "written")
    assert T5Tokenizer.read(tmp_path / "written", length=12)(TEXTS) == rows


def test_a_damaged_file_is_refused_in_a_line_or_read(model: bytes, file: Path) -> None:
    generator = random.Random(1)
    refused = 0
    for _ in range(60):
        damaged = bytearray(model[: generator.randrange(len(model))] if generator.random() < 0.5 else model)
        for _ in range(generator.randrange(1, 30)):
            if damaged:
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        file.write_bytes(damaged)
        try:
            read_sentencepiece(file)
        except MaquetteError as error:
            refused += 1
            assert "\n" not in str(error)
            assert str(file) in str(error)
    assert refused > 30


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"model_type": "bpe"}, "no unigram model"), ({"add_dummy_prefix": False}, "spaces otherwise")],
)
def test_models_of_another_kind_are_refused(options: dict[str, object], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "other.model"
    path.write_bytes(train(**options))
    with pytest.raises(MaquetteError, match=reason):
        read_sentencepiece(path)


def test_a_number_that_does_not_end_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 10 bytes"):
        list(fields(b"\xff" * 20))
