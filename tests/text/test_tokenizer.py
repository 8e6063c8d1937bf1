"""CLIP's tokenizer: the same ids as transformers', and a vocabulary that comes back from its files."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer as Reference

from maquette.errors import MaquetteError
from maquette.text.tokenizer import END, START, CLIPTokenizer

ENGLISH = (
    "a red apple on a blue background", "two cats to the left of a dog", "it's the dog's bone, isn't it?",
    "a black-and-white photograph of 1234 roses", "A ROCKET above a tree", "naïve café façade", "don't",
    "they'll say we've seen it; I'd say I'm sure", "pixel art, 8-bit, highly detailed", "an orange fish (sticker)",
)  # fmt: skip
CHINESE = (
    "蓝色背景上的红苹果", "一只猫在狗的左边", "三个香蕉，像素画", "黑色背景上的火箭。", "一朵花", "两只老虎和一辆汽车",
    "右边是披萨！", "你好，世界", "一百二十三", "紫色渐变背景",
)  # fmt: skip
ODD = (
    "", " ", "\t\n  \r\n", "a", "é", "e\u0301", "Å", "A\u030a", "ﬁ", "İstanbul", "ß ẞ", "ΑΣ", "🍎", "🇨🇳", "a🍎b",
    "👩\u200d👩\u200d👧\u200d👦 family", "　全角　空格", "no\u00a0break", "zero\u200bwidth", "\ufeffbom", "a\u0000b",
    "\u0007bell", "--- ... !!!", "''s 's 'S 'LL can't've", "1st 2nd ½ Ⅷ ①", "x²+y²=z²", "http://a.b/c?d=e&f#g",
    "<html>&amp;</html>", "((a:1.2)) [b|c]", "<|endoftext|>", "a <|startoftext|> b", "<|endoftext", "<|ENDOFTEXT|>",
    "</w>", "a</w> b", "Ġ Ċ", "日本語テキスト", "한국어", "مرحبا بالعالم", "हिन्दी", "ไทย", "\U0001f9ff\U00020000",
    "a" * 500, "word " * 200, "苹" * 120, "!" * 90, "_under_score_", "tab\tand\nline", "MiXeD CaSe", "ʼn", "ǅ",
    "\u2028line\u2029paragraph", "\x85next", "\x1cfile", "ＦＵＬＬ　ＷＩＤＴＨ",
)  # fmt: skip


def noise(count: int) -> list[str]:
    """Strings of letters out of everywhere."""
    rng = np.random.default_rng(0)
    pools = [
        "abcdefgXYZ",
        "'-.,!?()",
        "0123456789",
        "苹果猫狗红蓝的",
        "éüñçßøİ",
        "🍎🐱👍🏽\u200d️",
        " \t\n\u00a0\u3000",
        "\u0301\u0308\u0000\u0085",
    ]
    letters = [letter for pool in pools for letter in pool]
    return ["".join(rng.choice(letters, rng.integers(1, 60))) for _ in range(count)]


TEXTS = (*ENGLISH, *CHINESE, *ODD, *noise(300))


@pytest.fixture(scope="module")
def trained() -> CLIPTokenizer:
    return CLIPTokenizer.train([*ENGLISH, *CHINESE] * 3, 700, length=32)


@pytest.fixture(scope="module")
def folder(trained: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    trained.write(path)
    return path


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference.from_pretrained(folder)


def test_ids_are_those_of_transformers(folder: Path, reference: Reference) -> None:
    ours = CLIPTokenizer.read(folder)
    theirs = reference(list(TEXTS), padding="max_length", truncation=True, max_length=ours.length).input_ids
    for text, mine, other in zip(TEXTS, ours(TEXTS), theirs, strict=True):
        assert mine == other, repr(text)


def test_transformers_takes_length_and_marks_from_the_folder(folder: Path, reference: Reference) -> None:
    ours = CLIPTokenizer.read(folder)
    assert reference.model_max_length == ours.length == 32
    marks = (reference.bos_token_id, reference.eos_token_id, reference.pad_token_id, len(reference))
    assert marks == (ours.start, ours.end, ours.pad, len(ours))


def test_reading_undoes_writing(trained: CLIPTokenizer, folder: Path) -> None:
    again = CLIPTokenizer.read(folder)
    assert (again.vocabulary, again.merges, again.length) == (trained.vocabulary, trained.merges, trained.length)
    assert again(TEXTS) == trained(TEXTS)


def test_training_gives_the_same_vocabulary_again(trained: CLIPTokenizer) -> None:
    again = CLIPTokenizer.train([*ENGLISH, *CHINESE] * 3, 700, length=32)
    assert again.vocabulary == trained.vocabulary and again.merges == trained.merges


def test_the_vocabulary_is_as_large_as_was_asked_and_in_clips_order(trained: CLIPTokenizer) -> None:
    tokens = sorted(trained.vocabulary, key=trained.vocabulary.__getitem__)
    assert [trained.vocabulary[token] for token in tokens] == [*range(len(tokens))]
    assert len(trained) <= 700 and len(trained.merges) > 50
    assert all(len(token) == 1 for token in tokens[:256])
    assert tokens[256:512] == [token + "</w>" for token in tokens[:256]]
    assert tokens[512:-2] == [left + right for left, right in trained.merges]
    assert tokens[-2:] == [START, END]
    assert len(CLIPTokenizer.train(ENGLISH, 600, length=32)) <= 600


def test_what_was_often_read_takes_few_tokens(trained: CLIPTokenizer) -> None:
    lengths = {text: len(trained.words(text)) for text in ("background", "背景", "zzyzx", "龘龘")}
    assert lengths["background"] < 5 and lengths["zzyzx"] == 5
    assert lengths["背景"] < 4 and lengths["龘龘"] == 6  # of six bytes each


@pytest.mark.parametrize("text", ENGLISH + CHINESE)
def test_words_are_enclosed_and_padded(trained: CLIPTokenizer, text: str) -> None:
    (row,), words = trained([text]), trained.words(text)
    kept = words[:30]
    assert row == [trained.start, *kept, trained.end, *[trained.pad] * (30 - len(kept))]


def test_what_is_too_long_is_cut_before_the_end_mark(trained: CLIPTokenizer) -> None:
    (row,) = trained(["apple cat " * 50])
    assert len(row) == 32 and row[-1] == trained.end and END not in row[1:-1]
    assert row[1:-1] == trained.words("apple cat " * 50)[:30]


def test_case_white_space_and_composition_do_not_matter(trained: CLIPTokenizer) -> None:
    plain, odd = "a naïve café", "  A\tNAI\u0308VE\n\n Café "
    assert unicodedata.is_normalized("NFC", odd) is False
    assert trained([odd]) == trained([plain])
    assert trained.words("") == trained.words(" \n ") == []


def test_typographic_quotes_are_straight_ones(trained: CLIPTokenizer) -> None:
    curly, straight = "the dog’s ‘bone’, “isn’t it”", "the dog's 'bone', \"isn't it\""
    assert trained.pieces(curly) == trained.pieces(straight)
    assert trained.words("（，！") != trained.words("(,!")  # full-width ones are themselves


def test_no_texts_give_no_rows(trained: CLIPTokenizer) -> None:
    assert trained([]) == []


def test_less_than_the_tower_can_read_is_taken_from_the_config(trained: CLIPTokenizer, tmp_path: Path) -> None:
    trained.write(tmp_path)
    assert CLIPTokenizer.read(tmp_path, length=77).length == 32
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"model_max_length": int(1e30), "pad_token": {"content": "!"}}))
    found = CLIPTokenizer.read(tmp_path, length=20)
    assert (found.length, found.pad) == (20, trained.vocabulary["!"])
    config.unlink()
    assert CLIPTokenizer.read(tmp_path).length == 77


@pytest.mark.parametrize("files", ["one", "two"])
def test_added_words_are_tokens_of_their_own(folder: Path, tmp_path: Path, files: str) -> None:
    """As textual inversion adds them to a model's folder, in the files of today's and of earlier transformers."""
    theirs = Reference.from_pretrained(folder)
    theirs.add_tokens(["<cat-toy>", "<Gta5>", "苹果的样子"])
    if files == "one":
        theirs.save_pretrained(tmp_path)
    else:
        ours = CLIPTokenizer.read(folder)
        added = {word: len(ours) + k for k, word in enumerate(["<cat-toy>", "<Gta5>", "苹果的样子"])}
        CLIPTokenizer(ours.vocabulary, ours.merges, length=ours.length, added=added).write(tmp_path)
    ours = CLIPTokenizer.read(tmp_path)
    assert len(ours) == len(theirs) == len(CLIPTokenizer.read(folder)) + 3
    for text in ("a photo of <cat-toy>", "<CAT-toy>, <gta5><gta5>", "画苹果的样子，<cat-toy>s", "a cat - toy <cat"):
        assert ours.words(text) == theirs(text, add_special_tokens=False)["input_ids"]


def test_a_word_of_several_vectors_stands_for_all_of_them(trained: CLIPTokenizer) -> None:
    """`<cat>`, `<cat>_1`, `<cat>_2`: diffusers writes all of them into the prompt."""
    first = len(trained)
    added = {"<cat>": first, "<cat>_1": first + 1, "<cat>_2": first + 2, "<dog>": first + 3}
    tokenizer = CLIPTokenizer(trained.vocabulary, trained.merges, length=8, added=added)
    pieces = tokenizer.pieces("a <cat><dog>")
    assert [piece.id for piece in pieces] == [*trained.words("a"), first, first + 1, first + 2, first + 3]
    assert [(piece.start, piece.end) for piece in pieces[1:]] == [(2, 7)] * 3 + [(7, 12)]
    assert tokenizer(["a <cat>"])[0][1:6] == [*trained.words("a"), first, first + 1, first + 2, tokenizer.end]


@pytest.mark.parametrize("decoder", [True, False])
def test_an_early_config_leaves_the_padding_to_the_map_beside_it(
    trained: CLIPTokenizer, tmp_path: Path, decoder: bool
) -> None:
    """Stable Diffusion 2's folders: transformers pads as the map says, unless the config tells of its tokens itself."""
    trained.write(tmp_path)
    added = {"added_tokens_decoder": {}} if decoder else {}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|endoftext|>", **added}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    assert CLIPTokenizer.read(tmp_path).pad == (trained.end if decoder else trained.vocabulary["!"])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vocab.json", None),
        ("merges.txt", None),
        ("vocab.json", "{"),
        ("vocab.json", "[1, 2]"),
        ("vocab.json", '{"a": 0}'),
        ("vocab.json", '{"a": "b"}'),
        ("merges.txt", "#version: 0.2\na b c\n"),
        ("merges.txt", "#version: 0.2\nqq zz</w>\n"),
        ("tokenizer_config.json", "["),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"pad_token": "<nothing>"}'),
        ("tokenizer_config.json", '{"model_max_length": "long"}'),
        ("added_tokens.json", "{"),
        ("added_tokens.json", '{"<new>": 3}'),
    ],
)
def test_damaged_files_are_one_clear_error(
    trained: CLIPTokenizer, tmp_path: Path, file: str, content: str | None
) -> None:
    trained.write(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(MaquetteError, match=r"(?s)holds no CLIP tokenizer .* it needs vocab\.json and merges"):
        CLIPTokenizer.read(tmp_path)
