"""What is timed: a network of a published shape with random weights, ours or diffusers', and one call of it.

Weights lie only in memory; time does not depend on their values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

Work = Callable[[], Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """A network by the name of its published spec, what a call of it reads, and how many products that takes."""

    title: str
    tflop: float
    """Of diffusers' network, as `python benchmarks/tasks.py` counts it, attention too."""
    spec: str
    latent: Shape
    told: Mapping[str, Shape] = field(default_factory=dict)
    """Of the conditioning, without the batch."""
    guided: bool = True
    """Whether a step asks twice, with and without what is wanted."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """In what the spec differs from the published one."""

    @property
    def batch(self) -> int:
        return 2 if self.guided else 1

    def shape(self) -> Any:
        from maquette.models import published

        return replace(getattr(published, self.spec), **self.options)


TASKS = {
    "step": Task("One guided step of SD 1.5 at 512 x 512", 1.607, "SD1_UNET", (4, 64, 64), {"tokens": (77, 768)}),
    "decode": Task("One picture of 512 x 512 decoded by SD's first stage", 2.515, "SD_VAE", (4, 64, 64), guided=False),
    "sdxl": Task(
        "One guided step of SDXL at 1024 x 1024",
        13.522,
        "SDXL_UNET",
        (4, 128, 128),
        {"tokens": (77, 2048), "vector": (2816,)},
    ),
    "sd35": Task(
        "One guided step of SD3.5 medium at 1024 x 1024",
        22.499,
        "SD35_MEDIUM",
        (16, 128, 128),
        {"tokens": (333, 4096), "vector": (2048,)},
    ),
    "flux": Task(
        "A double and a single block of FLUX.1 dev at 1024 x 1024, with what comes before and behind",
        2.626,
        "FLUX_DEV",
        (16, 128, 128),
        {"tokens": (512, 4096), "vector": (768,), "guidance": ()},
        guided=False,
        options={"double": 1, "single": 1},
    ),
}


class Call(NamedTuple):
    """A network, what it is given in order, and how it is called with that."""

    network: Any
    given: list[Any]
    call: Callable[..., Any]


def filled(network: Any, dtype: Any, device: str = "cpu") -> Any:
    """A network with random weights, small enough that nothing overflows."""
    import torch

    torch.manual_seed(0)

    def drawn(tensor: Any) -> Any:
        kind = tensor.dtype if tensor.itemsize == 1 else dtype  # weights in 8 bits stay so
        return torch.randn(tensor.shape, dtype=dtype, device=device).mul_(tensor.shape[1:].numel() ** -0.5).to(kind)

    network.load_state_dict({name: drawn(each) for name, each in network.state_dict().items()}, assign=True)
    return network.eval().requires_grad_(False)


def network(task: Task, dtype: Any, device: str, storage: str = "") -> Any:
    """Our network, its large matrices kept in `storage`, if that is given."""
    import torch

    from maquette.engine.build import outline
    from maquette.engine.storage import STORAGES, store
    from maquette.models import flux, mmdit, unet, vae

    spec = task.shape()
    kinds = {unet.UNetSpec: unet.UNet, mmdit.MMDiTSpec: mmdit.MMDiT, flux.FluxSpec: flux.Flux, vae.VAESpec: vae.VAE}
    found: Any = outline(kinds[type(spec)], spec)
    if storage:
        store(found, STORAGES[storage])
    filled(found, dtype, device)
    return found if device == "cpu" else found.to(memory_format=torch.channels_last)


def ours(task: Task, dtype: Any, device: str, storage: str = "", rows: int = 1) -> Work:
    """A call of our network for so many pictures."""
    return asking(network(task, dtype, device, storage), task, dtype, device, rows)


def asking(asked: Any, task: Task, dtype: Any, device: str, rows: int = 1) -> Work:
    """As the workflows ask a network: guided where the task is, in float32 outside of it."""
    import torch

    from maquette.diffusion.conditioning import Conditioning
    from maquette.diffusion.denoise import bind, denoiser
    from maquette.diffusion.guidance import Pair, cfg
    from maquette.diffusion.prediction import EPSILON
    from maquette.diffusion.process import Level

    x = torch.randn(rows, *task.latent, device=device)
    if not task.told:
        return lambda: asked.decode(x)
    told = [{name: torch.randn(rows, *shape, device=device) for name, shape in task.told.items()} for _ in range(2)]
    wanted, unwanted = (Conditioning(**each) for each in told)
    denoise = denoiser(asked, EPSILON, dtype)
    guided = cfg(Pair(denoise, wanted, unwanted), 5.0) if task.guided else bind(denoise, wanted)
    time = 500.0 if "UNET" in task.spec else 0.5
    return lambda: guided(x.clone(), Level(time, 0.6, 0.8))


def diffusers(task: Task, dtype: Any, device: str) -> Call:
    """As its pipelines call it, without what they do between two steps."""
    import torch
    from diffusers import (
        AutoencoderKL,
        FluxTransformer2DModel,
        SD3Transformer2DModel,
        UNet2DConditionModel,
    )
    from diffusers.utils import logging

    from maquette.models import flux_config, mmdit_config, unet_config, vae_config
    from maquette.models.flux import FluxSpec
    from maquette.models.mmdit import MMDiTSpec
    from maquette.models.vae import VAESpec

    logging.set_verbosity_error()
    spec, batch = task.shape(), task.batch

    def noise(*shape: int) -> Any:
        return torch.randn(batch, *shape, dtype=dtype, device=device)

    def built(kind: Any, config: Mapping[str, Any]) -> Any:
        with torch.device("meta"):
            network = kind.from_config(config)
        return filled(network, dtype, device)

    told = {name: noise(*shape) for name, shape in task.told.items()}
    if isinstance(spec, VAESpec):
        vae = built(AutoencoderKL, vae_config.to_config(vae_config.VAEConfig(spec)))
        return Call(vae, [noise(*task.latent)], lambda z: vae.decode(z, return_dict=False)[0])
    if isinstance(spec, MMDiTSpec):
        mmdit = built(SD3Transformer2DModel, mmdit_config.to_config(spec))
        time = torch.full((batch,), 500.0, device=device)
        given = [noise(*task.latent), told["tokens"], told["vector"], time]
        return Call(mmdit, given, lambda *given: mmdit(*given, return_dict=False)[0])
    if isinstance(spec, FluxSpec):
        flux = built(FluxTransformer2DModel, flux_config.to_config(spec))
        channels, rows, columns = task.latent
        places = torch.zeros(rows // 2, columns // 2, 3, device=device)
        places[..., 1], places[..., 2] = torch.arange(rows // 2)[:, None], torch.arange(columns // 2)[None]
        text = torch.zeros(task.told["tokens"][0], 3, device=device)
        patches = noise(rows * columns // 4, 4 * channels)
        time = torch.full((batch,), 0.5, dtype=dtype, device=device)
        given = [patches, told["tokens"], told["vector"], time, places.flatten(0, 1), text, told["guidance"]]
        return Call(flux, given, lambda *given: flux(*given, return_dict=False)[0])
    unet = built(UNet2DConditionModel, unet_config.to_config(spec))
    given = [noise(*task.latent), torch.tensor(500, device=device), told["tokens"]]
    if "vector" not in told:
        return Call(unet, given, lambda *given: unet(*given, return_dict=False)[0])
    added = {"text_embeds": noise(1280), "time_ids": torch.full((batch, 6), 1024.0, dtype=dtype, device=device)}
    return Call(unet, given, lambda *given: unet(*given, added_cond_kwargs=added, return_dict=False)[0])


def count(task: Task) -> float:
    """The products and sums of a call of diffusers' network, in TFLOP; nothing is computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    call = diffusers(task, torch.bfloat16, "meta")
    with FlopCounterMode(display=False) as counter:
        call.call(*call.given)
    return float(counter.get_total_flops()) / 1e12


if __name__ == "__main__":
    for name, task in TASKS.items():
        print(name, f"{count(task):.3f} TFLOP")
