"""What takes part in a comparison: each contestant does its work in a process of its own, once for every line it reads.

    python benchmarks/contestants.py step ours bfloat16

It prints `{"ready": ...}`, then for each line what its work took; `Worker` is the other end, and `take_turns` lets
several work in turn. Weights are random, of the published shapes of SD 1.5, and lie only in memory.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Work = Callable[[], Any]
KINDS = {  # what an operator of PyTorch is part of, by what its name holds; the first that fits
    "convolution": ("convolution", "conv2d"),
    "attention": ("attention", "softmax"),
    "linear": ("linear", "addmm", "mm"),
    "norm": ("norm",),
}
OTHER = "elementwise, copies"


def filled(network: Any, dtype: Any) -> Any:
    """A network with random weights, small enough that nothing overflows."""
    import torch

    torch.manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    drawn = {name: torch.randn(shape, dtype=dtype).mul_(shape[1:].numel() ** -0.5) for name, shape in shapes.items()}
    network.load_state_dict(drawn, assign=True)
    return network.eval().requires_grad_(False)


def ours(task: str, dtype: Any) -> Work:
    import torch

    from maquette.diffusion.conditioning import Conditioning
    from maquette.diffusion.denoise import denoiser
    from maquette.diffusion.guidance import Pair, cfg
    from maquette.diffusion.prediction import EPSILON
    from maquette.diffusion.process import Level
    from maquette.engine.build import outline
    from maquette.models.published import SD1_UNET, SD_VAE
    from maquette.models.unet import UNet
    from maquette.models.vae import VAE

    if task == "decode":
        vae = filled(outline(VAE, SD_VAE), dtype)
        return lambda: vae.decode(torch.randn(1, 4, 64, 64))
    network = filled(outline(UNet, SD1_UNET), dtype)
    wanted, unwanted = (Conditioning(tokens=torch.randn(1, 77, 768)) for _ in range(2))
    guided = cfg(Pair(denoiser(network, EPSILON, dtype), wanted, unwanted), 5.0)
    return lambda: guided(torch.randn(1, 4, 64, 64), Level(500.0, 0.6, 0.8))


def diffusers(task: str, dtype: Any) -> Work:
    """As its pipelines call it, without what they do between two steps."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.utils import logging

    from maquette.models import unet_config, vae_config
    from maquette.models.published import SD1_UNET, SD_VAE

    logging.set_verbosity_error()
    with torch.device("meta"):
        if task == "decode":
            vae = AutoencoderKL.from_config(vae_config.to_config(vae_config.VAEConfig(SD_VAE)))
        else:
            unet = UNet2DConditionModel.from_config(unet_config.to_config(SD1_UNET))
    if task == "decode":
        filled(vae, dtype)
        return lambda: vae.decode(torch.randn(1, 4, 64, 64, dtype=dtype)).sample
    filled(unet, dtype)
    latent, text = torch.randn(2, 4, 64, 64, dtype=dtype), torch.randn(2, 77, 768, dtype=dtype)
    return lambda: unet(latent, 500, text).sample


def compiled(task: str, dtype: Any) -> Work:
    """diffusers under torch.compile."""
    import torch

    work: Work = torch.compile(diffusers(task, dtype))
    return work


def openvino(task: str, dtype: Any) -> Work:
    """diffusers' network converted by OpenVINO, which computes in the type named."""
    import openvino as ov
    import torch

    given = [torch.zeros(2, 4, 64, 64), torch.tensor(500), torch.zeros(2, 77, 768)]
    given = given if task == "step" else [torch.zeros(1, 4, 64, 64)]
    path = Path(os.environ.get("OPENVINO_MODELS", "build")) / f"openvino-{task}.xml"
    if not path.is_file():
        with torch.no_grad():
            traced = torch.jit.trace(_traceable(task), given)
        ov.save_model(ov.convert_model(traced, example_input=given), path)
    model = ov.Core().read_model(path)
    model.reshape({number: list(tensor.shape) for number, tensor in enumerate(given)})
    told = {"INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads := os.environ.get("OMP_NUM_THREADS"):
        told["INFERENCE_NUM_THREADS"] = threads
    network = ov.Core().compile_model(model, "CPU", told)
    arrays = [tensor.numpy() for tensor in given]
    return lambda: network(arrays)


def _traceable(task: str) -> Any:
    """diffusers' network in float32, as positions to a tensor."""
    import torch

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            work: Any = diffusers(task, torch.float32)
            self.network = next(
                cell.cell_contents for cell in work.__closure__ if hasattr(cell.cell_contents, "config")
            )

        def forward(self, *given: Any) -> Any:
            call = self.network.decode if task == "decode" else self.network
            return call(*given, return_dict=False)[0]

    return Positional()


CONTESTANTS = {"ours": ours, "diffusers": diffusers, "diffusers compiled": compiled, "OpenVINO": openvino}


def profile(work: Work) -> dict[str, float]:
    """Seconds of each kind of operator in one run."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    with watch(activities=[ProfilerActivity.CPU]) as seen:
        work()
    times: dict[str, float] = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in seen.key_averages():
        kind = next((kind for kind, marks in KINDS.items() if any(mark in event.key for mark in marks)), OTHER)
        times[kind] += event.self_cpu_time_total / 1e6
    return times


def serve(task: str, name: str, dtype: str) -> None:
    """Be a contestant, until nothing more is asked."""
    import torch

    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    with torch.no_grad():
        work = CONTESTANTS[name](task, getattr(torch, dtype))
        answer: dict[str, Any] = {"ready": True}
        while True:
            print(json.dumps(answer), flush=True)
            asked = sys.stdin.readline().strip()
            if not asked:
                return
            wall, cpu = time.monotonic(), time.process_time()
            answer = {"kinds": profile(work)} if asked == "profile" else {"done": work() is not None}
            answer |= {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}
            answer["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Worker:
    """The other end of a contestant."""

    def __init__(self, task: str, name: str, dtype: str) -> None:
        self.title = f"{name}, {dtype}"
        command = [sys.executable, __file__, task, name, dtype]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._read()

    def ask(self, what: str = "run") -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit(f"{self.title}: ended without an answer")


def take_turns(task: str, contestants: Sequence[tuple[str, str]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What every round took each contestant, (name, dtype); a first round, not counted, warms all up."""
    workers = [Worker(task, *contestant) for contestant in contestants]
    found: dict[str, list[dict[str, Any]]] = {worker.title: [] for worker in workers}
    for number in range(rounds + 1):
        for worker in workers:
            told = worker.ask()
            print(f"{task}, {number}, {worker.title}: {told['wall']:.2f} s, CPU {told['cpu']:.2f} s", file=sys.stderr)
            if number:
                found[worker.title].append(told)
    kinds = workers[0].ask("profile")["kinds"]
    for worker in workers:
        worker.close()
    found["profile"] = [kinds]
    return found


if __name__ == "__main__":
    serve(*sys.argv[1:])
