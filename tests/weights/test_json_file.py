"""JSON files are read up to the length that such files have, and no farther."""

import json
from pathlib import Path

import pytest
from lora_tensors import kohya, pair

from maquette.errors import MaquetteError
from maquette.weights.json_file import CONFIG, read_json
from maquette.weights.lora import read_lora
from maquette.weights.open_file import open_weights
from maquette.weights.safetensors_file import write_safetensors


def test_what_was_written_is_read_and_what_is_longer_is_not(tmp_path: Path) -> None:
    file, value = tmp_path / "config.json", {"text": "é" * 10}
    file.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    size = file.stat().st_size
    assert read_json(file, size) == value
    with pytest.raises(MaquetteError, match=r"config\.json: is longer than"):
        read_json(file, size - 1)


def test_the_settings_beside_a_lora_are_read_no_farther(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "adapter_model.safetensors", kohya("lora_unet_attn_to_q", *pair()))
    (tmp_path / "adapter_config.json").write_bytes(b"{}" + b" " * CONFIG)
    with pytest.raises(MaquetteError, match=r"adapter_config\.json: is longer than the 4 MiB"):
        read_lora(open_weights(tmp_path / "adapter_model.safetensors"))
