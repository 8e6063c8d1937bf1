"""The grammar and the chunks against what A1111's documentation and code say of them, written out by hand."""

import pytest

from maquette.text.chunks import Chunk, common_length, fill_chunks
from maquette.text.prompt import Span, parse_prompt, plain
from maquette.text.tokenizer import CLIPTokenizer

EXAMPLES = {
    "": [("", 1.0)],
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.573),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641),
        (".", 1.1),
    ],
    "[[less]]": [("less", 1 / 1.21)],
    "a: b :c)": [("a: b :c)", 1.0)],
    "(a: -0.5 )": [("a", -0.5)],
    "back\\slash \\\\": [("backslash \\", 1.0)],
    "one BREAK two": [("one", 1.0), ("", None), ("two", 1.0)],
    "(one BREAK two:2)": [("one", 2.0), ("", None), ("two", 2.0)],
    "BREAKFAST": [("BREAKFAST", 1.0)],
}


@pytest.mark.parametrize("prompt", EXAMPLES)
def test_spans_have_the_weights_that_a1111_gives(prompt: str) -> None:
    spans = parse_prompt(prompt)
    assert [span.text for span in spans] == [text for text, _ in EXAMPLES[prompt]]
    assert [span.weight for span in spans] == [pytest.approx(weight) for _, weight in EXAMPLES[prompt]]


def test_brackets_that_are_never_closed_multiply_and_take_no_time() -> None:
    spans = parse_prompt("(a [b (c:2) BREAK (d")
    assert [span.text for span in spans] == ["a ", "b ", "c", "", "d"]
    assert [span.weight for span in spans] == [pytest.approx(1.1), 1.0, 2.0, None, pytest.approx(1.1)]
    spans, weight = parse_prompt("(a[b" * 20_000), 1.0
    for span, text in zip(spans, "ab" * 20_000, strict=True):
        weight *= 1.1 if text == "a" else 1 / 1.1
        assert span == (text, weight)


LETTERS = {letter + end: index for index, (letter, end) in enumerate((x, e) for x in "abcdefg," for e in ("", "</w>"))}


@pytest.fixture
def tokenizer() -> CLIPTokenizer:
    """Every letter is a word; chunks have room for 30."""
    words = {**LETTERS, "<|startoftext|>": 100, "<|endoftext|>": 101}
    return CLIPTokenizer(words, [], length=32, pad="a")


def ids(text: str) -> list[int]:
    return [LETTERS[letter + "</w>"] for letter in text]


def spoken(chunk: Chunk) -> list[int]:
    """The ids between the marks."""
    return chunk.ids[1 : chunk.ids.index(101)]


def test_a_short_text_is_one_chunk_with_marks_padding_and_weights(tokenizer: CLIPTokenizer) -> None:
    (chunk,) = fill_chunks([Span("a b", 1.0), Span("c", 1.5)], tokenizer)
    assert chunk.ids == [100, *ids("abc"), 101, *[LETTERS["a"]] * 27]
    assert chunk.weights == [1.0, 1.0, 1.0, 1.5, *[1.0] * 28]
    assert chunk.places == [None, (0, 1), (2, 3), (3, 4), *[None] * 28]


def test_a_long_text_is_cut_where_it_is_full_or_at_a_comma_near_the_end(tokenizer: CLIPTokenizer) -> None:
    chunks = fill_chunks([Span("a " * 40, 1.0)], tokenizer)
    assert [len(spoken(chunk)) for chunk in chunks] == [30, 10]
    chunks = fill_chunks([Span("a " * 20 + ", " + "b " * 15, 1.0)], tokenizer)
    assert [spoken(chunk) for chunk in chunks] == [ids("a" * 20 + ","), ids("b" * 15)]
    chunks = fill_chunks([Span("a " * 5 + ", " + "b " * 30, 1.0)], tokenizer)  # the comma is too far back
    assert [len(spoken(chunk)) for chunk in chunks] == [30, 6]
    chunks = fill_chunks([Span("a " * 30 + ", b", 1.0)], tokenizer)
    assert [spoken(chunk) for chunk in chunks] == [ids("a" * 30), ids(",b")]


def test_without_the_comma_rule_the_first_chunk_is_what_the_tokenizer_says(tokenizer: CLIPTokenizer) -> None:
    for prompt in ("a " * 20 + ", " + "b " * 15, "a " * 30 + ", b", "a , b", ""):
        assert fill_chunks([Span(prompt, 1.0)], tokenizer, at_commas=False)[0].ids == tokenizer([prompt])[0]


@pytest.mark.parametrize(
    ("lengths", "length"),
    [([], 1), ([1], 1), ([1, 3], 3), ([2, 3], 6), ([1, 2, 3, 4], 12), ([5, 3, 2], 5), ([4, 5], 20)],
)
def test_texts_are_repeated_to_a_common_multiple_that_is_not_too_long(lengths: list[int], length: int) -> None:
    assert common_length(lengths) == length


def test_a_break_begins_a_new_chunk_and_an_empty_text_has_one(tokenizer: CLIPTokenizer) -> None:
    chunks = fill_chunks(parse_prompt("a BREAK b"), tokenizer)
    assert [spoken(chunk) for chunk in chunks] == [ids("a"), ids("b")]
    assert chunks[1].places[1] == (2, 3)
    assert plain(parse_prompt("a BREAK b")) == "a b"
    assert [spoken(chunk) for chunk in fill_chunks(parse_prompt(""), tokenizer)] == [[]]


def test_learned_words_stay_together(tokenizer: CLIPTokenizer) -> None:
    learned = {tuple(ids("cd")): (200, 201, 202)}
    (chunk,) = fill_chunks([Span("a c d c", 2.0)], tokenizer, learned)
    assert spoken(chunk) == [*ids("a"), 200, 201, 202, *ids("c")]
    assert chunk.weights[1:6] == [2.0] * 5
    assert chunk.places[1:6] == [(0, 1), *[(2, 5)] * 3, (6, 7)]
    chunks = fill_chunks([Span("a " * 28 + "c d", 1.0)], tokenizer, learned)
    assert [spoken(chunk) for chunk in chunks] == [ids("a" * 28), [200, 201, 202]]
