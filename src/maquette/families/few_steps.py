"""What weights distilled for few steps are painted with, told from how they were published: nothing in them tells it.

Whole models have families of their own (`Family.named`); LoRAs change the defaults of the family that they are merged
into. Names given by others are not guessed at: their makers recommend settings of all kinds.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from maquette.diffusion.prediction import SAMPLE
from maquette.families.family import Defaults, Family

LORAS = {
    r"lcm[-_]lora": {"steps": 4, "guidance": 1.0, "sampler": "lcm", "schedule": "lcm"},  # Luo et al. 2023, 2311.05556
    r"sdxl[-_]lightning[-_]\d+step": {"guidance": 1.0, "sampler": "euler", "schedule": "trailing"},  # 2402.13929
    r"hyper-sd(xl|15)-\d+steps-lora": {"guidance": 1.0, "sampler": "ddim", "schedule": "trailing"},  # 2404.13686
}
"""For each kind of LoRA, as its publisher names the files or the repository, what its page says to paint with."""


def published_name(path: Path) -> str:
    """A file's or a folder's own name, and that of the repository that it was fetched from."""
    repositories = [part for part in path.parts if part.startswith("models--")]
    return "/".join([*repositories, path.name]).lower()


def of_loras(defaults: Defaults, files: Iterable[str]) -> Defaults:
    """The defaults of a model that LoRAs from these files are merged into."""
    for name in map(published_name, map(Path, files)):
        for pattern, settings in LORAS.items():
            if re.search(pattern, name):
                return _with_steps(replace(defaults, **settings), name)  # type: ignore[arg-type]
    return defaults


def of_model(family: Family, path: Path) -> Family:
    """A family with the steps that its file's name tells, and with what it predicts, if it is named as published."""
    name = published_name(path)
    if not is_named(family, path):
        return family
    prediction = SAMPLE if re.search(r"1step.*x0", name) else family.prediction
    return replace(family, prediction=prediction, defaults=_with_steps(family.defaults, name))


def is_named(family: Family, path: Path) -> bool:
    """Whether a file or a folder is named as the family's are published."""
    return bool(family.named) and re.search(family.named, published_name(path)) is not None


def _with_steps(defaults: Defaults, name: str) -> Defaults:
    told = re.search(r"[-_](\d+)step", name)
    return defaults if told is None else replace(defaults, steps=int(told[1]))
