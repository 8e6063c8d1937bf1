"""GGUF files of whole networks, written and read back by the `gguf` package."""

import math
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

ROW = 256  # what ComfyUI-GGUF reshapes convolutions to


def write_gguf(path: Path, tensors: Mapping[str, Tensor], quantisation: str) -> dict[str, Tensor]:
    """Write a network as quantisers do, and give its numbers as the package reads them back.

    Vectors stay in float32; convolutions become rows of 256, with their own shape in the metadata; what does not fill
    the blocks is in Q8_0 or in float16. Q4_K, which the package only reads, is made of random blocks.
    """
    writer = gguf.GGUFWriter(path, "flux" if "img_in.weight" in tensors else "sd1")
    numbers = {}
    for name in tensors:
        tensor = tensors[name]
        array = tensor.numpy()
        if array.ndim == 4 and array.size % ROW == 0:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(array.shape))
            array = array.reshape(-1, ROW)
        kind = _kind(array, quantisation)
        data = _blocks(array, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        numbers[name] = torch.from_numpy(gguf.quants.dequantize(data, kind).astype(np.float32)).reshape(tensor.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return numbers


def _kind(array: np.ndarray, quantisation: str) -> gguf.GGMLQuantizationType:
    if array.ndim == 1:
        return gguf.GGMLQuantizationType.F32
    for name in (quantisation, "Q8_0"):
        kind = gguf.GGMLQuantizationType[name]
        if array.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            return kind
    return gguf.GGMLQuantizationType.F16


def _blocks(array: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    if kind != gguf.GGMLQuantizationType.Q4_K:
        return gguf.quants.quantize(array, kind)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(array.size)
    blocks = random.integers(0, 256, (math.prod(array.shape) // elements, size), dtype=np.uint8)
    scale = array.std() / 256  # of d * scale * quant - least * minimum, with quants of 4 bits, the others of 6
    blocks[:, :4] = np.array([scale, 7.5 * scale], np.float16).view(np.uint8)
    return blocks.reshape(*array.shape[:-1], -1)
