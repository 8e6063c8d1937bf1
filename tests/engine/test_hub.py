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


SHARDS = ("00001-of-00002", "00002-of-00002")


@pytest.mark.parametrize(
    "half",
    [
        # As transformers writes them, and diffusers; and as diffusers once did.
        [*(f"text_encoder_3/model.fp16-{n}.safetensors" for n in SHARDS), "model.safetensors.index.fp16.json"],
        [*(f"text_encoder_3/model-{n}.fp16.safetensors" for n in SHARDS), "model.fp16.safetensors.index.json"],
    ],
    ids=["behind the variant", "before it"],
)
def test_all_shards_of_a_variant_are_fetched(half: list[str]) -> None:
    """As in the folders of SD 3."""
    *shards, index = half
    half = [*shards, f"text_encoder_3/{index}"]
    plain = [*(f"text_encoder_3/model-{n}.safetensors" for n in SHARDS), "text_encoder_3/model.safetensors.index.json"]
    small = ["model_index.json", "text_encoder_3/config.json"]
    assert sorted(hub.wanted_files([*small, *plain, *half])) == sorted([*small, *plain])
    assert sorted(hub.wanted_files([*small, *plain, *half], "fp16")) == sorted([*small, *half])


def test_of_one_network_what_stands_at_the_top_is_fetched() -> None:
    """As in the published folders of ControlNets."""
    stem = "diffusion_pytorch_model"
    formats = [f"{stem}.bin", f"{stem}.fp16.bin", f"{stem}.fp16.safetensors", f"{stem}.safetensors"]
    files = ["config.json", "control_net_canny.py", "images/input.png", *formats, f"unet/{stem}.safetensors"]
    assert hub.wanted_files(files, flat=True) == ["config.json", f"{stem}.safetensors"]
    assert hub.wanted_files(files, "fp16", flat=True) == ["config.json", f"{stem}.fp16.safetensors"]
    with pytest.raises(MaquetteError, match="holds no model in the diffusers layout"):
        hub.wanted_files(files)
    for others in (["config.json", "models/a.safetensors"], [f"{stem}.bin", "models/a.safetensors"]):
        with pytest.raises(
            MaquetteError, match=r"no network with its config\.json at .* such as models/a\.safetensors"
        ):
            hub.wanted_files(others, flat=True)


def test_a_file_comes_with_the_config_beside_it(monkeypatch) -> None:
    files, fetched = ["config.json", "a.safetensors", "b/config.json", "b/c.safetensors", "d/e.safetensors"], []

    def download(repository: str, file: str, **_: object) -> str:
        fetched.append(file)
        return f"/cache/{file}"

    monkeypatch.setattr(hub, "_ask", lambda repository: (files, ""))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for file in ("a.safetensors", "b/c.safetensors", "d/e.safetensors"):
        assert str(hub.fetch(f"somebody/model/{file}")) == f"/cache/{file}"
    assert fetched == files
