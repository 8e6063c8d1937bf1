"""What a file is is told without importing PyTorch, and told the same."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from gguf_files import write_gguf
from small_models import SMALL, original, write_original

from maquette.engine.convert import convert
from maquette.engine.recognise import recognise
from maquette.engine.report import describe_file
from maquette.weights.safetensors_file import write_safetensors

LOOK = """
import json, sys
from pathlib import Path
from maquette.cli.inspect import _report
from maquette.cli.paper import on_paper
from maquette.errors import MaquetteError
with on_paper():
    for path in sys.argv[1:]:
        try:
            said = _report(Path(path), False, ())
        except MaquetteError as error:
            said = str(error)
        print(json.dumps(said))
    assert not hasattr(sys.modules["torch"], "__version__")
assert "torch" not in sys.modules
"""


def on_paper(paths: list[Path]) -> list[object]:
    done = subprocess.run([sys.executable, "-c", LOOK, *map(str, paths)], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_family_and_kind_of_file_is_described_as_with_pytorch(tmp_path: Path) -> None:
    paths = [write_original(family, tmp_path) for family in SMALL]
    for family in ("sdxl", "sd3.5-medium"):
        convert(recognise(tmp_path / f"{family}.safetensors"), tmp_path / family, "diffusers", None, [])
        paths.append(tmp_path / family)
    view = original(SMALL["sd1"])
    torch.save({"state_dict": {name: view[name] for name in view}, "global_step": 7}, tmp_path / "sd1.ckpt")
    write_gguf(tmp_path / "sd1.gguf", {name: view[name] for name in view}, "Q8_0")
    down, up = torch.zeros(4, 64), torch.zeros(64, 4)
    lora = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": down,
            "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": up}  # fmt: skip
    write_safetensors(tmp_path / "lora.safetensors", lora)
    write_safetensors(tmp_path / "word.safetensors", {"emb_params": torch.zeros(2, 768)})
    write_safetensors(tmp_path / "unknown.safetensors", {"a.weight": torch.zeros(2, 2)})
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    paths += [tmp_path / name for name in ("sd1.ckpt", "sd1.gguf", "lora.safetensors", "word.safetensors")]
    for path, found in zip(paths, on_paper(paths), strict=True):
        assert found == json.loads(json.dumps(describe_file(path))), path
    wrong = [tmp_path / name for name in ("unknown.safetensors", "damaged.safetensors")]
    assert [str(path) in str(said) for path, said in zip(wrong, on_paper(wrong), strict=True)] == [True, True]


def test_the_command_does_not_import_pytorch(tmp_path: Path) -> None:
    path = write_original("sd1", tmp_path, tokenizers=False)
    program = "import sys; from maquette.cli.main import run; run(sys.argv[1:]); print('torch' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", program, "inspect", str(path)], capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines()[0] == "what            custom sd1"
    assert said.stdout.splitlines()[-1] == "False"
