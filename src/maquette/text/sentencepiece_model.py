"""A unigram model as sentencepiece writes it (`spiece.model`; Kudo & Richardson 2018), made into a tokenizer.

The file is a message in protocol buffers' encoding. Only the few fields that T5's model needs are read, within the
bounds of the file, so that neither sentencepiece nor a compiler of such messages is needed.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from maquette.errors import MaquetteError

LARGEST = 1 << 26  # bytes; T5's has 0.8 million
UNIGRAM = 1
UNKNOWN, CONTROL, BYTE = 2, 3, 6  # kinds of pieces; 1 is a normal one
# Fields of the messages ModelProto, SentencePiece, TrainerSpec and NormalizerSpec
PIECES, TRAINER, NORMALIZER = 1, 2, 3
PIECE, SCORE, KIND = 1, 2, 3
MODEL_TYPE = 3
CHARSMAP, DUMMY_PREFIX, EXTRA_SPACES, ESCAPE_SPACES = 2, 3, 4, 5
SPACE = "▁"
END = "</s>"


class Field(NamedTuple):
    """One field of a message: its number, and its value: a whole number, or bytes."""

    number: int
    value: int | bytes


class Piece(NamedTuple):
    """A piece of words, its log probability, and of what kind it is."""

    text: str
    score: float
    kind: int


def fields(message: bytes) -> Iterator[Field]:
    """The fields of a message, in order.

    Raises:
        ValueError: the message is cut short or damaged.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            value: int | bytes
            value, at = _varint(message, at)
        else:
            if wire == 2:
                length, at = _varint(message, at)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise ValueError(f"wire type {wire}")
            if at + length > len(message):
                raise ValueError("it is cut short")
            value, at = message[at : at + length], at + length
        yield Field(key >> 3, value)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins at a place, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it is cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 10 bytes")


def read_sentencepiece(path: Path) -> Tokenizer:
    """The tokenizer of a `spiece.model`, which ends each text with the end mark.

    Raises:
        MaquetteError: the file is damaged, too large, or no unigram model.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        model = list(fields(path.read_bytes()))
        trainer, normalizer = (_options(model, number) for number in (TRAINER, NORMALIZER))
        if trainer.get(MODEL_TYPE, UNIGRAM) != UNIGRAM:
            raise ValueError("no unigram model")
        pieces = [_piece(field.value) for field in model if field.number == PIECES and isinstance(field.value, bytes)]
        unknown = next((index for index, piece in enumerate(pieces) if piece.kind == UNKNOWN), None)
        end = next((index for index, piece in enumerate(pieces) if piece.text == END), None)
        if unknown is None or end is None or any(piece.kind == BYTE for piece in pieces):
            raise ValueError("its pieces are not those of T5: unknown and end mark, and no bytes")
        if any(normalizer.get(option, 1) != 1 for option in (DUMMY_PREFIX, EXTRA_SPACES, ESCAPE_SPACES)):
            raise ValueError("it treats spaces otherwise than T5")
        return _tokenizer(pieces, unknown, end, normalizer.get(CHARSMAP, b""))
    except (OSError, ValueError, struct.error) as error:
        raise MaquetteError(f"{path}: is no sentencepiece model of T5's kind ({error}); use another file") from error


def _options(model: list[Field], number: int) -> dict[int, int | bytes]:
    found = next((field.value for field in model if field.number == number), b"")
    return dict(fields(found)) if isinstance(found, bytes) else {}


def _piece(message: int | bytes) -> Piece:
    options = dict(fields(message)) if isinstance(message, bytes) else {}
    text, score, kind = options.get(PIECE, b""), options.get(SCORE, bytes(4)), options.get(KIND, 1)
    if not (isinstance(text, bytes) and isinstance(score, bytes) and isinstance(kind, int)):
        raise ValueError("a piece is damaged")
    return Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], kind)


def _tokenizer(pieces: list[Piece], unknown: int, end: int, charsmap: int | bytes) -> Tokenizer:
    """As sentencepiece does it: characters made alike, spaces made one and marked, the best division into pieces."""
    tokenizer = Tokenizer(models.Unigram([(piece.text, piece.score) for piece in pieces], unk_id=unknown))
    steps = [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if isinstance(charsmap, bytes) and charsmap:
        try:
            steps.insert(0, normalizers.Precompiled(charsmap))
            normalizers.Sequence(steps).normalize_str("a ﬁ １\u3000한")
        except BaseException as error:  # the library panics at a damaged map, which is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise ValueError("its map of characters is damaged") from error
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(f"$A {END}", special_tokens=[(END, end)])
    tokenizer.add_special_tokens([piece.text for piece in pieces if piece.kind in (UNKNOWN, CONTROL)])
    return tokenizer
