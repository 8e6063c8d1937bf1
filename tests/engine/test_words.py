"""Which tokens a word of the prompt covers, compared with what the tokenizers make of the parts of the prompt."""

from pathlib import Path

import pytest
from small_models import LENGTH, clip_tokenizer, write_original
from tokenizers.decoders import ByteLevel

import maquette
from maquette.engine.open import ASSETS
from maquette.engine.text import TextEncoder
from maquette.engine.words import Token, Words, find_words, missing, occurrences
from maquette.families.family import Reading
from maquette.text.tokenizer import CLIPTokenizer


def clip_positions(before: str, word: str, first: int = 1) -> list[int]:
    """Where a word's tokens stand behind the start mark and the words before it."""
    count = len(clip_tokenizer().words(before))
    return list(range(first + count, first + count + len(clip_tokenizer().words(word))))


def test_a_word_is_found_with_its_weight_in_whatever_case_and_chunk(tmp_path: Path) -> None:
    model = maquette.open(write_original("sd1", tmp_path), device="cpu")
    words = find_words(model, "a Red ((apple:1.3), green) grass BREAK old (app)le")
    assert words.find("red") == clip_positions("a", "red")
    assert words.find("apple") == [
        *clip_positions("a red", "apple"),
        *clip_positions("old", "app", 1 + LENGTH),
        *clip_positions("old app", "le", 1 + LENGTH),
    ]
    assert words.find("red  apple") == clip_positions("a", "red apple")
    assert words.names == ["a", "Red", "apple", "green", "grass", "old"]
    assert words.find("pear") == words.find("") == []
    assert str(missing("pear", [words])) == f"'pear' is not in the prompt; its words are {', '.join(words.names)}"


@pytest.mark.parametrize(
    ("family", "clip", "t5"), [("sdxl", True, None), ("sd3", True, LENGTH), ("flux-dev", False, 0)]
)
def test_families_put_their_encoders_together(family: str, clip: bool, t5: int | None, tmp_path: Path) -> None:
    model = maquette.open(write_original(family, tmp_path), device="cpu")
    found = find_words(model, "the red apple").find("red")
    assert [each for each in found if t5 is None or each < t5] == (clip_positions("the", "red") if clip else [])
    if t5 is not None:
        tokenizer = model.encoders[-1].tokenizer
        (row,) = tokenizer(["the red apple"])
        pieces = [tokenizer._tokenizer.id_to_token(row[each - t5]) for each in found if each >= t5]
        assert "".join(pieces) == "▁red"


def test_chinese_words_are_found_in_the_midst_of_a_text() -> None:
    tokenizer = CLIPTokenizer.read(ASSETS / "mini" / "tokenizer")
    encoder = TextEncoder(Reading(), tokenizer, tower=None)  # type: ignore[arg-type]
    prompt = "黑色背景上的(火箭:1.2)和一只cat"
    ids, places, text = encoder.chunks(prompt)[0].ids, encoder.places(prompt), encoder.plain(prompt)
    words = Words(tuple(Token(position, text, place) for position, place in enumerate(places) if place))
    letters = {
        position: ByteLevel().decode([tokenizer._tokenizer.id_to_token(ids[position]).removesuffix("</w>")])
        for position in words.positions
    }
    assert text == "黑色背景上的火箭和一只cat"
    assert [letters[each] for each in words.find("黑")] == ["黑"]
    assert "火" in letters[words.find("火箭")[0]] and "箭" in letters[words.find("火箭")[-1]]
    assert words.names[-1] == "cat" and "".join(words.names[:-1]) == "黑色背景上的火箭和一只"
    assert len(words.names) > 3 and all(words.find(name) for name in words.names)
    assert words.find("cat")


def test_what_the_text_encoder_cuts_off_is_told(tmp_path: Path) -> None:
    model = maquette.open(write_original("sd3", tmp_path, only=("denoiser", "vae", "text_encoder", "text_encoder_2")))
    words = find_words(model, "rain " * LENGTH + "apple")
    assert words.find("apple") == []
    assert str(missing("apple", [words])).startswith("'apple' stands behind the last token")


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("cat", "cats, Cat, concat cat's", ["Cat", "cat"]),
        ("red apple", "a red\n apple", ["red\n apple"]),
        ("苹果", "红苹果和青苹果", ["苹果", "苹果"]),
        ("cat", "一只cat在", ["cat"]),
        ("c++", "c++ c+", ["c++"]),
        ("1", "1 11", ["1"]),
        (" ", "a b", []),
    ],
)
def test_occurrences(word: str, text: str, found: list[str]) -> None:
    assert [text[begin:end] for begin, end in occurrences(word, text)] == found
