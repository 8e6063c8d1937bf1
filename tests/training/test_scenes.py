"""The scenes: what there is to draw, how scenes are chosen, and that pictures and maps show what scenes say."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from maquette.errors import MaquetteError
from maquette.training import drawing, emoji, scenes, words
from maquette.training.scenes import CLOSE, Background, Scene, Thing, is_held_out, sample_close_up, sample_scene

pytestmark = pytest.mark.usefixtures("drawable")


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    rng = np.random.default_rng(0)
    return [sample_scene(rng) for _ in range(4000)]


def test_a_close_up_is_one_whole_thing_that_keeps_to_its_split() -> None:
    rng = np.random.default_rng(1)
    for split in ("train", "held-out"):
        for close in [sample_close_up(rng, split) for _ in range(60)]:
            (thing,) = close.things
            assert min(thing.x, thing.y) >= 0 and max(thing.x, thing.y) + thing.size <= CLOSE and thing.place is None
            assert is_held_out(close) == (split == "held-out")
            assert drawing.draw(close).shape == (CLOSE, CLOSE, 3) and drawing.semantic_map(close).any()


def index(character: str) -> int:
    return next(e.index for e in emoji.catalogue() if e.character == character)


def test_catalogue_holds_single_code_points_in_order_without_flags_and_skin_tones() -> None:
    characters = [e.character for e in emoji.catalogue()]
    assert 1250 <= len(characters) <= 1500
    assert characters == sorted(characters)
    assert all(len(character) == 1 for character in characters)
    assert not set(characters) & set("🏁🚩🏴🏳🇫🇷🏻🏿🦰#*0")
    assert {"🍎", "🐈", "❤", "✈"} <= set(characters)  # the last two are emoji only with a variation selector


def test_names_are_unique_in_each_language() -> None:
    for language in ("names_en", "names_zh"):
        names = Counter(name for e in emoji.catalogue() for name in getattr(e, language))
        assert [name for name, count in names.items() if count > 1] == []


def test_word_tables_speak_of_emoji_that_exist() -> None:
    characters = {e.character for e in emoji.catalogue()}
    tables = (words.ALIASES_EN, words.ALIASES_ZH, words.NAMES_EN, words.NOUNS_ZH, "".join(words.MEASURES_ZH.values()))
    for table in (*tables, words.COMMON):
        assert set(table) <= characters


def test_things_are_drawn_four_times_as_often_as_people_and_signs() -> None:
    weights = {character: emoji.catalogue()[index(character)].weight for character in "🍎🐈🚗🤔🙎↗🕐♈🆎"}
    assert weights == dict.fromkeys("🍎🐈🚗", 1.0) | dict.fromkeys("🤔🙎↗🕐♈🆎", 0.25)


def test_base_nouns_leave_the_colour_out() -> None:
    bases = {c: emoji.catalogue()[index(c)] for c in "🍎💙🍏🧧"}
    assert [(e.base_en, e.base_zh, e.colour) for e in bases.values()] == [
        ("apple", "苹果", "red"),
        ("heart", "心", "blue"),
        ("apple", "苹果", "green"),
        ("red envelope", "红包", None),
    ]


def test_missing_sources_name_the_debian_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAQUETTE_EMOJI_FONT", "/nowhere.ttf")
    monkeypatch.setenv("MAQUETTE_CLDR", "/nowhere")
    with pytest.raises(MaquetteError, match="fonts-noto-color-emoji"):
        emoji.font_path()
    with pytest.raises(MaquetteError, match="unicode-cldr-core"):
        emoji.annotations_path("en")


def test_backgrounds_are_well_apart() -> None:
    colours = np.array([rgb for rgb, _ in words.BACKGROUNDS.values()], float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert distances[~np.eye(len(colours), dtype=bool)].min() > 60


def test_shares_are_as_declared(many: list[Scene]) -> None:
    kinds = Counter(scene.kind for scene in many)
    for kind, share in scenes.KINDS.items():
        assert kinds[kind] / len(many) == pytest.approx(share, abs=0.03)
    things = [thing for scene in many for thing in scene.things]
    assert sum(thing.recolour is not None for thing in things) / len(things) == pytest.approx(0.12, abs=0.03)
    assert sum(scene.style is not None for scene in many) / len(many) == pytest.approx(0.12, abs=0.02)
    assert sum(scene.background.to is not None for scene in many) / len(many) == pytest.approx(0.21, abs=0.03)


def test_boxes_lie_on_the_latent_grid_within_the_picture(many: list[Scene]) -> None:
    boxes = np.array([(t.x, t.y, t.size, t.x + t.size, t.y + t.size) for scene in many for t in scene.things])
    assert (boxes % scenes.GRID == 0).all()
    assert boxes.min() >= 0
    assert boxes.max() <= scenes.EXTENT


def test_places_and_relations_are_where_they_say(many: list[Scene]) -> None:
    for scene in many:
        centres = [(t.x + t.size / 2, t.y + t.size / 2) for t in scene.things]
        if scene.kind == "single":
            dx, dy = scenes.PLACES[scene.things[0].place or "centre"]
            assert [np.sign(c - 64) * (abs(c - 64) > 8) for c in centres[0]] == [dx, dy]
        (x, y), (u, v) = centres[0], centres[-1]
        match scene.relation:
            case "left of" | "and" | "row" | "copies":
                assert u - x >= 40 > abs(y - v)
            case "right of":
                assert x - u >= 40 > abs(y - v)
            case "above" | "column":
                assert v - y >= 40 > abs(x - u)
            case "below":
                assert y - v >= 40 > abs(x - u)


def test_recolouring_is_never_the_own_colour_nor_lost_in_the_background(many: list[Scene]) -> None:
    recoloured = [(scene, thing) for scene in many for thing in scene.things if thing.recolour]
    for scene, thing in recoloured:
        assert thing.recolour != emoji.catalogue()[thing.emoji].colour
        assert thing.recolour not in scene.background.colours
        assert scene.style not in scenes.COLOURLESS_STYLES


def test_the_split_parts_combinations(many: list[Scene]) -> None:
    held_out = scenes.held_out_scenes(200, seed=1)
    assert all(scenes.is_held_out(scene) for scene in held_out)
    assert not any(scenes.is_held_out(scene) for scene in many)
    assert len({scenes.combination(scene) for scene in held_out}) == 200
    assert held_out == scenes.held_out_scenes(200, seed=1) != scenes.held_out_scenes(200, seed=2)


def test_one_combination_in_twenty_is_held_out() -> None:
    things = [Thing(k, 112, 8, 8) for k in range(1000)]
    share = np.mean([scenes.is_held_out(Scene((t,), Background(c))) for t in things for c in ("red", "blue")])
    assert share == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_held_out_scenes_of_one_kind(kind: scenes.Kind) -> None:
    assert {scene.kind for scene in scenes.held_out_scenes(10, seed=3, kind=kind)} == {kind}


def test_scenes_that_look_alike_are_one_combination() -> None:
    a, b, bg = Thing(3, 48, 0, 40), Thing(900, 48, 72, 40), Background("red")
    pair = Scene((a, b), bg, "left of")
    alike = [pair, Scene((b, a), bg, "right of"), Scene((a, b), bg, "and"), replace(pair, style="sticker")]
    assert len({scenes.combination(scene) for scene in alike}) == 1
    others = [Scene((a, b), bg, "right of"), Scene((a, b), bg, "above"), Scene((a, b), Background("blue"), "left of")]
    others += [Scene((replace(a, recolour="blue"), b), bg, "left of"), Scene((a,), bg)]
    assert len({scenes.combination(scene) for scene in [pair, *others]}) == 6


def test_the_split_never_moves() -> None:
    """Weights are evaluated on combinations they have not seen: a change of the hash would spoil that."""
    apple = Thing(index("🍎"), 112, 8, 8)
    blue = Scene((replace(apple, recolour="blue"),), Background("red", "navy", True))
    assert scenes.combination(blue) == "🍎blue|None|red>navy"
    pairs = [(recolour, colour) for recolour in words.RECOLOURS for colour in words.BACKGROUNDS]
    held_out = [(r, c) for r, c in pairs if scenes.is_held_out(Scene((replace(apple, recolour=r),), Background(c)))]
    assert held_out == [
        ("red", "green"),
        ("orange", "grey"),
        ("yellow", "turquoise"),
        ("green", "dark green"),
        ("blue", "turquoise"),
        ("purple", "pink"),
        ("pink", "green"),
        ("brown", "beige"),
        ("black", "red"),
    ]


@pytest.mark.parametrize("style", [None, "pixel art", "silhouette", "black and white"])
@pytest.mark.parametrize("recolour", [None, "purple"])
def test_maps_agree_with_pictures(style: str | None, recolour: str | None) -> None:
    """Where the map says an object, the picture differs from the bare background, and hardly anywhere else."""
    thing = Thing(index("🐈"), 80, 16, 32, None, recolour)
    scene = Scene((thing,), Background("turquoise"), None, style)
    changed = (drawing.draw(scene) != drawing.draw(replace(scene, things=()))).any(-1)
    labels = drawing.semantic_map(scene)
    assert set(np.unique(labels)) == {0, thing.emoji + 1}
    assert changed[labels > 0].mean() > 0.93
    assert changed[labels == 0].mean() < 0.05


@pytest.mark.parametrize("style", scenes.STYLES)
def test_styles_change_the_sprite_within_its_box(style: str) -> None:
    thing = Thing(index("🍎"), 48, 40, 40)
    plain = Scene((thing,), Background("navy"))
    styled = drawing.draw(replace(plain, style=style))
    assert (styled != drawing.draw(plain)).any()
    outside = np.ones((128, 128), bool)
    outside[40:88, 40:88] = False
    assert (styled[outside] == words.BACKGROUNDS["navy"][0]).all()


@pytest.mark.parametrize("colour", words.RECOLOURS)
def test_recoloured_objects_have_the_colour(colour: str) -> None:
    """The median colour of an apple, a cat and a house is nearer to the wanted colour than to any other."""
    middles = {name: np.array(ramp[1]) for name, (ramp, _) in words.RECOLOURS.items()}
    for character in "🍎🐈🏠":
        pixels = drawing.styled(Thing(index(character), 80, 0, 0, None, colour), None)
        median = np.median(pixels[pixels[..., 3] == 255][:, :3], 0)
        assert min(middles, key=lambda name: np.linalg.norm(median - middles[name])) == colour


def test_recoloured_objects_keep_their_shading() -> None:
    for character in "🏠⏰🚢😀":
        plain, blue = (drawing.styled(Thing(index(character), 80, 0, 0, None, c), None) for c in (None, "blue"))
        solid = plain[..., 3] == 255
        light, shade = (pixels[solid][:, :3] @ np.array([0.3, 0.59, 0.11]) for pixels in (plain, blue))
        assert np.corrcoef(light, shade)[0, 1] > 0.9


def test_sprites_are_premultiplied() -> None:
    for k in range(0, 1300, 97):
        pixels = emoji.sprite(k, 32)
        assert (pixels[..., :3] <= pixels[..., 3:]).all()
        assert pixels[..., 3].max() == 255


def test_gradients_run_as_named() -> None:
    down, across = (drawing.draw(Scene((), Background("black", "white", sideways))) for sideways in (False, True))
    assert (down == across.swapaxes(0, 1)).all()
    assert down[0].max() < 20
    assert down[-1].min() == 255


def test_later_things_cover_earlier_ones() -> None:
    low, high = Thing(index("🟥"), 80, 24, 24), Thing(index("🟦"), 48, 40, 40)
    labels = drawing.semantic_map(Scene((low, high), Background("white"), "and"))
    assert labels[64, 64] == high.emoji + 1
    assert labels[32, 64] == low.emoji + 1


@pytest.mark.parametrize(("split", "kind"), [("test", None), ("train", "crowd")])
def test_unknown_words_are_refused(split: str, kind: str | None) -> None:
    with pytest.raises(MaquetteError, match="use"):
        sample_scene(np.random.default_rng(0), split, kind)  # type: ignore[arg-type]
