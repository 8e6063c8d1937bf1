from pathlib import Path

import pytest

from maquette.weights.place import existing, expanded


def test_what_is_there_is_found_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "模型.safetensors").touch()
    assert existing("~/模型.safetensors") == tmp_path / "模型.safetensors" == expanded("~/模型.safetensors")
    assert existing(tmp_path) == tmp_path
    for strange in ("~/gone", "~nobody-has-this-name/x", "x" * 5000, "a\0b", "caf\udce9", "data:image/png;base64,AAAA"):
        assert existing(strange) is None
    assert expanded("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x")
