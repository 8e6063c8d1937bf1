"""Worse answers of the same network, for guidance to push away from: it looks nowhere, or blocks are left out.

Perturbed-attention guidance (Ahn et al. 2024, 2403.17377) and skip-layer guidance (Stability AI 2024, for SD3.5):
`maquette.diffusion.guidance.perturbed` does the pushing.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Denoiser
from maquette.diffusion.process import Level
from maquette.errors import MaquetteError
from maquette.models.flux import SingleBlock
from maquette.models.unet import UNet
from maquette.nn.attention import Attend, SelfAttention, attending
from maquette.nn.joint import DualAttention, JointBlock
from maquette.nn.network import Run, running

USUAL = ("middle", "blocks.1", "double_blocks.1")
"""Where attention is perturbed unless somebody says: a U-Net's middle, a transformer's second block."""


def looking_nowhere(denoise: Denoiser, network: nn.Module, layers: Sequence[str] = ()) -> Denoiser:
    """The answers of `denoise` where each place of the picture attends, in some layers, to itself and no other place.

    What is looked at in the text stays. `layers` are names of parts of the network, or the beginnings of several, such
    as "middle", "up.3" or "blocks.7".

    Raises:
        MaquetteError: no such layer attends.
    """
    inside = {name: part for name, part in network.named_modules() if isinstance(part, SelfAttention | DualAttention)}
    joint = {name: part for name, part in network.named_modules() if isinstance(part, JointBlock | SingleBlock)}
    alone, together = (
        [part for name, part in found.items() if any(f"{name}.".startswith(f"{layer}.") for layer in layers or USUAL)]
        for found in (inside, joint)
    )
    idle = [each for each in layers if not any(f"{name}.".startswith(f"{each}.") for name in (*inside, *joint))]
    if idle or not (alone or together):
        known = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in (*inside, *joint)))
        raise MaquetteError(
            f"pag: no layer {' or '.join(idle or USUAL)} of this network attends to the picture; "
            f"those that do are in {', '.join(known) or 'none'}"
        )

    def answer(x: Tensor, level: Level, told: Conditioning) -> Tensor:
        text = 0 if told.tokens is None else told.tokens.shape[1]
        changes: dict[Any, Attend] = dict.fromkeys(alone, _to_itself)
        changes |= {part: _to_text_and_itself(part.attend, text) for part in together}
        with attending(changes):
            return denoise(x, level, told)

    return answer


def _to_itself(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention whose map is the identity (Ahn et al. 2024, equation 14)."""
    return v


def _to_text_and_itself(attend: Attend, text: int) -> Attend:
    """Joint attention, text first, in which a place of the picture sees of the picture only itself."""

    def attend_apart(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        words = attend(q[:, :, :text], k, v)
        q, own = q[:, :, text:], (q[:, :, text:] * k[:, :, text:]).sum(-1, keepdim=True)
        scores = torch.cat([own, q @ k[:, :, :text].mT], dim=-1).float() * q.shape[-1] ** -0.5
        shares = scores.softmax(-1).to(v.dtype)
        return torch.cat([words, shares[..., :1] * v[:, :, text:] + shares[..., 1:] @ v[:, :, :text]], dim=2)

    return attend_apart


def leaving_out(denoise: Denoiser, network: Any, layers: Sequence[int]) -> Denoiser:
    """The answers of `denoise` without some of a transformer's blocks, which are numbered from 0 in their order.

    Raises:
        MaquetteError: the network is no transformer, or has no such block.
    """
    if isinstance(network, UNet):
        raise MaquetteError("slg: only transformers have layers that can be left out; use pag with a U-Net")
    blocks = [
        block for _, several in network.named_children() if isinstance(several, nn.ModuleList) for block in several
    ]
    beyond = [layer for layer in layers if not 0 <= layer < len(blocks)]
    if beyond:
        raise MaquetteError(f"slg: there is no layer {beyond[0]}; this network has 0 to {len(blocks) - 1}")
    skipped = {blocks[layer] for layer in layers}

    def run_or_skip(run: Run, block: nn.Module, *args: Any) -> Any:
        if block not in skipped:
            return run(block, *args)
        return args[:2] if isinstance(block, JointBlock) else args[0]

    def answer(x: Tensor, level: Level, told: Conditioning) -> Tensor:
        with running(network, run_or_skip):
            return denoise(x, level, told)

    return answer
