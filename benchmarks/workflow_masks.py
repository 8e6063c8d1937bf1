"""Repainting a part of drawn scenes: seams, and another object in an object's place."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image
from workflow_cases import Bench, Case, Record, Row, box_of, drawn, is_seen, masked, share

from maquette.training.captions import caption
from maquette.training.drawing import semantic_map
from maquette.training.evaluate import LANGUAGES, examples, paint
from maquette.training.readings import score
from maquette.training.scenes import Scene, Thing, sample_scene
from maquette.workflows.region import grow

GROWN = 4  # pixels that masks are larger than their objects, as people draw them: new and old are mixed over so many
SEAM = 1.2  # times the gradient of its surroundings may be that across a border
REACH = 8  # pixels on either side of a border that are its surroundings


def seam_cases(bench: Bench, ks: Sequence[int]) -> list[Case]:
    """Even cases repaint an object's box, odd ones its outline, with the scene's own caption."""
    found = []
    for k in ks:
        scene = bench.scene(k)
        thing, image = scene.things[k % len(scene.things)], drawn(scene)
        mask = grow(masked(box_of(thing)) if k % 2 == 0 else outline(scene, thing), GROWN)
        words = caption(scene, np.random.default_rng([bench.seed, k]), LANGUAGES[k // 2 % 2])
        painted = bench.paint(k, words, image=image, mask=mask)
        inside = np.asarray(mask) > 0
        same = (np.asarray(image) == np.asarray(painted)).all(2)
        record = {"outline": k % 2 == 1, "box": k % 2 == 0, "identical": bool(same[~inside].all())}
        for name, picture in (("painted", painted), ("drawn", image)):
            record[f"across {name}"], record[f"around {name}"] = gradients(np.asarray(picture), inside)
        inner = [np.asarray(grow(mask, -depth)) > 0 for depth in range(GROWN)]
        record["steepest painted"] = max(gradients(np.asarray(painted), each)[0] for each in inner)
        record["seamless"] = record["across painted"] <= SEAM * record["around painted"]
        found.append((record, [image, mask.convert("RGB"), painted]))
    return found


def outline(scene: Scene, thing: Thing) -> Image.Image:
    """The mask of where a thing is seen."""
    alone = semantic_map(dataclasses.replace(scene, things=(thing,))) > 0
    return Image.fromarray(np.where(alone, 255, 0).astype(np.uint8))


def gradients(pixels: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Mean difference of neighbours across a mask's border, and of those beside it on either side; of 255 levels."""
    mask = Image.fromarray(np.where(inside, 255, 0).astype(np.uint8))
    near = (np.asarray(grow(mask, REACH)) > 0) & (np.asarray(grow(mask, -REACH)) == 0)
    across, around_it = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(pixels.astype(np.float64), axis=axis)).mean(2)
        first, second = (np.take(inside, range(begin, begin + steps.shape[axis]), axis) for begin in (0, 1))
        both_near = np.take(near, range(steps.shape[axis]), axis) & np.take(near, range(1, near.shape[axis]), axis)
        across.append(steps[first != second])
        around_it.append(steps[(first == second) & both_near])
    return float(np.concatenate(across).mean()), float(np.concatenate(around_it).mean())


def seam_rows(records: Sequence[Record]) -> list[Row]:
    def ratio(name: str, goal: str, which: str, where: str | None = None, what: str = "across") -> Row:
        chosen = [record for record in records if where is None or record[where]]
        across, beside = (sum(record[f"{each} {which}"] for record in chosen) for each in (what, "around"))
        return name, across / beside if beside else float("nan"), len(chosen), goal

    return [
        share(records, "outside bit-identical", "100 %", "identical"),
        ratio("gradient across / around", f"<= {SEAM}", "painted"),
        ratio("  of boxes", "", "painted", "box"),
        ratio("  of outlines", "", "painted", "outline"),
        ratio("  as drawn", "", "drawn"),
        ratio(f"  steepest contour up to {GROWN - 1} pixels inside", "", "painted", what="steepest"),
        share(records, f"scenes within {SEAM}", "", "seamless"),
    ]


def replace_cases(bench: Bench, ks: Sequence[int]) -> list[Case]:
    found = []
    for k in ks:
        scene, rng = bench.scene(k, "relation"), np.random.default_rng([bench.seed, k])
        old, other = scene.things[k % 2], scene.things[1 - k % 2]
        new = dataclasses.replace(old, emoji=another(rng, scene), recolour=None)
        wanted = dataclasses.replace(scene, things=tuple(new if thing is old else thing for thing in scene.things))
        image, words = drawn(scene), caption(wanted, rng, LANGUAGES[k // 2 % 2])
        mask = grow(masked(box_of(old)), GROWN)
        mask.paste(0, box_of(other))
        painted = bench.paint(k, words, image=image, mask=mask)
        before, ideal, after = bench.read(image, drawn(wanted), painted)
        record = {
            "words": words,
            "new": is_seen(after, new, wanted),
            "new drawn": is_seen(ideal, new, wanted),
            "kept": is_seen(after, other, wanted),
            "kept drawn": is_seen(before, other, scene),
        }
        found.append((record, [image, painted, drawn(wanted)]))
    return found


def another(rng: np.random.Generator, scene: Scene) -> int:
    """An emoji that is not in the scene."""
    there = {thing.emoji for thing in scene.things}
    return next(
        emoji for emoji in iter(lambda: sample_scene(rng, kind="single").things[0].emoji, None) if emoji not in there
    )


def replace_rows(records: Sequence[Record]) -> list[Row]:
    return [
        share(records, "new object found", ">= 0.9 x words", "new"),
        share(records, "  as drawn: the judge's limit", "", "new drawn"),
        share(records, "untouched object found", "98 %", "kept"),
        share(records, "  in the drawn scene: the judge's limit", "", "kept drawn"),
        share(records, "  where it was found before", "", "kept", "kept drawn"),
    ]


def words_cases(bench: Bench, ks: Sequence[int]) -> list[Case]:
    """The captions of single objects of `maquette eval`, painted together."""
    wanted = [examples(2 * max(ks) + 4, bench.seed)[2 * k] for k in ks]
    captions = [example.caption for example in wanted]
    pictures = paint(bench.model, captions, [bench.seed + k for k in ks], bench.setting, lambda _: None)
    images = [Image.fromarray(picture.numpy()) for picture in pictures]
    readings, ideals = bench.read(*images), bench.read(*(drawn(example.scene) for example in wanted))
    found = []
    for example, image, reading, ideal in zip(wanted, images, readings, ideals, strict=True):
        right, limit = score(reading, example.scene), score(ideal, example.scene)
        record = {"words": example.caption, "object": right.object, "drawn": limit.object}
        found.append((record, [image, drawn(example.scene)]))
    return found


def words_rows(records: Sequence[Record]) -> list[Row]:
    return [
        share(records, "single object right from words", "", "object"),
        share(records, "  as drawn: the judge's limit", "", "drawn"),
    ]
