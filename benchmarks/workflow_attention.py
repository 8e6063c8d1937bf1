"""Where the model looks for the words of "A to the left of B"."""

import dataclasses
from collections.abc import Sequence
from functools import cache

import torch
from PIL import Image
from workflow_cases import Bench, Case, Record, Row, share

from maquette.training.emoji import catalogue
from maquette.training.grammar import with_article
from maquette.training.readings import score
from maquette.training.scenes import Background, Scene, held_out_scenes

EACH = 4  # pictures of each prompt


@cache
def beside(seed: int, count: int) -> list[Scene]:
    """Pairs from left to right on one colour, whose names are plain words and not in one another."""
    found: list[Scene] = []
    for scene in held_out_scenes(8 * count + 8, seed, "relation"):
        names = [catalogue()[thing.emoji].names_en[0] for thing in scene.things]
        is_plain = all(name.replace(" ", "").isalpha() for name in names)
        if is_plain and names[0] not in names[1] and names[1] not in names[0]:
            things = tuple(dataclasses.replace(thing, recolour=None) for thing in scene.things)
            found.append(Scene(things, Background(scene.background.colour), "left of"))
    return found[:count]


def attention_cases(bench: Bench, ks: Sequence[int]) -> list[Case]:
    """One prompt, as many seeds as there are cases."""
    prompt = ks[0] // EACH
    scene = beside(bench.seed, prompt + 1)[prompt]
    left, right = (catalogue()[thing.emoji].names_en[0] for thing in scene.things)
    text = (
        f"{with_article(left, left)} to the left of {with_article(right, right)}, {scene.background.colour} background"
    )
    told = {"prompt": text, "seed": bench.seed + ks[0], "count": len(ks), "attention": True}
    result = bench.model.paint(**told, **bench.setting.model_dump())
    found = []
    for k, (image, reading) in enumerate(zip(result.images, bench.read(*result.images), strict=True)):
        maps = result.attention.of(k)
        a, b = (centre(maps[name]) for name in (left, right))
        record: Record = {"words": text, "confirmed": bool(score(reading, scene).relation), "a": a, "b": b}
        record |= {"left": a < 0.5, "right": b > 0.5, "own": a < 0.5 < b, "ordered": a < b}
        greys = [Image.fromarray((maps[name] * 255).byte().numpy()).resize(image.size) for name in (left, right)]
        found.append((record, [image, *(grey.convert("RGB") for grey in greys)]))
    return found


def centre(heat: torch.Tensor) -> float:
    """Where a map (h, w) has its centre of mass, from 0 at the left to 1 at the right."""
    columns = heat.double().sum(0)
    return float((columns * (torch.arange(len(columns)) + 0.5)).sum() / columns.sum() / len(columns))


def attention_rows(records: Sequence[Record]) -> list[Row]:
    rows = [share(records, "relation confirmed by the judge", "", "confirmed")]
    for name, where, goal in (("confirmed pictures", "confirmed", ">= 90 %"), ("all pictures", None, "")):
        rows += [
            share(records, f"{name}: both words on their own side", goal, "own", where),
            share(records, f"{name}: A on the left", "", "left", where),
            share(records, f"{name}: B on the right", "", "right", where),
            share(records, f"{name}: A to the left of B", "", "ordered", where),
            share(records, f"{name}: A's centre, of the width", "", "a", where),
            share(records, f"{name}: B's centre, of the width", "", "b", where),
        ]
    return rows
