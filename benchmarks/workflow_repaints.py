"""Repainting whole pictures and their details."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image
from workflow_cases import Bench, Case, Record, Row, box_of, drawn, share

from maquette.training.captions import caption
from maquette.training.evaluate import LANGUAGES
from maquette.training.readings import fitting, score
from maquette.training.scenes import EXTENT, PLACES, Thing
from maquette.workflows.canvas import fit
from maquette.workflows.region import Box, around

STRENGTHS = (0.3, 0.9)  # of img2img
SPOILT = 0.5  # the strength at which the model repaints a scene whose object is too small for it
TINY = 24  # pixels


def img2img_cases(bench: Bench, ks: Sequence[int]) -> list[Case]:
    """A single object repainted without words, by those of another thing in its place, and by those of another scene.

    The last is the hardest case, for a model that learned from captions that tell all that a picture shows.
    """
    found = []
    for k in ks:
        source, other = (bench.scene(k, "single", series) for series in (0, 1))
        there = dataclasses.replace(source.things[0], emoji=other.things[0].emoji)
        wanted = {"": source, "thing": dataclasses.replace(source, things=(there,)), "scene": other}
        image = drawn(source)
        things = bench.look(image).argmax(-1) > 0
        record: Record = {"differ": source.background != other.background}
        shown = [image]
        for asked, scene in wanted.items():
            words = caption(scene, np.random.default_rng([bench.seed, k]), LANGUAGES[k // 2 % 2]) if asked else ""
            pictures = {str(strength): bench.paint(k, words, image=image, strength=strength) for strength in STRENGTHS}
            if asked:
                pictures |= {"words": bench.paint(k, words), "redrawn": drawn(scene)}
            for name, picture in {"drawn": image, **pictures}.items():
                [reading] = bench.read(picture)
                before, after = score(reading, source), score(reading, scene)
                others = bench.look(picture).argmax(-1) > 0
                record |= {
                    f"{asked} overlap {name}": float((things & others).sum() / (things | others).sum().clamp(min=1)),
                    f"{asked} background {name}": before.background,
                    f"{asked} object {name}": before.object,
                    f"{asked} new background {name}": after.background,
                    f"{asked} new object {name}": after.object,
                }
            shown += pictures.values()
        found.append((record, shown))
    return found


def img2img_rows(records: Sequence[Record]) -> list[Row]:
    whens = {"drawn": "source", **{str(each): f"at {each}" for each in STRENGTHS}}
    whens |= {"words": "words alone", "redrawn": "the words' scene drawn"}
    kept = {"overlap": "overlap of its layout", "background": "its background", "object": "its object"}
    new = {"new object": "the words' object", "new background": "the words' background"}
    asked = {"": ("no words", kept), "thing": ("another thing", kept | new), "scene": ("another scene", kept | new)}
    return [
        share(records, f"{kind}, {when}: {said}", "", f"{key} {figure} {name}", "differ" if key == "scene" else None)
        for key, (kind, figures) in asked.items()
        for name, when in whens.items()
        for figure, said in figures.items()
        if key or name not in ("words", "redrawn")
    ]


def detail_cases(bench: Bench, ks: Sequence[int]) -> list[Case]:
    found = []
    for k in ks:
        scene = bench.scene(k, "single")
        place, sides = list(PLACES.items())[k % len(PLACES)]
        x, y = ((EXTENT - TINY) // 2 + side * 40 for side in sides)
        thing = dataclasses.replace(scene.things[0], size=TINY, x=x, y=y, place=place)
        scene = dataclasses.replace(scene, things=(thing,), style=None)
        near = dataclasses.replace(scene, things=(dataclasses.replace(thing, size=64, x=32, y=32, place=None),))
        words, there = (caption(each, np.random.default_rng([bench.seed, k])) for each in (scene, near))
        box = box_of(thing)
        before = bench.paint(k, words, image=drawn(scene), strength=SPOILT)
        after = bench.paint(k, there, image=before, detail={"boxes": [str(box)]})
        crop = around(box, TINY // 2, 1.0, (EXTENT, EXTENT))
        enlarged = [fit(each.crop(crop), EXTENT, EXTENT, "stretch") for each in (drawn(scene), before, after)]
        record: Record = {"words": there}
        for name, image in zip(("drawn", "before", "after"), enlarged, strict=True):
            record[f"likely {name}"] = likelihood(bench, image, thing, crop)
            record[f"found {name}"] = score(bench.read(image)[0], scene).object
        record["better"] = record["likely after"] > record["likely before"]
        found.append((record, enlarged))
    return found


def likelihood(bench: Bench, image: Image.Image, thing: Thing, crop: Box) -> float:
    """How likely the judge takes the cells of a thing's box in an enlarged crop to be the thing, in the mean."""
    cells = bench.look(image)
    scale = cells.shape[0] / crop.width
    rows, columns = (
        slice(round((start - first) * scale), round((start + thing.size - first) * scale))
        for start, first in ((thing.y, crop.top), (thing.x, crop.left))
    )
    wanted = [1 + emoji for emoji in fitting(thing, None)]
    return float(cells[rows, columns][..., wanted].sum(-1).mean())


def detail_rows(records: Sequence[Record]) -> list[Row]:
    names = {"drawn": "drawn: the judge's limit", "before": "before", "after": "after"}
    rows = [share(records, f"the object's likelihood, {said}", "", f"likely {name}") for name, said in names.items()]
    rows += [share(records, f"the object found, {said}", "", f"found {name}") for name, said in names.items()]
    return [*rows, share(records, "likelier after", "> 50 %", "better")]
