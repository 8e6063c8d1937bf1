"""Layers in 8 bits beside the same layers in bfloat16: processor's seconds in turns, and what they get wrong.

    python benchmarks/quantised.py [--rounds N] [--threads N] [--models sd1 sdxl flux]
    python benchmarks/quantised.py --networks

The first compares the linear layers of published shapes: `int8` multiplies in int8, what comes in quantised for each
token; `float8` widens its weight whenever it is used. Ratios are of the processor's seconds, medians over the rounds;
errors are relative to the layer in float32, of normal numbers, with bfloat16's own beside them. `--networks` compares
the answers of the U-Nets of SD 1.5 and SDXL, with random weights at 16 x 16, to those in bfloat16 (10 GB).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# rows of a guided step (SD 1.5 at 512, SDXL and FLUX.1 at 1024), columns in and out
SHAPES = {
    "sd1": (
        ("qkv, 64 x 64", 8192, 320, 960),
        ("GEGLU up, 64 x 64", 8192, 320, 2560),
        ("GEGLU up, 32 x 32", 2048, 640, 5120),
        ("GEGLU up, 16 x 16", 512, 1280, 10240),
        ("GEGLU down, 16 x 16", 512, 5120, 1280),
        ("text's keys and values", 154, 768, 2560),
    ),
    "sdxl": (
        ("qkv, 64 x 64", 8192, 640, 1920),
        ("GEGLU up, 32 x 32", 2048, 1280, 10240),
        ("GEGLU down, 32 x 32", 2048, 5120, 1280),
    ),
    "flux": (("qkv", 4608, 3072, 9216), ("down, single block", 4608, 15360, 3072), ("modulation", 1, 3072, 18432)),
}
KINDS = ("bfloat16", "int8", "float8")


def layers(inputs: int, outputs: int) -> tuple[nn.Linear, dict[str, Any]]:
    """A layer in float32, and the same one of each kind."""
    from maquette.nn.quantised import FLOAT8, INT8, Int8Linear, QuantisedLinear, quantise

    exact = nn.Linear(inputs, outputs).requires_grad_(False)
    exact.weight.normal_(std=inputs**-0.5)
    found: dict[str, Any] = {"bfloat16": nn.Linear(inputs, outputs).requires_grad_(False)}
    found["bfloat16"].load_state_dict(exact.state_dict())
    found["bfloat16"].bfloat16()
    for name, kind, dtype in (("int8", Int8Linear, INT8), ("float8", QuantisedLinear, FLOAT8)):
        found[name] = kind(exact, dtype)
        codes, scale = quantise(exact.weight, dtype)
        state = {"codes": codes, "scale": scale.bfloat16(), "bias": exact.bias.bfloat16()}
        found[name].load_state_dict(state, assign=True)
    return exact, found


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare_layers(models: list[str], rounds: int) -> None:
    head = "".join(f"{kind + ' / bf16':>16}" for kind in KINDS[1:])
    print(f"{'':<6}{'layer':<24}{'shape':<20}{'bf16 ms':>9}{head}{'errors: bf16, int8, float8':>32}")
    totals: dict[str, dict[str, float]] = {}
    for model in models:
        for what, rows, inputs, outputs in SHAPES[model]:
            exact, found = layers(inputs, outputs)
            x = torch.randn(rows, inputs)
            half = x.bfloat16()
            errors = [relative(found[kind](half[:256]), exact(x[:256])) for kind in KINDS]
            times: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for number in range(rounds + 1):
                for kind in KINDS:
                    told = seconds(lambda layer=found[kind], x=half: layer(x))
                    if number:
                        times[kind].append(told)
            ratios = [
                statistics.median(a / b for a, b in zip(times[kind], times["bfloat16"], strict=True))
                for kind in KINDS[1:]
            ]
            told = 1000 * statistics.median(times["bfloat16"])
            cells = "".join(f"{ratio:>16.2f}" for ratio in ratios)
            wrong = ", ".join(f"{error:.4f}" for error in errors)
            print(f"{model:<6}{what:<24}{f'{rows} {inputs} {outputs}':<20}{told:>9.1f}{cells}{wrong:>32}", flush=True)
            for kind in KINDS:
                totals.setdefault(model, dict.fromkeys(KINDS, 0.0))[kind] += statistics.median(times[kind])
    for model, sums in totals.items():
        print(f"{model:<6}{'all of them':<53}" + "".join(f"{sums[k] / sums['bfloat16']:>16.2f}" for k in KINDS[1:]))


def compare_networks() -> None:
    """The U-Nets' answers in int8 and float8 against bfloat16."""
    from maquette.diffusion.conditioning import Conditioning
    from maquette.engine.build import fill, outline
    from maquette.engine.storage import STORAGES, store
    from maquette.models.published import SD1_UNET, SDXL_UNET
    from maquette.models.unet import UNet
    from maquette.weights.view import InMemory

    for name, spec in (("SD 1.5", SD1_UNET), ("SDXL", SDXL_UNET)):
        generator = torch.Generator().manual_seed(0)
        state = {}
        for key, tensor in outline(UNet, spec).state_dict().items():
            numbers = torch.randn(tensor.shape, generator=generator)
            small = 1 + 0.1 * numbers if "norm" in key and key.endswith("weight") else 0.1 * numbers
            scaled = numbers.mul_(tensor[0].numel() ** -0.5) if tensor.ndim > 1 else small
            state[key] = scaled.bfloat16()
        weights = InMemory(state)
        vector = None if spec.vector is None else torch.randn(1, spec.vector)
        told = Conditioning(tokens=torch.randn(1, 77, spec.context or 1), vector=vector)
        x = torch.randn(1, 4, 16, 16)
        answers = {}
        for kind in KINDS:
            network = outline(UNet, spec)
            kept = store(network, STORAGES[kind]).of(weights) if kind in STORAGES else weights
            fill(network, kept, torch.device("cpu"), torch.bfloat16)
            with torch.no_grad():
                answers[kind] = network(x, 500.0, told.to(dtype=torch.bfloat16)).float()
            del network, kept
        for kind in KINDS[1:]:
            print(f"{name}, {kind}: relative error {relative(answers[kind], answers['bfloat16']):.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--networks", action="store_true")
    told = parser.parse_args()
    torch.manual_seed(0)
    if told.threads:
        torch.set_num_threads(told.threads)
    with torch.no_grad():
        compare_networks() if told.networks else compare_layers(told.models, told.rounds)


if __name__ == "__main__":
    main()
