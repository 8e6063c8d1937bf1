"""Runs every command and all Python of docs/workflows.md, and remakes its pictures.

python benchmarks/workflow_pictures.py

The page is the list: blocks marked `sh` and `python` are run in order, in a scratch folder, and the picture
docs/images/workflows-NAME.png is what they wrote to NAME.png. Exit status 1, and no picture changed, if one fails, or
if a command and its Python paint different pictures.
"""

import argparse
import contextlib
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from maquette.cli.main import run
from maquette.training.drawing import draw
from maquette.training.emoji import catalogue
from maquette.training.scenes import Background, Scene, Thing
from maquette.weights.atomic_file import replacing

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"images/(workflows-([\w-]+)\.png)")


def thing(name: str, size: int, x: int, y: int) -> Thing:
    """A thing by the first of its English names, and where its top left corner is."""
    return Thing(next(each.index for each in catalogue() if each.names_en[0] == name), size, x, y)


def draw_givens() -> None:
    """What the page's examples begin with, in the working folder."""
    apple = thing("red apple", 48, 8, 40)
    scene = Scene((apple, thing("cat face", 48, 72, 40)), Background("light blue"), "left of")
    small = Scene((thing("star", 24, 80, 16),), Background("navy"))
    Image.fromarray(draw(scene)).save("scene.png")
    Image.fromarray(draw(small)).save("small.png")
    mask = Image.new("L", (128, 128))
    mask.paste(255, (apple.x - 4, apple.y - 4, apple.x + apple.size + 4, apple.y + apple.size + 4))
    mask.save("mask.png")
    Image.linear_gradient("L").rotate(90).resize((128, 128)).save("fading.png")


def commands(block: str) -> list[list[str]]:
    """The arguments of the commands in a block, one a line."""
    lines = [shlex.split(line) for line in block.splitlines() if line.strip()]
    if any(program != "maquette" for program, *_ in lines):
        raise ValueError(f"this is no command of maquette:\n{block}")
    return [arguments for _, *arguments in lines]


def pixels() -> dict[str, bytes]:
    """Those of each picture in the working folder."""
    return {path.name: Image.open(path).tobytes() for path in sorted(Path().glob("*.png"))}


def run_page(page: str) -> None:
    """Run all blocks in the working folder; what two of them paint must be the same."""
    names: dict[str, object] = {}
    before = pixels()
    for language, block in BLOCK.findall(page):
        start = time.monotonic()
        if language == "python":
            exec(compile(block, "docs/workflows.md", "exec"), names)
        else:
            for arguments in commands(block):
                if status := run(arguments):
                    sys.exit(f"exit status {status}: maquette {shlex.join(arguments)}")
        print(f"{time.monotonic() - start:6.1f} s  {block.strip().splitlines()[0]:.100}", flush=True)
        after = pixels()
        if changed := [name for name in before if after[name] != before[name]]:
            sys.exit(f"{changed[0]} is another picture than before, after\n{block}")
        before = after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DOCS / "images", help="where the pictures go")
    out = parser.parse_args().out.absolute()
    page = (DOCS / "workflows.md").read_text("utf-8")
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        draw_givens()
        run_page(page)
        made = {name: Path(f"{stem}.png").read_bytes() for name, stem in PICTURE.findall(page)}
    out.mkdir(parents=True, exist_ok=True)
    for name, data in made.items():
        with replacing(out / name) as file:
            file.write(data)
    print(f"{len(made)} pictures in {out}")


if __name__ == "__main__":
    main()
