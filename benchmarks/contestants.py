"""What takes part in a comparison: each contestant does its work in a process of its own, once for every line it reads.

    python benchmarks/contestants.py step ours bfloat16 cpu

It prints `{"ready": ...}`, then for each line what its work took; `Worker` is the other end, and `take_turns` lets
several work in turn.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tasks
from tasks import TASKS, Work

KINDS = {  # what an operator of PyTorch is part of, by what its name holds; the first that fits
    "convolution": ("convolution", "conv2d", "cudnn"),
    "attention": ("attention", "softmax", "flash"),
    "linear": ("linear", "addmm", "mm"),
    "norm": ("norm",),
}
OTHER = "elementwise, copies"
ATTENTION = "attention"


def ours(task: str, dtype: Any, device: str) -> Work:
    return tasks.ours(TASKS[task], dtype, device)


def ours_float8(task: str, dtype: Any, device: str) -> Work:
    """Large matrices kept in float8, widened as they are used."""
    return tasks.ours(TASKS[task], dtype, device, "float8")


def ours_compiled(task: str, dtype: Any, device: str) -> Work:
    """Compiled block by block, as `maquette.open(..., compile=True)` does."""
    from maquette.engine.compiling import compile_blocks

    network = tasks.network(TASKS[task], dtype, device)
    for part in (network.encoder, network.decoder) if task == "decode" else (network,):
        compile_blocks(part)
    return tasks.asking(network, TASKS[task], dtype, device)


def diffusers(task: str, dtype: Any, device: str) -> Work:
    _, given, call = tasks.diffusers(TASKS[task], dtype, device)
    return lambda: call(*given)


def diffusers_float8(task: str, dtype: Any, device: str) -> Work:
    """diffusers' own way to keep weights in float8."""
    import torch

    network, given, call = tasks.diffusers(TASKS[task], dtype, device)
    network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    return lambda: call(*given)


def compiled(task: str, dtype: Any, device: str) -> Work:
    """diffusers under torch.compile."""
    import torch

    work: Work = torch.compile(diffusers(task, dtype, device))
    return work


def openvino(task: str, dtype: Any, device: str) -> Work:
    """diffusers' network converted by OpenVINO, which computes in the type named."""
    import openvino as ov
    import torch

    _, given, _ = tasks.diffusers(TASKS[task], torch.float32, "meta")
    path = Path(os.environ.get("OPENVINO_MODELS", "build")) / f"openvino-{task}.xml"
    if not path.is_file():
        network, given, call = tasks.diffusers(TASKS[task], torch.float32, device)
        ov.save_model(ov.convert_model(_traced(network, call, given), example_input=given), path)
    arrays = [(torch.full(each.shape, 500) if not each.shape else torch.zeros(each.shape)).numpy() for each in given]
    model = ov.Core().read_model(path)
    model.reshape({number: list(array.shape) for number, array in enumerate(arrays)})
    told = {"INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads := os.environ.get("OMP_NUM_THREADS"):
        told["INFERENCE_NUM_THREADS"] = threads
    compiled_model = ov.Core().compile_model(model, "CPU", told)
    return lambda: compiled_model(arrays)


def _traced(network: Any, call: Any, given: list[Any]) -> Any:
    """diffusers' network, as positions to a tensor."""
    import torch

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *given: Any) -> Any:
            return call(*given)

    with torch.no_grad():
        return torch.jit.trace(Positional(), given)


CONTESTANTS = {
    "ours": ours,
    "ours compiled": ours_compiled,
    "ours, float8": ours_float8,
    "diffusers": diffusers,
    "diffusers, float8": diffusers_float8,
    "diffusers compiled": compiled,
    "OpenVINO": openvino,
}


def profile(work: Work) -> dict[str, float]:
    """Seconds of each kind of operator in one run."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    from maquette.nn import attention

    def recorded(*given: Any) -> Any:
        with torch.profiler.record_function(ATTENTION):
            return own(*given)

    own, cuda = attention.attend_by_products, torch.cuda.is_available()
    attention.attend_by_products = recorded
    with watch(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        work()
    attention.attend_by_products = own
    times: dict[str, float] = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in seen.events():
        times[kind_of(event)] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
    return times


def kind_of(event: Any) -> str:
    """What an event is part of: products within attention are attention's."""
    parent = event
    while parent is not None:
        if parent.name == ATTENTION:
            return ATTENTION
        parent = parent.cpu_parent
    return next((kind for kind, marks in KINDS.items() if any(mark in event.name for mark in marks)), OTHER)


def serve(task: str, name: str, dtype: str, device: str = "cpu") -> None:
    """Be a contestant, until nothing more is asked."""
    import torch

    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    with torch.no_grad():
        work = CONTESTANTS[name](task, getattr(torch, dtype), device)
        answer: dict[str, Any] = {"ready": True}
        while True:
            print(json.dumps(answer), flush=True)
            asked = sys.stdin.readline().strip()
            if not asked:
                return
            wall, cpu = time.monotonic(), time.process_time()
            answer = {"kinds": profile(work)} if asked == "profile" else {"done": work() is not None}
            if device != "cpu":
                torch.cuda.synchronize()
            answer |= {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            answer["peak"] = resident if device == "cpu" else torch.cuda.max_memory_allocated()


class Worker:
    """The other end of a contestant."""

    def __init__(self, task: str, name: str, dtype: str, device: str = "cpu") -> None:
        self.title = f"{name}, {dtype}"
        command = [sys.executable, __file__, task, name, dtype, device]
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


def take_turns(
    task: str, contestants: Sequence[tuple[str, str]], rounds: int, device: str = "cpu"
) -> dict[str, list[dict[str, Any]]]:
    """What every round took each contestant, (name, dtype); a first round, not counted, warms all up."""
    workers = [Worker(task, *contestant, device) for contestant in contestants]
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
