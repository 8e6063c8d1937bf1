"""Our GGUF reader against the reference package: its writer, its quantisers, its dequantisers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from maquette.weights.dequantise import CHUNK, QUANTS, Quant, dequantise
from maquette.weights.gguf import GGUFFile

gguf = pytest.importorskip("gguf")


def reference(quant: Quant, data: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):  # random bytes make scales that are infinite or no numbers
        return gguf.quants.dequantize(data, gguf.GGMLQuantizationType[quant.name])


@pytest.mark.parametrize(("code", "quant"), QUANTS.items(), ids=[quant.name for quant in QUANTS.values()])
def test_every_quantisation_equals_the_reference(code: int, quant: Quant) -> None:
    assert gguf.GGMLQuantizationType(code).name == quant.name
    assert gguf.GGML_QUANT_SIZES[code] == (quant.elements, quant.size)
    data = np.random.default_rng(0).integers(0, 256, (100, quant.size), dtype=np.uint8)
    expected = reference(quant, data).reshape(-1)
    ours = dequantise(quant, torch.from_numpy(data).reshape(-1)).numpy()
    np.testing.assert_array_equal(ours, expected)


def test_large_tensors_are_read_in_chunks() -> None:
    quant = QUANTS[8]
    data = torch.zeros(2 * CHUNK // 32 + 5, quant.size, dtype=torch.uint8)
    data[:, :2] = torch.tensor([0.5]).half().view(torch.uint8)
    data[:, 2] = torch.arange(len(data)) % 100
    values = dequantise(quant, data.reshape(-1)).reshape(len(data), 32)
    assert torch.equal(values[:, 0], (torch.arange(len(data)) % 100) / 2)
    assert not values[:, 1:].any()


def test_reads_what_the_reference_writes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    plain = random.standard_normal((6, 64)).astype(np.float32)
    quantised = {
        name: gguf.quants.quantize(plain, gguf.GGMLQuantizationType[name])
        for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16")
    }
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "flux")
    writer.add_name("a name")
    writer.add_array("tokenizer.ggml.tokens", [f"word {n}" for n in range(1000)])
    writer.add_array("scores", list(random.standard_normal(100)))
    writer.add_array("comfy.gguf.orig_shape.reshaped", [3, 2, 64])
    writer.add_tensor("F32", plain)
    writer.add_tensor("F16", plain[0].astype(np.float16))
    writer.add_tensor("I32", np.arange(5, dtype=np.int32))
    writer.add_tensor("reshaped", plain)
    for name, data in quantised.items():
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    view = GGUFFile(tmp_path / "a.gguf")
    expected = {"F32": plain, "F16": plain[0].astype(np.float16), "I32": np.arange(5, dtype=np.int32)}
    expected |= {"reshaped": plain.reshape(3, 2, 64)}
    expected |= {
        name: gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name]) for name, data in quantised.items()
    }
    assert list(view) == list(expected) and len(view) == len(expected)
    for name, array in expected.items():
        assert view[name].dtype == view.dtype(name)
        assert view[name].shape == view.shape(name) == array.shape
        np.testing.assert_array_equal(view[name].float().numpy(), array.astype(np.float32))
    assert view.metadata == {"general.architecture": "flux", "general.name": "a name"}
    assert view.encoding("Q4_0") == "Q4_0"
    assert view.encoding("F16") == "float16"
    assert view.dtype("Q4_0") == torch.float32
    assert view.source("F32") == tmp_path / "a.gguf"
