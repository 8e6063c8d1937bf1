"""The captions: they name all that is there, put it where it is, and read like either language."""

import re

import numpy as np
import pytest

from maquette.errors import MaquetteError
from maquette.training import chinese, emoji, english, grammar
from maquette.training.captions import caption
from maquette.training.scenes import Background, Relation, Scene, Thing, sample_scene
from maquette.training.words import BACKGROUNDS, RECOLOURS

pytestmark = pytest.mark.usefixtures("drawable")


@pytest.fixture(scope="module")
def captioned() -> list[tuple[Scene, str, str]]:
    rng = np.random.default_rng(5)
    drawn = [sample_scene(rng) for _ in range(1500)]
    return [(scene, caption(scene, rng, "en"), caption(scene, rng, "zh")) for scene in drawn]


def index(character: str) -> int:
    return next(e.index for e in emoji.catalogue() if e.character == character)


def test_captions_name_every_object_and_its_colour(captioned: list[tuple[Scene, str, str]]) -> None:
    for scene, in_english, in_chinese in captioned:
        for thing in scene.things:
            described = emoji.catalogue()[thing.emoji]
            names_en, names_zh = {*described.names_en, described.base_en}, {*described.names_zh, described.base_zh}
            if scene.relation == "copies":
                names_en = {grammar.plural(name) for name in names_en} | names_en
            assert any(name in in_english for name in names_en), in_english
            assert any(name in in_chinese for name in names_zh), in_chinese
            if thing.recolour:
                assert any(f"{thing.recolour} {name}" in in_english for name in names_en), in_english
                assert RECOLOURS[thing.recolour][1].removesuffix("色") in in_chinese


def test_captions_name_the_background_unless_it_is_white(captioned: list[tuple[Scene, str, str]]) -> None:
    silent = 0
    for scene, in_english, in_chinese in captioned:
        for colour in scene.background.colours:
            said = colour in in_english
            silent += not said
            assert said or scene.background == Background("white"), in_english
            assert BACKGROUNDS[colour][1].removesuffix("色") in in_chinese or scene.background == Background("white")
    assert 0.03 < silent / len(captioned) < 0.12


def test_captions_are_short_and_of_their_language(captioned: list[tuple[Scene, str, str]]) -> None:
    for _, in_english, in_chinese in captioned:
        assert in_english == in_english.lower().strip()
        assert in_english.isprintable() and not re.search(r"  |,,| ,|[{}\u4e00-\u9fff]", in_english), in_english
        assert len(in_english.split()) <= 40
        assert re.search(r"[\u4e00-\u9fff]", in_chinese) and not re.search(r"[{} ]|，，|的的", in_chinese), in_chinese


def test_articles_agree(captioned: list[tuple[Scene, str, str]]) -> None:
    for _, in_english, _ in captioned:
        assert not re.search(r"\ban (?:unicorn|uf|[bcdfgjklpqtvwyz])", in_english), in_english
        assert not re.search(r"\ba (?:orange|apple|[aio](?!ne\b|ne-))", in_english), in_english


def test_captions_are_many_and_depend_on_the_generator_alone() -> None:
    scene = sample_scene(np.random.default_rng(11), kind="relation")
    for language in ("en", "zh"):
        drawn = [[caption(scene, np.random.default_rng(seed), language) for seed in range(200)] for _ in range(2)]
        assert drawn[0] == drawn[1]
        assert len(set(drawn[0])) > 60


def test_each_relation_has_at_least_eight_templates() -> None:
    for module in (english, chinese):
        for wording in module.TEMPLATES.values():
            assert len(set(wording.phrases + wording.sentences)) >= 8
        for phrases, sentences in (
            (module.CENTRED, module.CENTRED_SENTENCES),
            (module.PLACED, module.PLACED_SENTENCES),
        ):
            assert len(set(phrases + sentences)) >= 8


def test_a_lone_big_object_can_be_a_bare_name() -> None:
    scene = Scene((Thing(index("🍎"), 112, 8, 8),), Background("white"))
    rng = np.random.default_rng(0)
    assert {"red apple", "a red apple"} <= {caption(scene, rng, "en") for _ in range(300)}
    assert {"红苹果", "一个红苹果"} <= {caption(scene, rng, "zh") for _ in range(300)}


# In a caption whose objects are X and Y in the order of mention: what X is to Y ("{n}" is X or Y)
ENGLISH_ORACLE = (
    (r"X to the left of Y|X left of Y|X (is )?on the left (side )?of Y|X on the left and Y", "left of"),
    (r"left: X, right: Y|on the left X, on the right Y|from left to right: X|X on the left, Y on the right", "left of"),
    (r"X is to the left of Y", "left of"),
    (r"X (is )?(to|on) the right of Y|X right of Y|X with Y to its left|X on the right, Y on the left", "right of"),
    (
        r"X (is )?above Y|X over Y|X on top of Y|X with Y below it|X at the top and Y|top: X|from top to bottom: X",
        "above",
    ),
    (r"X (is )?(below|under|underneath|beneath) Y|X with Y above it", "below"),
)
CHINESE_ORACLE = (
    (r"X(在|位于)Y的?左[边侧]|X右边的Y|X的右边有Y|左边(是|有)?X，?右边|X在左|从左到右：X", "left of"),
    (r"X(在|位于)Y的?右[边侧]|X左边的Y|X的左边有Y", "right of"),
    (r"X在Y的?上[面方]|X下面的Y|X的下面有Y|上面是?X，?下面|X在上|从上到下：X", "above"),
    (r"X在Y的?下[面方]|X上面的Y|X的?上[面方]有Y", "below"),
)
SWAPPED = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def read_relation(text: str, first: str, second: str, oracle: tuple[tuple[str, str], ...]) -> str:
    """What `first` is to `second` in a caption."""
    text = re.sub(r"(\b(an?|the) |一[只个座头])(?=" + f"{first}|{second})", "", text)
    swapped = text.index(first) > text.index(second)
    if swapped:
        first, second = second, first
    text = text.replace(first, "X").replace(second, "Y")
    found = {relation for pattern, relation in oracle if re.search(pattern, text)}
    assert len(found) == 1, (text, found)
    return SWAPPED[found.pop()] if swapped else found.pop()


@pytest.mark.parametrize("relation", SWAPPED)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_relations_are_told_the_right_way_round(relation: Relation, language: str) -> None:
    things = (Thing(index("🌋"), 48, 0, 40), Thing(index("🦔"), 48, 72, 40))
    scene = Scene(things, Background("white"), relation)
    names, oracle = (
        (("volcano", "hedgehog"), ENGLISH_ORACLE) if language == "en" else (("火山", "刺猬"), CHINESE_ORACLE)
    )
    rng = np.random.default_rng(1)
    told = [caption(scene, rng, language) for _ in range(300)]  # type: ignore[arg-type]
    assert {read_relation(text, *names, oracle) for text in told} == {relation}


@pytest.mark.parametrize(
    ("name", "several", "one"),
    [
        ("pile of poo", "piles of poo", "a pile of poo"),
        ("unicorn", "unicorns", "a unicorn"),
        ("butterfly", "butterflies", "a butterfly"),
        ("monkey", "monkeys", "a monkey"),
        ("computer mouse", "computer mice", "a computer mouse"),
        ("hourglass", "hourglasses", "an hourglass"),
        ("octopus", "octopuses", "an octopus"),
        ("map of japan", "maps of japan", "a map of japan"),
    ],
)
def test_grammar(name: str, several: str, one: str) -> None:
    assert grammar.plural(name) == several
    assert grammar.with_article(name, name) == one
    assert grammar.countable(name)


@pytest.mark.parametrize(
    "name", ["cherries", "scissors", "bread", "milky way", "people wrestling", "hammer and wrench"]
)
def test_what_cannot_be_counted(name: str) -> None:
    assert not grammar.countable(name)


def test_counts_use_measure_words() -> None:
    cats = Scene(tuple(Thing(index("🐈"), 40, x, 40) for x in (0, 40, 80)), Background("red"), "copies")
    rng = np.random.default_rng(2)
    assert all("three" in caption(cats, rng, "en") for _ in range(50))
    in_chinese = [caption(cats, rng, "zh") for _ in range(50)]
    assert all("三只" in text or "三个" in text for text in in_chinese)
    assert sum("三只" in text for text in in_chinese) > 30


def test_other_languages_are_refused() -> None:
    scene = Scene((Thing(0, 112, 8, 8),), Background("white"))
    with pytest.raises(MaquetteError, match="'fr'"):
        caption(scene, np.random.default_rng(0), "fr")  # type: ignore[arg-type]
