"""Maps of scenes: every pixel says what covers it, and simpler outlines hold the true one."""

import numpy as np
import pytest

from maquette.training import emoji
from maquette.training.drawing import draw, semantic_map
from maquette.training.palette import palette
from maquette.training.scenes import Background, Scene, Thing, sample_scene
from maquette.training.semantic import MapStream, semantic_picture
from maquette.training.stream import SceneStream

pytestmark = pytest.mark.usefixtures("known_emoji")


def test_a_map_shows_what_covers_each_pixel_on_the_scenes_background() -> None:
    rng = np.random.default_rng(3)
    for scene in [sample_scene(rng) for _ in range(8)]:
        picture, labels = semantic_picture(scene), semantic_map(scene)
        behind = draw(Scene((), scene.background))
        assert (picture[labels == 0] == behind[labels == 0]).all()
        for thing in scene.things:
            there = labels == thing.emoji + 1
            assert there.any() and (picture[there] == palette().thing(emoji.catalogue()[thing.emoji].character)).all()


def test_simpler_outlines_are_as_wide_and_high_as_the_true_one() -> None:
    thing = Thing(next(each.index for each in emoji.catalogue() if each.character == "🦒"), 80, 24, 32)
    scene = Scene((thing,), Background("blue"))
    masks = {}
    for outline in ("exact", "ellipse", "box"):
        masks[outline] = (semantic_picture(scene, outline) == palette().by_index[thing.emoji]).all(-1)
    rows, columns = np.nonzero(masks["exact"])
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    box = np.zeros_like(masks["box"])
    box[top:bottom, left:right] = True
    assert (masks["box"] == box).all()
    for axis in (0, 1):
        assert (masks["ellipse"].any(axis) == masks["exact"].any(axis)).all()
    area = (bottom - top) * (right - left)
    assert masks["ellipse"].sum() == pytest.approx(np.pi / 4 * area, rel=0.02)
    assert masks["exact"].sum() < area


def test_items_are_the_streams_with_their_maps_wherever_a_batch_begins() -> None:
    maps = MapStream(SceneStream(9), exact=0.5)
    whole, part = maps.batch(0, 6), maps.batch(2, 4)
    plain = SceneStream(9).batch(2, 4)
    assert part.captions == plain.captions and (part.pictures == plain.pictures).all()
    assert (whole.maps[2:] == part.maps).all()
    expected = [semantic_picture(scene, maps.outline(2 + k)) for k, scene in enumerate(plain.scenes)]
    assert (part.maps == np.stack(expected)).all()


@pytest.mark.parametrize("exact", [0.0, 0.4, 1.0])
def test_outlines_come_at_their_shares(exact: float) -> None:
    found = [MapStream(SceneStream(9), exact).outline(k) for k in range(300)]
    shares = [found.count(outline) / 300 for outline in ("exact", "ellipse", "box")]
    assert shares == pytest.approx([exact, (1 - exact) / 2, (1 - exact) / 2], abs=0.07)
