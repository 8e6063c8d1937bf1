"""Models by name from a hub that answers, does not answer, or is not there."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest

from maquette.engine import hub
from maquette.errors import MaquetteError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def hub_at(address: str, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)


@pytest.mark.parametrize("name", ["models/x", "models/x/y.safetensors"])
def test_a_mistyped_path_fails_soon_and_says_both(name: str, cache: Path, monkeypatch) -> None:
    hub_at("http://127.0.0.1:9", monkeypatch)  # nothing listens there
    begin = time.monotonic()
    with pytest.raises(MaquetteError, match=r"no such file or folder.*nor could the hub be asked \(.*check the path"):
        hub.fetch(name)
    assert time.monotonic() - begin < 5  # it was 25 s with the library's retries


def test_what_the_cache_holds_is_taken_when_the_hub_is_not_there(cache: Path, monkeypatch) -> None:
    hub_at("http://127.0.0.1:9", monkeypatch)
    place = cache / "models--somebody--model"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("abc")
    (place / "snapshots/abc").mkdir(parents=True)
    (place / "snapshots/abc/model.safetensors").touch()
    assert hub.fetch("somebody/model") == place / "snapshots/abc"
    assert hub.fetch("somebody/model/model.safetensors") == place / "snapshots/abc/model.safetensors"


class Answers(BaseHTTPRequestHandler):
    """A hub that knows one model."""

    def do_GET(self) -> None:
        known = self.path.startswith("/api/models/somebody/model")
        body = json.dumps({"id": "somebody/model", "siblings": [{"rfilename": "v1.ckpt"}]}) if known else "{}"
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def answering(monkeypatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        yield
        server.shutdown()


def test_a_hub_that_answers_is_believed(cache: Path, answering) -> None:
    with pytest.raises(MaquetteError, match="nobody/nothing: not found as a path, nor on the hub"):
        hub.fetch("nobody/nothing")
    with pytest.raises(MaquetteError, match="org/model/FILE, such as v1.ckpt"):
        hub.fetch("somebody/model")


def test_of_a_flat_folder_what_is_at_the_top_is_fetched() -> None:
    top = ["model_index.json", "config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"]
    assert sorted(hub.wanted_files([*top, "diffusion_pytorch_model.bin", "README.md", "image.png"])) == sorted(top)
