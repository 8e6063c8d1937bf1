"""Small LoRAs in the spellings of the trainers, and the weights that they are merged into."""

import torch
from torch import Tensor

from maquette.weights.lora import LoRA, Target, read_lora, with_lora
from maquette.weights.view import InMemory

OUT, IN, RANK = 12, 8, 3

BASE = InMemory(
    {
        "attn.to_q.weight": torch.randn(OUT, IN),
        "attn.to_q.bias": torch.randn(OUT),
        "attn.qkv.weight": torch.randn(3 * OUT, IN),
        "attn.qkv.bias": torch.randn(3 * OUT),
        "conv.weight": torch.randn(OUT, IN, 3, 3),
        "proj_in.weight": torch.randn(OUT, IN, 1, 1),
        "norm.weight": torch.randn(OUT),
        "final.weight": torch.randn(OUT, IN),
        "half.weight": torch.randn(OUT, IN).bfloat16(),
    }
)
TARGETS = (
    Target("attn.to_q.weight", ("lora_unet_attn_to_q", "unet.attn.to_q", "attn.to_q")),
    *(
        Target("attn.qkv.weight", (f"lora_unet_attn2_to_{x}", f"unet.attn2.to_{x}"), rows=slice(n * OUT, (n + 1) * OUT))
        for n, x in enumerate("qkv")
    ),
    Target("attn.qkv.weight", ("lora_unet_attn2_qkv",)),
    Target("conv.weight", ("lora_unet_conv", "unet.conv")),
    Target("proj_in.weight", ("lora_unet_proj_in",)),
    Target("norm.weight", ("lora_unet_norm",)),
    Target("final.weight", ("unet.norm_out.linear",), swap_halves=True),
    Target("half.weight", ("lora_unet_half",)),
)


def kohya(module: str, up: Tensor, down: Tensor, alpha: float | None = None) -> dict[str, Tensor]:
    parts = {f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down}
    return parts if alpha is None else {**parts, f"{module}.alpha": torch.tensor(alpha)}


def pair(out: int = OUT, into: int = IN, rank: int = RANK) -> tuple[Tensor, Tensor]:
    return torch.randn(out, rank), torch.randn(rank, into)


def lora(tensors: dict[str, Tensor], scale: float = 1.0, metadata: dict[str, str] | None = None) -> LoRA:
    return read_lora(InMemory(tensors, metadata or {}), scale)


def merged(tensors: dict[str, Tensor], name: str, scale: float = 1.0) -> Tensor:
    """The tensor `name` with one LoRA, all of whose keys must be used."""
    view = with_lora(BASE, [lora(tensors, scale)], TARGETS)
    assert set(view.reports[0].matched) == set(tensors)
    assert view.reports[0].unmatched == ()
    assert list(view) == list(BASE)
    assert all(view[other] is BASE[other] for other in set(BASE) - view.changed)
    return view[name]


def close(found: Tensor, expected: Tensor) -> bool:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return True
