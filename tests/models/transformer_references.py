"""Our transformers and their references, as `references` has them for the U-Net, the autoencoder and CLIP."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import references
import torch
from accelerate import init_empty_weights
from diffusers import DiTTransformer2DModel, FluxPipeline, FluxTransformer2DModel, SD3Transformer2DModel
from references import Kind, Outputs, noise
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from maquette.diffusion.conditioning import Conditioning
from maquette.models import (
    dit_config,
    dit_names,
    flux_config,
    flux_names,
    mmdit_config,
    mmdit_names,
    t5_config,
    t5_names,
)
from maquette.models.dit import DiT, DiTSpec, class_vector
from maquette.models.flux import Flux, FluxSpec, SingleBlock
from maquette.models.mmdit import MMDiT, MMDiTSpec
from maquette.models.t5 import T5, T5Attention, T5Spec
from maquette.nn.joint import QKV

# Layers that feed the residual stream are small, so that a norm's epsilon shows; in DiT, positions keep it large.
QUIET = {"patch_embed", "context_embed", "token_embedding", "out", "down", "positions"}
LOUD = ("time_embed.", "vector_embed.", "guidance_embed.")
ONE_ROW = ("token_embedding", "class_embed", "position_bias")  # looked up, not summed over


@torch.no_grad()
def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fill with random numbers, gates and final layers too, so that every mistake shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    quiet = set() if isinstance(network, DiT) else QUIET
    for name, tensor in network.state_dict().items():
        words = name.split(".")
        gain = 0.01 if quiet & set(words) and not name.startswith(LOUD) else 1.2
        numbers = torch.randn(tensor.shape, generator=generator)
        if any("norm" in word for word in words):
            tensor.copy_(1 + 0.2 * numbers)
        elif tensor.ndim == 1:
            tensor.copy_(0.2 * gain * numbers)
        else:
            fan_in = 1 if words[0] in ONE_ROW else tensor[0].numel()
            tensor.copy_(gain * fan_in**-0.5 * numbers)
    for module in network.modules():  # queries and keys that are normed are small too
        if isinstance(module, SingleBlock | QKV) and module.norm is not None:
            product = module.up if isinstance(module, SingleBlock) else module.linear
            for tensor in (product.weight, product.bias):
                tensor[: 2 * product.in_features] *= 0.01
        if isinstance(module, T5Attention):  # nothing divides its scores
            module.qkv.weight[: module.qkv.out_features // 3] *= (module.out.in_features / module.heads) ** -0.5
    return network.eval()


def mmdit_reference(network: MMDiT) -> SD3Transformer2DModel:
    with init_empty_weights():
        reference = SD3Transformer2DModel.from_config(mmdit_config.to_config(network.spec))
    reference.load_state_dict(dict(mmdit_names.DIFFUSERS.write(network.state_dict(), network)), assign=True)
    return reference.eval()


def mmdit_inputs(spec: MMDiTSpec, *, size: tuple[int, int] = (10, 14), control: bool = False) -> dict[str, Any]:
    """Random latents and conditioning; `control` adds residuals as a ControlNet would give them."""
    patches = size[0] * size[1] // spec.patch**2
    return {
        "x": noise(2, spec.in_channels, *size),
        "t": torch.tensor([0.9, 0.37]),
        "tokens": noise(2, 5, spec.context, seed=2),
        "vector": noise(2, spec.vector, seed=3),
        "control": [0.01 * noise(2, patches, spec.width, seed=index) for index in (4, 5)] if control else [],
    }


def mmdit_ours(network: MMDiT, *, x: Tensor, t: Tensor, tokens: Tensor, vector: Tensor, control: Any) -> Outputs:
    return {"velocity": network(x, t, Conditioning(tokens, vector, control=tuple(control)))}


def mmdit_theirs(
    network: SD3Transformer2DModel, *, x: Tensor, t: Tensor, tokens: Tensor, vector: Tensor, control: Any
) -> Outputs:
    return {"velocity": network(x, tokens, vector, 1000 * t, block_controlnet_hidden_states=control or None).sample}


def flux_reference(network: Flux) -> FluxTransformer2DModel:
    with init_empty_weights():
        reference = FluxTransformer2DModel.from_config(flux_config.to_config(network.spec))
    reference.load_state_dict(dict(flux_names.DIFFUSERS.write(network.state_dict(), network)), assign=True)
    return reference.eval()


def flux_inputs(spec: FluxSpec, *, size: tuple[int, int] = (6, 10)) -> dict[str, Any]:
    further = spec.in_channels - spec.out_channels
    return {
        "x": noise(2, spec.out_channels, *size),
        "t": torch.tensor([0.9, 0.37]),
        "tokens": noise(2, 5, spec.context, seed=2),
        "vector": noise(2, spec.vector, seed=3),
        "concat": noise(2, further, *size, seed=4) if further else None,
        "guidance": torch.tensor([3.5, 2.0]) if spec.guidance else None,
    }


def flux_ours(
    network: Flux,
    *,
    x: Tensor,
    t: Tensor,
    tokens: Tensor,
    vector: Tensor,
    concat: Tensor | None,
    guidance: Tensor | None,
) -> Outputs:
    return {"velocity": network(x, t, Conditioning(tokens, vector, concat, guidance))}


def flux_theirs(
    network: FluxTransformer2DModel,
    *,
    x: Tensor,
    t: Tensor,
    tokens: Tensor,
    vector: Tensor,
    concat: Tensor | None,
    guidance: Tensor | None,
) -> Outputs:
    """The network within what its pipeline does: packing, and numbering the patches."""
    batch, _, h, w = x.shape
    parts = [part for part in (x, concat) if part is not None]
    packed = torch.cat([FluxPipeline._pack_latents(part, batch, part.shape[1], h, w) for part in parts], dim=2)
    picture = FluxPipeline._prepare_latent_image_ids(batch, h // 2, w // 2, x.device, x.dtype)
    text = torch.zeros(tokens.shape[1], 3).to(picture)
    out = network(packed, tokens, vector, t, picture, text, guidance).sample
    return {"velocity": FluxPipeline._unpack_latents(out, 8 * h, 8 * w, 8)}


def dit_reference(network: DiT) -> DiTTransformer2DModel:
    """Diffusers' DiT with the frequencies i / half that the published weights were trained with, not i / (half - 1)."""
    with init_empty_weights():
        reference = DiTTransformer2DModel.from_config(dit_config.to_config(network.spec))
    reference.load_state_dict(dict(dit_names.DIFFUSERS.write(network.state_dict(), network)), assign=True)
    for block in reference.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    return reference.eval()


def dit_inputs(spec: DiTSpec) -> dict[str, Any]:
    return {
        "x": noise(3, spec.channels, spec.size, spec.size),
        "t": torch.tensor([999.0, 500.0, 1.0]),
        "classes": [3, spec.classes - 1, None],
    }


def dit_ours(network: DiT, *, x: Tensor, t: Tensor, classes: list[int | None]) -> Outputs:
    epsilon, variance = network.epsilon_and_variance(
        x, t, Conditioning(vector=class_vector(classes, network.spec.classes).to(x))
    )
    return {"epsilon": epsilon} if variance is None else {"epsilon": epsilon, "variance": variance}


def dit_theirs(network: DiTTransformer2DModel, *, x: Tensor, t: Tensor, classes: list[int | None]) -> Outputs:
    null = network.config.num_embeds_ada_norm
    ids = torch.tensor([null if index is None else index for index in classes], device=x.device)
    out = network(x, t, ids).sample
    epsilon, variance = out[:, : x.shape[1]], out[:, x.shape[1] :]
    return {"epsilon": epsilon, "variance": variance} if variance.numel() else {"epsilon": epsilon}


def t5_reference(network: T5) -> T5EncoderModel:
    with init_empty_weights():
        reference = T5EncoderModel(T5Config(**t5_config.to_config(network.spec)))
    written = dict(t5_names.DIALECTS[0].write(network.state_dict(), network))
    twice = {"encoder.embed_tokens.weight": written["shared.weight"]}  # one tensor under two names
    reference.load_state_dict(written | twice, assign=True)
    return reference.eval()


def t5_inputs(spec: T5Spec) -> dict[str, Any]:
    """Longer than the last distance that has a bucket of its own."""
    return {"ids": torch.randint(spec.vocabulary, (2, 2 * spec.distance), generator=torch.Generator().manual_seed(1))}


def t5_ours(network: T5, *, ids: Tensor) -> Outputs:
    return {"states": network(ids)}


def t5_theirs(network: T5EncoderModel, *, ids: Tensor) -> Outputs:
    return {"states": network(ids).last_hidden_state}


KINDS: Mapping[type, Kind] = {
    MMDiTSpec: Kind(MMDiT, mmdit_reference, mmdit_inputs, mmdit_ours, mmdit_theirs, randomise),
    FluxSpec: Kind(Flux, flux_reference, flux_inputs, flux_ours, flux_theirs, randomise),
    DiTSpec: Kind(DiT, dit_reference, dit_inputs, dit_ours, dit_theirs, randomise),
    T5Spec: Kind(T5, t5_reference, t5_inputs, t5_ours, t5_theirs, randomise),
}

compare = partial(references.compare, kinds=KINDS)
