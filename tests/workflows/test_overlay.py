"""Heat maps over a picture: hot where the map is, dim elsewhere, as many as there are words."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from maquette.engine.attention_maps import AttentionMaps, Seen
from maquette.engine.words import Token, Words
from maquette.errors import MaquetteError
from maquette.workflows import overlay
from maquette.workflows.overlay import CAPTION, MARGIN, RAMP, heated, sheet

PROMPT = "cat 火箭"


@pytest.fixture
def maps() -> AttentionMaps:
    """The model looked at the upper left for the cat, and at the lower right for the rocket."""
    maps = AttentionMaps()
    maps.tell(Words((Token(1, PROMPT, (0, 3)), Token(2, PROMPT, (4, 6)))))
    seen = torch.zeros(1, 2, 4, 4)
    seen[0, 0, 0, 0] = seen[0, 1, 3, 3] = 0.5
    maps._seen[0, "layer", 0] = Seen(seen)
    return maps


def test_heat_is_drawn_where_it_is() -> None:
    picture = Image.new("RGB", (64, 64), (100, 100, 100))
    heat = np.zeros((4, 4))
    heat[1, 3] = 1.0
    found = np.asarray(heated(picture, heat), dtype=float)
    assert np.abs(found[40:, :24] - 55).max() <= 1
    distance = np.abs(found - (0.8 * RAMP[-1] + 0.2 * 55)).sum(-1)
    assert np.unravel_index(distance.argmin(), distance.shape) in [(y, x) for y in range(16, 32) for x in range(48, 64)]
    assert distance.min() < 20


def test_a_sheet_has_the_picture_and_each_word(maps: AttentionMaps) -> None:
    image = Image.new("RGB", (128, 64), (100, 150, 200))
    found = sheet(image, maps)
    assert found.size == (3 * (512 + MARGIN) - MARGIN, 256 + CAPTION)
    first, cat, rocket = (found.crop((left, 0, left + 512, 256)) for left in (0, 518, 1036))
    assert np.unique(np.asarray(first).reshape(-1, 3), axis=0).tolist() == [[100, 150, 200]]
    for cell, hot, cold in ((cat, (32, 16), (480, 240)), (rocket, (480, 240), (32, 16))):
        assert cell.getpixel(hot)[0] > 200
        assert cell.getpixel(cold) == (55, 82, 110)
    assert sheet(image, maps, ["cat"]).size == (2 * (512 + MARGIN) - MARGIN, 256 + CAPTION)
    with pytest.raises(MaquetteError, match="'dog' is not in the prompt; its words are cat, 火箭"):
        sheet(image, maps, ["dog"])


def test_wide_sheets_have_several_rows(maps: AttentionMaps) -> None:
    assert sheet(Image.new("RGB", (1024, 256)), maps).size == (1024, 3 * (256 + CAPTION + MARGIN) - MARGIN)


def test_captions_differ_and_need_no_chinese_font(maps: AttentionMaps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "chinese_font", lambda: None)
    found = sheet(Image.new("RGB", (256, 256), "white"), maps)
    captions = [found.crop((left, 256, left + 256, 256 + CAPTION)) for left in (0, 262, 524)]
    assert captions[0].getextrema() == ((255, 255),) * 3
    assert all(caption.convert("L").getextrema()[0] < 64 for caption in captions[1:])
    assert ImageChops.difference(captions[1], captions[2]).getbbox() is not None
    assert overlay.caption("火箭", "word 2")[1] == "word 2"
