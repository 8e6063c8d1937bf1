"""A sheet of pictures by the shipped model, one for each prompt, uncurated: prompt k is painted with seed + k.

python benchmarks/sheet.py --seed 7 --out docs/images/mini.png
python benchmarks/sheet.py --seed 7 --held-out 64 --out src/maquette/assets/mini/samples.jpg    # those of its card
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import maquette
from maquette.training.captions import caption
from maquette.training.scenes import held_out_scenes

PROMPTS = (
    "a red apple on a blue background",
    "a cat",
    "a rocket on a black background",
    "a pizza to the left of a dog",
    "three bananas",
    "a blue apple",
    "a tree above a car on a yellow background",
    "a pixel art fish",
    "蓝色背景上的红苹果",
    "一只猫",
    "黑色背景上的火箭",
    "狗在披萨的左边",
    "三个苹果",
    "一朵蓝色的花",
    "绿色背景上的一辆汽车",
    "一只老虎在右边",
)
FONTS = ("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc", "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc")
LABEL = 18


def held_out_prompts(count: int, seed: int) -> list[str]:
    """Captions of scenes that training never showed, English and Chinese in turn."""
    import numpy as np

    rng = np.random.default_rng(seed)
    scenes = held_out_scenes(count, seed)
    return [caption(scene, rng, "zh" if k % 2 else "en") for k, scene in enumerate(scenes)]


def label_font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont | None:
    """A font that has Chinese characters, or None: then the labels are left out."""
    found = next((path for path in FONTS if Path(path).exists()), None)
    return ImageFont.truetype(found, 11) if found else None


def fitted(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of a label as its picture is wide."""
    return text if font.getlength(text) <= width else fitted(text.rstrip("…")[:-1] + "…", width, font)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--held-out", type=int, default=0, help="so many held-out captions instead of the fixed ones")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    told = parser.parse_args()
    prompts = held_out_prompts(told.held_out, told.seed) if told.held_out else list(PROMPTS)
    model = maquette.open(told.model)
    fields = {name: value for name in ("steps", "guidance") if (value := getattr(told, name)) is not None}
    pictures = [model.txt2img(text, seed=told.seed + k, **fields).images[0] for k, text in enumerate(prompts)]
    font = label_font()
    width, height = pictures[0].size
    tall = height + (LABEL if font else 0)
    rows = -(-len(pictures) // told.columns)
    sheet = Image.new("RGB", (told.columns * width, rows * tall), "white")
    draw = ImageDraw.Draw(sheet)
    for k, (text, picture) in enumerate(zip(prompts, pictures, strict=True)):
        x, y = k % told.columns * width, k // told.columns * tall
        sheet.paste(picture, (x, y))
        if font:
            draw.text((x + 2, y + height + 2), fitted(text, width - 4, font), fill="black", font=font)
    told.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(told.out, quality=85)
    for k, text in enumerate(prompts):
        print(f"{told.seed + k}\t{text}")
    print(told.out)


if __name__ == "__main__":
    main()
