"""The same random weights give the same outputs here and in diffusers and transformers."""

from dataclasses import replace

import pytest
import references as r
import torch
import torch.nn.functional as F
from torch import nn

from maquette.nn.mlp import GEGLU

BOUND = 1e-5  # float32; wrong details of the kinds below cost more


@pytest.mark.parametrize("size", [(16, 16), (13, 11)], ids=["even", "odd"])
@pytest.mark.parametrize(
    "spec",
    [r.SMALL_SD1, r.SMALL_INPAINT, r.SMALL_SD2, r.SMALL_SDXL, r.SMALL_SSD, r.SMALL_KOALA, r.MINI_UNET],
    ids=["sd1", "inpaint", "sd2", "sdxl", "ssd", "koala", "mini"],
)
def test_unet(spec: r.UNetSpec, size: tuple[int, int]) -> None:
    assert r.compare(spec, size=size)["prediction"] < BOUND


def test_refiner() -> None:
    assert r.compare(r.SMALL_REFINER, numbers=5)["prediction"] < BOUND


@pytest.mark.parametrize("size", [(16, 16), (13, 11)], ids=["even", "odd"])
@pytest.mark.parametrize("spec", [r.SMALL_SD1, r.SMALL_KOALA], ids=["sd1", "no middle"])
def test_unet_with_control_residuals(spec: r.UNetSpec, size: tuple[int, int]) -> None:
    assert r.compare(spec, size=size, control=True)["prediction"] < BOUND


@pytest.mark.parametrize("spec", [r.SMALL_VAE, r.SMALL_VAE_16, r.MINI_VAE], ids=["sd", "sd3", "mini"])
def test_vae(spec: r.VAESpec) -> None:
    found = r.compare(spec)
    assert found.keys() == {"mean", "logvar", "picture"}
    assert max(found.values()) < BOUND


@pytest.mark.parametrize("spec", [r.SMALL_CLIP, r.SMALL_OPEN_CLIP, r.MINI_CLIP], ids=["clip", "open clip", "mini"])
def test_clip_text(spec: r.CLIPTextSpec) -> None:
    found = r.compare(spec)
    assert {"last", "pooled", *(f"hidden {index}" for index in range(spec.layers + 1))} <= found.keys()
    assert ("projected" in found) == (spec.projection is not None)
    assert max(found.values()) < BOUND


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_image(activation: str) -> None:
    found = r.compare(replace(r.SMALL_IMAGE, activation=activation))
    assert {"pooled", "projected", "hidden 0"} <= found.keys()
    assert max(found.values()) < BOUND


def set_eps(network: nn.Module, kind: type[nn.Module], right: float, wrong: float) -> None:
    for module in network.modules():
        if isinstance(module, kind) and module.eps == right:
            module.eps = wrong


def use_tanh_gelu(network: nn.Module) -> None:
    def gated(self: GEGLU, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * F.gelu(gate, approximate="tanh"))

    for module in network.modules():
        if isinstance(module, GEGLU):
            module.forward = gated.__get__(module)


def use_exact_gelu(network: r.CLIPText) -> None:
    for layer in network.layers:
        layer.mlp.activation = F.gelu


MISTAKES = {
    "residual norm's epsilon": (r.SMALL_SD1, lambda network: set_eps(network, nn.GroupNorm, 1e-5, 1e-6)),
    "transformer norm's epsilon": (r.SMALL_SD1, lambda network: set_eps(network, nn.GroupNorm, 1e-6, 1e-5)),
    "layer norm's epsilon": (r.SMALL_SD1, lambda network: set_eps(network, nn.LayerNorm, 1e-5, 1e-6)),
    "tanh for exact GELU": (r.SMALL_SD1, use_tanh_gelu),
    "autoencoder's epsilon": (r.SMALL_VAE, lambda network: set_eps(network, nn.GroupNorm, 1e-6, 1e-5)),
    "exact for quick GELU": (r.SMALL_CLIP, use_exact_gelu),
    "CLIP's epsilon": (r.SMALL_CLIP, lambda network: set_eps(network, nn.LayerNorm, 1e-5, 1e-6)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@torch.no_grad()
def test_bound_catches(mistake: str) -> None:
    spec, make = MISTAKES[mistake]
    kind = r.KINDS[type(spec)]
    network = r.randomise(kind.network(spec))
    inputs = kind.inputs(spec)
    right = kind.ours(network, **inputs)
    make(network)
    found = r.errors(kind.ours(network, **inputs), right)
    assert max(found.values()) > 1.5 * BOUND
