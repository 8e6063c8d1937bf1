"""Finding what to repaint: a finder looks at a picture and says where things are.

Ours are told (`given` boxes, a mask, another picture to compare with). Detectors come from outside: any installed
package may name a factory in the entry points "maquette.finders", and `detector` asks a model of ultralytics if that
is installed. A factory takes the text after the colon in "name:text" and returns a finder.
"""

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from maquette.errors import MaquetteError
from maquette.workflows.canvas import read_image, read_mask
from maquette.workflows.components import components
from maquette.workflows.names import nearest
from maquette.workflows.region import Box, Size, grow

GROUP = "maquette.finders"
SMALLEST = 16  # pixels that make a thing; fewer are specks
DIFFERENT = 24  # of 255 levels, in any colour
TRUSTED = "trusted:"  # before the file of a detector that may run code
REACH = 4  # pixels over which neighbouring differences are one


@dataclass(frozen=True, slots=True)
class Found:
    """A thing in a picture: its box, its mask ("L", of the box's size; None for all of it), what it is, how surely."""

    box: Box
    mask: Image.Image | None = None
    label: str = ""
    score: float = 1.0

    def covering(self, size: Size) -> Image.Image:
        """Its mask on a whole picture of this size."""
        mask = Image.new("L", size, 0)
        mask.paste(255, self.box, self.mask)
        return mask


class Finder(Protocol):
    """Looks at an RGB picture; what it finds lies within it."""

    def __call__(self, image: Image.Image, /) -> list[Found]: ...


def given(*boxes: Box) -> Finder:
    """Finds these boxes, cut to the picture; a box outside of it is an error."""
    return lambda image: [Found(box.within(image.size), label="given") for box in boxes]


def from_mask(mask: Image.Image | Path | str, smallest: int = SMALLEST) -> Finder:
    """Finds the connected parts of a mask (white), but for those of fewer than `smallest` pixels."""

    def find(image: Image.Image) -> list[Found]:
        parts = components(read_mask(mask, image.size), smallest)
        return [Found(part.box, part.mask, "mask") for part in parts]

    return find


def differences(
    before: Image.Image | Path | str, least: int = DIFFERENT, reach: int = REACH, smallest: int = SMALLEST
) -> Finder:
    """Finds where a picture differs from the one before it: by `least` levels, and `reach` pixels around, as one."""

    def find(image: Image.Image) -> list[Found]:
        other = read_image(before)
        if other.size != image.size:
            sizes = f"{other.width}x{other.height} and {image.width}x{image.height}"
            raise MaquetteError(f"pictures of {sizes} cannot be compared; fit one to the other")
        changed = np.asarray(ImageChops.difference(other, image.convert("RGB"))).max(2) >= least
        spread = grow(Image.fromarray(np.where(changed, 255, 0).astype(np.uint8)), reach)
        return [
            Found(part.box, part.mask, "difference")
            for part in components(spread)
            if (changed[_rows_and_columns(part.box)] & (np.asarray(part.mask) > 0)).sum() >= smallest
        ]

    return find


def _rows_and_columns(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.bottom), slice(box.left, box.right)


def detector(path: Path | str, trusted: bool = False, least: float = 0.3) -> Finder:
    """Finds what a detector of ultralytics (YOLO) sees with a score of `least` or more; its package is the user's own.

    Only ONNX files are opened unless `trusted` says that the file may run code: ultralytics unpickles all others.
    """
    file = Path(path)
    if not file.is_file():
        raise MaquetteError(f"there is no detector {file}; give the file of a model, it is not downloaded")
    if file.suffix.lower() != ".onnx" and not trusted:
        raise MaquetteError(
            f"{file} can run code when it is opened; give an .onnx, or write ultralytics:trusted:{file}"
        )
    os.environ.setdefault("YOLO_OFFLINE", "true")  # neither looks for updates
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")  # nor installs what it lacks
    with _explained(file):
        model = importlib.import_module("ultralytics").YOLO(str(file))

    def find(image: Image.Image) -> list[Found]:
        with _explained(file):  # ultralytics reads an ONNX file when it is first asked
            return _seen(model.predict(image.convert("RGB"), conf=least, verbose=False)[0], image.size)

    return find


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Says in a line what a detector lacks, or what is wrong with it."""
    try:
        yield
    except ImportError as error:
        raise MaquetteError(f"{file} needs a package ({error}); run: pip install ultralytics onnxruntime") from None
    except Exception as error:  # a stranger's code
        raise MaquetteError(f"the detector {file} failed: {error!r:.200}; is it one of ultralytics?") from error


def _seen(result: Any, size: Size) -> list[Found]:
    """What a result of ultralytics says: corners, scores, classes, and outlines if the model draws them."""
    found = []
    for k, corners in enumerate(result.boxes.xyxy.tolist()):
        left, top = (min(max(int(corner), 0), side - 1) for corner, side in zip(corners[:2], size, strict=True))
        right, bottom = (
            max(int(np.ceil(corner)), low + 1) for corner, low in zip(corners[2:], (left, top), strict=True)
        )
        box = Box(left, top, right, bottom).within(size)
        label = str(result.names[int(result.boxes.cls[k])])
        outline = None if result.masks is None else result.masks.xy[k]
        found.append(Found(box, _filled(outline, box), label, float(result.boxes.conf[k])))
    return found


def _filled(outline: Any, box: Box) -> Image.Image | None:
    """The inside of a polygon (n, 2) of the picture's pixels; None if there is none to speak of."""
    if outline is None or len(outline) < 3:
        return None
    mask = Image.new("L", box.size, 0)
    ImageDraw.Draw(mask).polygon([(float(x) - box.left, float(y) - box.top) for x, y in outline], fill=255)
    return mask if mask.getbbox() else None


def _there(text: str) -> Path:
    """A file, before anything is painted for it."""
    if not Path(text).is_file():
        raise MaquetteError(f"there is no picture {text!r:.200} for the finder to look at")
    return Path(text)


def _given_text(text: str) -> Finder:
    return given(*(Box.read(part) for part in text.split(";")))


def _detector_text(text: str) -> Finder:
    return detector(text.removeprefix(TRUSTED), trusted=text.startswith(TRUSTED))


OURS: Mapping[str, Callable[[str], Finder]] = {
    "given": _given_text,
    "mask": lambda text: from_mask(_there(text)),
    "differences": lambda text: differences(_there(text)),
    "ultralytics": _detector_text,
}


def only_looks(spec: str) -> bool:
    """Whether what a text names is one of ours that asks no network: quick, and what it refuses is a size or a file."""
    name = spec.partition(":")[0]
    return name in OURS and name != "ultralytics"


def runs_code(spec: str) -> bool:
    """Whether what a text names may run code of others: a plug-in, or a detector that is trusted."""
    name, _, text = spec.partition(":")
    return name not in OURS or (name == "ultralytics" and text.startswith(TRUSTED))


def finder(spec: str) -> Finder:
    """The finder that a text names: "given:10,20,60,80;5,5,9,9", "mask:FILE", "differences:FILE", "ultralytics:FILE",
    or "name:text" of an installed plug-in. It may open files: never take it from a stranger.
    """
    name, _, text = spec.partition(":")
    plugins = {plugin.name: plugin for plugin in entry_points(group=GROUP)}
    if name not in {*OURS, *plugins}:
        raise MaquetteError(f"there is no finder {name!r:.60}; {nearest(name, {*OURS, *plugins})}")
    if name in OURS:
        return OURS[name](text)
    try:
        found: Finder = plugins[name].load()(text)
    except MaquetteError:
        raise
    except Exception as error:  # a stranger's code
        raise MaquetteError(f"the finder {name!r} ({plugins[name].value}) failed: {error!r:.200}") from error
    return found
