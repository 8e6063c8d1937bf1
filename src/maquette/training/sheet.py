"""Contact sheets: many pictures in one PNG."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from maquette.weights.atomic_file import replacing


def write_sheet(pictures: Tensor, path: Path, columns: int) -> None:
    """Write pictures (B, 3, H, W) in [-1, 1] row by row into one PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    height, width = pixels.shape[1:3]
    rows = -(-len(pixels) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for index, picture in enumerate(pixels):
        sheet.paste(Image.fromarray(picture), (index % columns * width, index // columns * height))
    with replacing(path) as file:
        sheet.save(file, "PNG")
