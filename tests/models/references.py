"""Our networks and their references in diffusers and transformers, made from one spec with the same random weights.

The reference is built from the config that we write and filled with the tensors that we name, strictly, so every
comparison of outputs tests both too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from maquette.diffusion.conditioning import Conditioning
from maquette.models import clip_config, clip_names, unet_config, unet_names, vae_config, vae_names
from maquette.models.clip import CLIPImage, CLIPImageSpec, CLIPText, CLIPTextSpec
from maquette.models.published import SD1_UNET, SD2_UNET, SD3_VAE, SDXL_REFINER_UNET, SDXL_UNET
from maquette.models.unet import UNet, UNetSpec
from maquette.models.vae import VAE, VAESpec
from maquette.nn.embed import sinusoids

Outputs = dict[str, Tensor]

# Published networks made small: the structure is theirs, the widths are not.
SMALL_SD1 = replace(SD1_UNET, widths=(64, 128, 192, 192), context=48)
SMALL_INPAINT = replace(SMALL_SD1, in_channels=9)
SMALL_SD2 = replace(SD2_UNET, widths=(64, 128, 192, 192), context=64)
SMALL_SDXL = replace(SDXL_UNET, widths=(64, 128, 192), context=96, vector=64 + 6 * 256)
SMALL_REFINER = replace(SDXL_REFINER_UNET, widths=(64, 128, 192, 192), context=64, vector=64 + 5 * 256)
SMALL_SSD = replace(SMALL_SDXL, down=((0, 0), (1, 1), (2, 3)), middle=0, up=((2, 2, 3), (2, 1, 1), (0, 0, 0)))
SMALL_KOALA = replace(SMALL_SDXL, down=((0,), (2,), (3,)), middle=None, up=((3, 3), (2, 2), (0, 0)))
SMALL_VAE = VAESpec(widths=(64, 64, 128, 128))
SMALL_VAE_16 = replace(SD3_VAE, widths=(64, 64, 128, 128))
SMALL_CLIP = CLIPTextSpec(vocabulary=500, positions=20, width=64, layers=3, heads=1, hidden=256, end=499)
SMALL_OPEN_CLIP = replace(SMALL_CLIP, width=128, heads=2, activation="gelu", projection=128)
SMALL_IMAGE = CLIPImageSpec(size=28, patch=7, width=128, layers=3, heads=2, hidden=256, projection=32)

# The shipped model's shapes.
MINI_UNET = UNetSpec(
    widths=(128, 192, 192),
    down=((0, 0), (1,), (0,)),
    middle=1,
    up=((0, 0), (1, 1), (0, 0, 0)),
    context=192,
    heads=None,
    head_width=64,
)
MINI_VAE = VAESpec(widths=(16, 32, 64, 128), res_blocks=1, groups=4)
MINI_CLIP = CLIPTextSpec(vocabulary=5000, positions=40, width=192, layers=3, heads=3, hidden=768, end=4999)


# Layers whose output, perhaps added to a residual stream, is read by a norm. Small weights keep the stream's variance
# near 1e-4, where a norm's epsilon shows.
QUIET = {"conv_in", "conv1", "conv2", "time", "proj_in", "out", "down"}
QUIET |= {"token_embedding", "position_embedding", "patch_embedding", "class_embedding"}
LOUD = ("time_embed.", "vector_embed.")


@torch.no_grad()
def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fill with random numbers, scaled so that epsilons, activations and attention all show in the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        layer, leaf = name.split(".")[-2:] if "." in name else (name, "weight")
        gain = 0.01 if layer in QUIET and not name.startswith(LOUD) else 2.0 if layer == "up" else 1.2
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in layer:
            parameter.copy_((leaf == "weight") + 0.2 * noise)
        elif leaf == "bias":
            parameter.copy_(0.2 * gain * noise)
        else:
            fan_in = 1 if "embedding" in layer and parameter.ndim < 4 else parameter[0].numel()
            parameter.copy_(gain * fan_in**-0.5 * noise)
    return network.eval()


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """|ours - theirs| / |theirs|, in double precision."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    ours, theirs = ours.double(), theirs.double()
    return ((ours - theirs).norm() / theirs.norm()).item()


def errors(ours: Outputs, theirs: Outputs) -> dict[str, float]:
    """The relative error of each output."""
    assert ours.keys() == theirs.keys()
    return {name: relative_error(ours[name], theirs[name]) for name in theirs}


@dataclass(frozen=True)
class Kind:
    """One kind of network: how to make it and its reference, what to feed, and how to ask each."""

    network: Callable[[Any], nn.Module]
    reference: Callable[[Any], nn.Module]
    inputs: Callable[..., dict[str, Any]]
    ours: Callable[..., Outputs]
    theirs: Callable[..., Outputs]
    randomise: Callable[..., nn.Module] = randomise


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unet_reference(network: UNet) -> UNet2DConditionModel:
    with init_empty_weights():
        reference = UNet2DConditionModel.from_config(unet_config.to_config(network.spec))
    reference.load_state_dict(dict(unet_names.DIFFUSERS.write(network.state_dict(), network)), assign=True)
    return reference.eval()


def unet_inputs(
    spec: UNetSpec, *, size: tuple[int, int] = (16, 16), numbers: int = 6, control: bool = False
) -> dict[str, Any]:
    """Random latents and conditioning: the vector ends with that many `numbers`, `control` adds residuals."""
    batch, pooled_width = 2, None if spec.vector is None else spec.vector - 256 * numbers
    return {
        "x": noise(batch, spec.in_channels, *size),
        "t": torch.tensor([3.0, 961.0]),
        "tokens": noise(batch, 7, spec.context, seed=2),
        "pooled": None if pooled_width is None else noise(batch, pooled_width, seed=3),
        "numbers": None if pooled_width is None else (noise(batch, numbers, seed=4).abs() * 500).round(),
        "control": unet_residuals(spec, batch, size) if control else [],
    }


def unet_residuals(spec: UNetSpec, batch: int, size: tuple[int, int]) -> list[Tensor]:
    """One residual for each skip and one for the middle, as large as the stream they are added to."""
    (height, width), shapes = size, [(spec.widths[0], *size)]
    for level, blocks in enumerate(spec.down):
        shapes += [(spec.widths[level], height, width)] * len(blocks)
        if level + 1 < len(spec.widths):
            height, width = (height + 1) // 2, (width + 1) // 2
            shapes.append((spec.widths[level], height, width))
    return [0.01 * noise(batch, *shape, seed=10 + index) for index, shape in enumerate([*shapes, shapes[-1]])]


def unet_ours(
    network: UNet, *, x: Tensor, t: Tensor, tokens: Tensor, pooled: Tensor | None, numbers: Tensor | None, control: Any
) -> Outputs:
    vector = None
    if pooled is not None and numbers is not None:
        vector = torch.cat([pooled, sinusoids(numbers, 256).flatten(1).to(pooled)], dim=1)
    concat = x[:, 4:] if x.shape[1] > 4 else None  # inpainting: mask and masked picture
    conditioning = Conditioning(tokens=tokens, vector=vector, concat=concat, control=tuple(control))
    return {"prediction": network(x[:, :4], t, conditioning)}


def unet_theirs(
    network: UNet2DConditionModel,
    *,
    x: Tensor,
    t: Tensor,
    tokens: Tensor,
    pooled: Tensor | None,
    numbers: Tensor | None,
    control: Any,
) -> Outputs:
    options: dict[str, Any] = {}
    if pooled is not None:
        options["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": numbers}
    if control:
        options["down_block_additional_residuals"] = tuple(control[:-1])
        options["mid_block_additional_residual"] = control[-1]
    return {"prediction": network(x, t, tokens, **options).sample}


def vae_reference(network: VAE) -> AutoencoderKL:
    with init_empty_weights():
        reference = AutoencoderKL.from_config(vae_config.to_config(vae_config.VAEConfig(network.spec)))
    reference.load_state_dict(dict(vae_names.DIFFUSERS.write(network.state_dict(), network)), assign=True)
    return reference.eval()


def vae_inputs(spec: VAESpec, *, size: tuple[int, int] = (48, 32)) -> dict[str, Any]:
    height, width = (side // spec.factor for side in size)
    return {"x": noise(2, spec.in_channels, *size).clamp(-1, 1), "z": noise(2, spec.channels, height, width, seed=2)}


def vae_ours(network: VAE, *, x: Tensor, z: Tensor) -> Outputs:
    posterior = network.encode(x)
    return {"mean": posterior.mean, "logvar": posterior.logvar, "picture": network.decode(z)}


def vae_theirs(network: AutoencoderKL, *, x: Tensor, z: Tensor) -> Outputs:
    posterior = network.encode(x).latent_dist
    return {"mean": posterior.mean, "logvar": posterior.logvar, "picture": network.decode(z).sample}


def text_reference(network: CLIPText) -> nn.Module:
    cls = CLIPTextModelWithProjection if network.spec.projection else CLIPTextModel
    dialect = clip_names.TEXT_HF if network.spec.projection else clip_names.TEXT_HF_FLAT
    with init_empty_weights():
        reference = cls(CLIPTextConfig(**clip_config.text_to_config(network.spec)))
    reference.load_state_dict(dict(dialect.write(network.state_dict(), network)), assign=True)
    return reference.eval()


def text_inputs(spec: CLIPTextSpec) -> dict[str, Any]:
    """Ids with the end-of-text token in the middle and padding of the same id behind it."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(spec.vocabulary - 2, (2, spec.positions), generator=generator)
    for row, length in enumerate((spec.positions // 2, spec.positions - 1)):
        ids[row, length:] = spec.end
    return {"ids": ids}


def text_ours(network: CLIPText, *, ids: Tensor) -> Outputs:
    states = network(ids)
    hidden = {f"hidden {index}": state for index, state in enumerate(states.hidden)}
    projected = {} if states.projected is None else {"projected": states.projected}
    return {"last": states.last, "pooled": states.pooled, **projected, **hidden}


def text_theirs(network: nn.Module, *, ids: Tensor) -> Outputs:
    states = network(ids, output_hidden_states=True)
    hidden = {f"hidden {index}": state for index, state in enumerate(states.hidden_states)}
    if "text_embeds" not in states:
        return {"last": states.last_hidden_state, "pooled": states.pooler_output, **hidden}
    pooled = network.text_model(ids).pooler_output
    return {"last": states.last_hidden_state, "pooled": pooled, "projected": states.text_embeds, **hidden}


def image_reference(network: CLIPImage) -> CLIPVisionModelWithProjection:
    with init_empty_weights():
        reference = CLIPVisionModelWithProjection(CLIPVisionConfig(**clip_config.image_to_config(network.spec)))
    written = dict(clip_names.IMAGE_HF.write(network.state_dict(), network))
    buffers = {name: tensor for name, tensor in reference.state_dict().items() if name.endswith("position_ids")}
    reference.load_state_dict(written | buffers, assign=True)
    return reference.eval()


def image_inputs(spec: CLIPImageSpec) -> dict[str, Any]:
    return {"x": noise(2, 3, spec.size, spec.size)}


def image_ours(network: CLIPImage, *, x: Tensor) -> Outputs:
    states = network(x)
    hidden = {f"hidden {index}": state for index, state in enumerate(states.hidden)}
    return {"pooled": states.pooled, "projected": states.projected, **hidden}


def image_theirs(network: CLIPVisionModelWithProjection, *, x: Tensor) -> Outputs:
    states = network(x, output_hidden_states=True)
    hidden = {f"hidden {index}": state for index, state in enumerate(states.hidden_states)}
    return {"pooled": network.vision_model(x).pooler_output, "projected": states.image_embeds, **hidden}


KINDS: Mapping[type, Kind] = {
    UNetSpec: Kind(UNet, unet_reference, unet_inputs, unet_ours, unet_theirs),
    VAESpec: Kind(VAE, vae_reference, vae_inputs, vae_ours, vae_theirs),
    CLIPTextSpec: Kind(CLIPText, text_reference, text_inputs, text_ours, text_theirs),
    CLIPImageSpec: Kind(CLIPImage, image_reference, image_inputs, image_ours, image_theirs),
}


@torch.no_grad()
def compare(spec: Any, kinds: Mapping[type, Kind] = KINDS, **options: Any) -> dict[str, float]:
    """The relative error of each output of our network with random weights; `options` are those of its inputs."""
    kind = kinds[type(spec)]
    network = kind.randomise(kind.network(spec))
    inputs = kind.inputs(spec, **options)
    return errors(kind.ours(network, **inputs), kind.theirs(kind.reference(network), **inputs))
