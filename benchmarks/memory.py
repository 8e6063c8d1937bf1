"""What pictures and models take in memory: large pictures through the first stage, networks larger than memory.

    python benchmarks/memory.py decode [--side 4096] [--dtype NAME] [--rehearse TILES]
    python benchmarks/memory.py accuracy [--side 1024] [--picture FILE]
    python benchmarks/memory.py stream [--blocks 6] [--dtype NAME] [--whole]

`decode` builds SD's first stage with random weights and measures what decoding a picture adds to the process's peak
(as the kernel counts it). With `--rehearse` convolutions and attention give tensors of the right size without computing
them, and only so many of the tiles are run: what is allocated is the same, and a slow machine need not wait for hours.
`accuracy` compares tiles with the whole picture at once: mini's first stage on a picture, and a network with random
weights on a random latent. `stream` writes a file of FLUX.1's blocks (0.9 GB for a pair at bfloat16) and runs one step
of it at 512 pixels from the file, in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

MB = 1e6


def status(name: str) -> int:
    """A line of what the kernel says of this process, in bytes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(int(line[1]) * 1024 for line in lines if line[0] == f"{name}:")


class Anonymous(threading.Thread):
    """Watches the largest anonymous memory (that of no file) while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.stopped = 0, threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.005):
            self.most = max(self.most, status("RssAnon"))

    def __enter__(self) -> "Anonymous":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.join()


def randomise(network: nn.Module) -> Any:
    """Weights that keep activations near 1."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.data.normal_(std=0.1, generator=generator).add_(float("norm" in name and name.endswith("weight")))
    return network.eval().requires_grad_(False)


def conv2d_of_nothing(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, *_: Any
) -> Tensor:
    """A tensor of the size and layout that the convolution would give."""
    pad, step = (each[0] if isinstance(each, tuple) else each for each in (padding, stride))
    rows, columns = ((side + 2 * pad - weight.shape[2]) // step + 1 for side in x.shape[2:])
    layout = torch.channels_last
    return torch.empty((len(x), len(weight), rows, columns), dtype=x.dtype, memory_format=layout).fill_(0.5)


def decode(options: argparse.Namespace) -> dict[str, float]:
    """The memory that decoding one picture adds, in MB."""
    from maquette.engine import tiling
    from maquette.models.published import SD_VAE
    from maquette.models.vae import VAE

    network = randomise(VAE(SD_VAE)).to(getattr(torch, options.dtype))
    if options.rehearse:
        torch.nn.functional.conv2d = conv2d_of_nothing
        network.decoder.middle[1].attention.attend = lambda q, k, v: q
        make = tiling._tiles
        tiling._tiles = lambda *size: make(*size)[: options.rehearse]
        tiling.ROUNDS = 1
    z = torch.randn(1, 4, options.side // 8, options.side // 8)
    before, start = status("VmRSS"), time.monotonic()
    with torch.no_grad(), tiling.in_tiles(network, options.tile):
        picture = network.decode(z)
    picture.zero_()  # all of it counts
    return {"extra MB": (status("VmHWM") - before) / MB, "seconds": time.monotonic() - start}


def accuracy(options: argparse.Namespace) -> dict[str, float]:
    """The largest differences between tiles and the whole, in 255ths of the range of a picture."""
    import maquette
    from maquette.engine.tiling import in_tiles
    from maquette.models.vae import VAE, VAESpec

    found = {}
    mini = maquette.open("mini", device="cpu", dtype="float32").first_stage.vae
    drawn = Image.open(options.picture).convert("RGB").resize((options.side, options.side))
    latent = mini.encode(torch.from_numpy(np.array(drawn)).permute(2, 0, 1)[None] / 127.5 - 1).mean
    narrow = randomise(VAE(VAESpec(widths=(32, 32, 64, 64))))
    for name, network, z in (("mini", mini, latent), ("random", narrow, torch.randn(latent.shape))):
        with torch.no_grad():
            whole = network.decode(z)
            with in_tiles(network, options.tile):
                tiled = network.decode(z)
        found[f"{name}, of 255"] = float((tiled - whole).abs().max()) * 127.5
    return found


STEP = """
import sys; sys.path.insert(0, {here!r})
import torch
from memory import Anonymous, status, MB
from maquette.engine.build import fill, outline
from maquette.engine.streaming import Streamed
from maquette.diffusion.conditioning import Conditioning
from maquette.models.flux import Flux, FluxSpec
from maquette.weights.open_file import open_weights
from pathlib import Path
import json, time
spec = FluxSpec(double={double}, single={single})
dtype, place = torch.{dtype}, torch.device("cpu")
network, weights = outline(Flux, spec), open_weights(Path({file!r}))
Streamed(network, weights, place, dtype) if {streamed} else fill(network, weights, place, dtype)
told = Conditioning(tokens=torch.randn(1, 256, 4096), vector=torch.randn(1, 768), guidance=torch.ones(1))
start = time.monotonic()
with Anonymous() as anonymous, torch.no_grad():
    out = network(torch.randn(1, 16, 64, 64), 0.5, told)
print(json.dumps({{"anonymous MB": anonymous.most / MB, "peak MB": status("VmHWM") / MB,
    "seconds": time.monotonic() - start}}))
"""


def stream(options: argparse.Namespace) -> dict[str, Any]:
    """Anonymous memory of one step from the file, and with --whole of the same with all weights in memory."""
    from maquette.engine.build import outline
    from maquette.models.flux import Flux, FluxSpec
    from maquette.weights.safetensors_file import write_safetensors
    from maquette.weights.view import InMemory

    double, single = options.blocks // 3, options.blocks - options.blocks // 3
    network = outline(Flux, FluxSpec(double=double, single=single))
    half = torch.zeros(1, dtype=torch.float16)
    state = {name: half.expand(tensor.shape) for name, tensor in network.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "flux.safetensors"
        write_safetensors(file, InMemory(state))
        found: dict[str, Any] = {"file MB": file.stat().st_size / MB}
        for streamed in (True, False) if options.whole else (True,):
            program = STEP.format(
                here=str(Path(__file__).parent),
                double=double,
                single=single,
                dtype=options.dtype,
                file=str(file),
                streamed=streamed,
            )
            done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
            found["streamed" if streamed else "whole"] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["decode", "accuracy", "stream"])
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rehearse", type=int, default=0)
    parser.add_argument("--tile", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--picture", default="docs/images/mini.png")
    options = parser.parse_args()
    print(json.dumps({"decode": decode, "accuracy": accuracy, "stream": stream}[options.what](options), indent=1))


if __name__ == "__main__":
    main()
