"""Words that mean another thing in ComfyUI and InvokeAI than here: translated, or named."""

import pytest

from maquette.text.prompt import parse_prompt, plain
from maquette.text.script import split_together
from maquette.workflows.foreign import ADD_EMBEDDING, Settings
from maquette.workflows.invokeai import read_dream, read_metadata
from maquette.workflows.peer_words import STRONGER, leave_triggers, read_embeddings, read_plain


def left(settings: Settings) -> dict[str, str]:
    return {each.name: each.value for each in settings.untranslated}


@pytest.mark.parametrize(
    ("told", "words", "names"),
    [
        ("embedding:easynegative, fog", "easynegative, fog", ["easynegative"]),
        ("fog,(embedding:sub\\bad_v2.pt:1.2)", "fog,(bad_v2:1.2)", ["bad_v2"]),
        ("embedding:a\nembedding:b/c.safetensors", "a\nc", ["a", "c"]),
        ("myembedding:x", "myembedding:x", []),
    ],
)
def test_learned_words_of_comfyui_are_called_by_their_names(told: str, words: str, names: list[str]) -> None:
    settings = Settings(program="ComfyUI")
    assert read_embeddings(settings, told) == words
    assert [(each.name, each.value, each.why) for each in settings.untranslated] == [
        ("embedding", name, ADD_EMBEDDING) for name in names
    ]


@pytest.mark.parametrize(
    ("words", "marks"),
    [
        ("a cat AND a dog", {"AND"}),
        ("a cat BREAK a dog [b]", {"BREAK", "["}),
        ("SAND, BREAKING and", set()),
    ],
)
def test_plain_words_that_are_grammar_here_are_named(words: str, marks: set[str]) -> None:
    settings = Settings(program="ComfyUI")
    assert read_plain(settings, words, negative=False) == words
    assert left(settings) == dict.fromkeys(marks, words)
    assert ("AND" in marks) == (len(split_together(words)) > 1)


def test_and_is_a_plain_word_in_a_negative_prompt_here_too() -> None:
    settings = Settings(program="ComfyUI")
    assert read_plain(settings, "a AND b", negative=True) == "a AND b"
    assert left(settings) == {}


def test_a_tag_that_is_plain_characters_there_adds_no_lora_here() -> None:
    settings = Settings(program="ComfyUI")
    assert read_plain(settings, "a cat <lora:x:0.8>", negative=False) == "a cat "
    assert left(settings) == {"lora": "x:0.8"}


@pytest.mark.parametrize("words", ["(cat)", "a (cat:1.4)", r"\(a\) (b)", "cat", r"\(cat\)", "cat)"])
def test_weights_are_found_where_our_grammar_reads_them(words: str) -> None:
    spans = parse_prompt(words)
    assert plain(spans).strip()
    assert bool(STRONGER.search(words)) == any(span.weight != 1 for span in spans)


def test_triggers_of_invokeai_are_named_and_stay() -> None:
    settings = Settings(program="InvokeAI")
    leave_triggers(settings, "a <sks-cat> and <bad hands>, 1 < 2 <b:1>")
    assert [each.value for each in settings.untranslated] == ["<sks-cat>", "<bad hands>"]


def test_the_words_of_invokeai_are_looked_through() -> None:
    settings = read_metadata('{"positive_prompt": "a (cat:1.2) AND <sks> [b]", "negative_prompt": "x BREAK <bad>"}')
    assert (settings.fields["prompt"], settings.fields["negative"]) == ("a (cat:1.2) AND <sks> [b]", "x BREAK <bad>")
    assert left(settings).keys() == {"(", "AND", "[", "BREAK", "embedding"}
    assert left(read_dream('"a fox [fog]" -s 50 -A k_euler')) == {}
