"""A1111's own examples (modules/prompt_parser.py), and what they leave open."""

import pytest

from maquette.errors import MaquetteError
from maquette.text.script import DEEPEST, by_step, counts_steps, split_together


@pytest.mark.parametrize(
    ("prompt", "ends"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3]", [(3, "a "), (10, "a b")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("[a|(b:1.1)]", [(k + 1, "(b:1.1)" if k % 2 else "a") for k in range(10)]),
        ("[fe|]male", [(k + 1, "male" if k % 2 else "female") for k in range(10)]),
        ("[fe|||]male", [(k + 1, "male" if k % 4 else "female") for k in range(10)]),
        ("[cat::0.3] dog", [(3, "cat dog"), (10, " dog")]),
        (r"\[a:b:0.5\]", [(10, r"\[a:b:0.5\]")]),
        ("[a:b:1.0]", [(10, "a")]),
        ("[a:b:1]", [(1, "a"), (10, "b")]),
        ("[words] (more:1.2)", [(10, "[words] (more:1.2)")]),
        ("[a:b]", [(10, "[a:b]")]),
        ("[ [a [b:c:5] d", [(5, "[ [a b d"), (10, "[ [a c d")]),
        ("", [(10, "")]),
    ],
)
def test_what_a_prompt_says_in_each_step(prompt: str, ends: list[tuple[int, str]]) -> None:
    wanted = [next(text for end, text in ends if step < end) for step in range(10)]
    assert by_step(prompt, 10) == wanted


@pytest.mark.parametrize("prompt", ["[a|b]", "[a:b:3]", "[a:b:0]", "[a:b:0.5]", "[[a|b]:c:3]", "[a:[b|c]:2]", "a"])
def test_late_is_what_a1111_paints_in_each_step(prompt: str) -> None:
    """Its schedule holds what is said up to each step, from 1; its sampler looks from step 0 on for the first end."""
    said = by_step(prompt, 6)
    looked_up = [next(said[end - 1] for end in range(1, 7) if step <= end) for step in range(6)]
    assert by_step(prompt, 6, late=True) == looked_up
    assert by_step("[a|b]", 6, late=True) == [*"aababa"]
    assert by_step("[a:b:3]", 6, late=True) == [*"aaaabb"]


def test_what_counts_steps() -> None:
    for prompt in ("[a|b]", "x [a:3]", "[a::3]", "[a:[b:c:2]:0.5]", "[[a|b]::0.5]", "([a:b:3]:1.2)"):
        assert counts_steps(prompt), prompt
    for prompt in ("", "a | b", "[a:b:0.5]", "[a:b]", "[a]", "(a:3)", r"\[a:b:3\]", "[" * 99 + "a|b" + "]" * 99):
        assert not counts_steps(prompt), prompt
    assert not counts_steps("[[]" * 40_000)  # at once


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a cat AND a dog", [("a cat", 1.0), ("a dog", 1.0)]),
        ("a cat :1.2 AND a dog AND a penguin :2.2", [("a cat", 1.2), ("a dog", 1.0), ("a penguin", 2.2)]),
        ("a cat :0.7", [("a cat :0.7", 1.0)]),
        ("a cat:1.2 AND a dog:.5", [("a cat", 1.2), ("a dog", 0.5)]),
        ("SAND AND ANDES", [("SAND", 1.0), ("ANDES", 1.0)]),
        ("AND", [("", 1.0), ("", 1.0)]),
    ],
)
def test_prompts_that_are_meant_together(prompt: str, parts: list[tuple[str, float]]) -> None:
    assert split_together(prompt) == parts


def test_brackets_may_be_many_but_not_in_one_another() -> None:
    assert by_step("[" * 1500, 1) == ["[" * 1500]
    assert by_step("[" * DEEPEST + "a" + "]" * DEEPEST, 1) == ["[" * DEEPEST + "a" + "]" * DEEPEST]
    with pytest.raises(MaquetteError, match=f"in more than {DEEPEST} others"):
        by_step("[" * 1500 + "a" + "]" * 1500, 1)
