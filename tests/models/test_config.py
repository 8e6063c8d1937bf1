"""config.json of diffusers and transformers: our specs and theirs are the same, and nothing else is let through."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import references as r
from diffusers import AutoencoderKL, UNet2DConditionModel

from maquette.errors import MaquetteError
from maquette.models import (
    bert_config,
    clip_config,
    dit_config,
    flux_config,
    mmdit_config,
    published,
    t2i_adapter_config,
    t5_config,
    transformer_controlnet_config,
    unet2d_config,
    unet_config,
    vae_config,
)

UNETS = {name: getattr(published, name) for name in dir(published) if name.endswith("_UNET")}
UNETS = {name: spec for name, spec in UNETS.items() if spec.context is not None}  # the others: test_unet2d.py
UNETS |= {name: getattr(r, name) for name in dir(r) if isinstance(getattr(r, name), r.UNetSpec)}

# As the published folders have them, shortened to what is not the default.
SD1 = {"cross_attention_dim": 768, "block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": 8}
SD2 = {**SD1, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
SDXL = {
    **SD2,
    "cross_attention_dim": 2048,
    "block_out_channels": [320, 640, 1280],
    "attention_head_dim": [5, 10, 20],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = {
    **SDXL,
    "cross_attention_dim": 1280,
    "block_out_channels": [384, 768, 1536, 1536],
    "attention_head_dim": [6, 12, 24, 24],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": 4,
    "projection_class_embeddings_input_dim": 2560,
}
SSD_1B = {
    **SDXL,
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": [0, [2, 2], [4, 4]],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
}
PUBLISHED = {
    "SD1_UNET": SD1,
    "SD2_UNET": SD2,
    "SDXL_UNET": SDXL,
    "SDXL_REFINER_UNET": REFINER,
    "SSD_1B_UNET": SSD_1B,
}


def diffusers_defaults(cls: Any) -> dict[str, Any]:
    """All options of a reference's constructor with their values, as its `save_config` writes them."""
    return dict(cls().config) if cls is AutoencoderKL else dict(cls(block_out_channels=(32, 32, 32, 32)).config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_unet_configs(name: str) -> None:
    options = diffusers_defaults(UNet2DConditionModel) | PUBLISHED[name]
    assert unet_config.from_config(options) == getattr(published, name)


@pytest.mark.parametrize("name", UNETS)
def test_unet_config_is_read_back(name: str) -> None:
    assert unet_config.from_config(unet_config.to_config(UNETS[name], sample_size=8)) == UNETS[name]


@pytest.mark.parametrize(
    "spec",
    [
        replace(published.SD1_UNET, up=(*published.SD1_UNET.up[:-1], (1, 1))),
        replace(published.SD1_UNET, down=((0, 1), (1, 1), (1, 1), (0, 0))),
        replace(published.SDXL_UNET, middle=3),
    ],
    ids=["one block fewer", "attention behind one block of two", "middle of another depth"],
)
def test_unets_that_diffusers_cannot_make(spec: r.UNetSpec) -> None:
    with pytest.raises(MaquetteError):
        unet_config.to_config(spec)


@pytest.mark.parametrize(
    "option",
    [
        {"act_fn": "gelu"},
        {"norm_eps": 1e-6},
        {"time_cond_proj_dim": "wide"},
        {"class_embed_type": "projection"},
        {"only_cross_attention": [True, True, True, False]},
        {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
        {"down_block_types": ["DownBlock2D"]},
        {"down_block_types": ["AttnDownBlock2D"] * 4},
        {"attention_head_dim": [5, 10, 10, 20]},
        {"attention_head_dim": 0},
        {"block_out_channels": "wide"},
        {"block_out_channels": []},
        {"layers_per_block": [2, 2]},
        {"layers_per_block": True},
        {"cross_attention_dim": [768, 768, 768, 1024]},
        {"transformer_layers_per_block": [1, [1, 1, 1], 1, 1]},
        {"transformer_layers_per_block": [1, -1, 1, 1]},
        {"addition_embed_type": "image"},
        {"addition_embed_type": "text_time", "addition_time_embed_dim": 128},
        {"use_linear_projection": "yes"},
        {"magic": 3},
    ],
    ids=str,
)
def test_refused_unet_options(option: dict[str, Any]) -> None:
    with pytest.raises(MaquetteError, match=f"here: '{list(option)[-1]}|here: '{next(iter(option))}"):
        unet_config.from_config(diffusers_defaults(UNet2DConditionModel) | SD1 | option, "here")


VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
VAE |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
VAE_16 = {**VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}


def test_vae_config() -> None:
    defaults = diffusers_defaults(AutoencoderKL)
    sd = vae_config.from_config(defaults | VAE)
    assert sd == vae_config.VAEConfig(published.SD_VAE, 0.18215, 0.0, True)
    sd3 = vae_config.from_config(defaults | VAE_16 | {"scaling_factor": 1.5305, "shift_factor": 0.0609})
    assert sd3 == vae_config.VAEConfig(published.SD3_VAE, 1.5305, 0.0609, True)
    means = {"latents_mean": [-1.0, 0.0, 2.0, 3.0], "latents_std": [8.0, 4.0, 2.0, 1.0], "scaling_factor": 0.5}
    playground = vae_config.from_config(defaults | VAE | means)
    assert (playground.scale, playground.shift) == ((1 / 16, 1 / 8, 1 / 4, 1 / 2), (-1.0, 0.0, 2.0, 3.0))
    for config in (sd, sd3, playground, vae_config.VAEConfig(r.MINI_VAE, 0.7, 0.1, False)):
        assert vae_config.from_config(vae_config.to_config(config, sample_size=64)) == config


@pytest.mark.parametrize(
    "option",
    [
        {"latents_mean": [0.0] * 4},
        {"latents_std": [1.0] * 3, "latents_mean": [0.0] * 4},
        {"latents_std": [1.0, 0.0, 1.0, 1.0], "latents_mean": [0.0] * 4},
        {"use_post_quant_conv": False},
        {"mid_block_add_attention": 3},
        {"down_block_types": ["DownEncoderBlock2D"] * 3},
        {"out_channels": 4},
        {"scaling_factor": "0.18"},
    ],
    ids=str,
)
def test_refused_vae_options(option: dict[str, Any]) -> None:
    with pytest.raises(MaquetteError, match=f"here: '{next(iter(option))}'"):
        vae_config.from_config(VAE | option, "here")


# As published: the end-of-text id of CLIP-L is wrong there, and means the largest id.
CLIP_L = {"architectures": ["CLIPTextModel"], "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
CLIP_L |= {"eos_token_id": 2, "projection_dim": 768, "hidden_act": "quick_gelu"}
CLIP_G = {"architectures": ["CLIPTextModelWithProjection"], "hidden_size": 1280, "num_attention_heads": 20}
CLIP_G |= {"num_hidden_layers": 32, "intermediate_size": 5120, "projection_dim": 1280, "hidden_act": "gelu"}


def test_clip_configs() -> None:
    assert clip_config.text_from_config(CLIP_L) == published.CLIP_L_TEXT
    assert clip_config.text_from_config(CLIP_G) == published.OPEN_CLIP_G_TEXT
    whole = {"architectures": ["CLIPModel"], "projection_dim": 768, "text_config": CLIP_L}
    whole["vision_config"] = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "patch_size": 14,
    }
    assert clip_config.text_from_config(whole) == replace(published.CLIP_L_TEXT, projection=768)
    assert clip_config.image_from_config(whole) == published.CLIP_L_IMAGE
    for text in (published.CLIP_L_TEXT, published.OPEN_CLIP_H_TEXT, r.MINI_CLIP):
        assert clip_config.text_from_config(clip_config.text_to_config(text)) == text
    for image in (published.CLIP_L_IMAGE, published.OPEN_CLIP_G_IMAGE, r.SMALL_IMAGE):
        assert clip_config.image_from_config(clip_config.image_to_config(image)) == image


@pytest.mark.parametrize(
    "option",
    [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-6}, {"architectures": 3}, {"eos_token_id": [1, 2]}],
    ids=str,
)
def test_refused_clip_options(option: dict[str, Any]) -> None:
    with pytest.raises(MaquetteError, match=f"here: '{next(iter(option))}'"):
        clip_config.text_from_config(CLIP_L | option, "here")


def test_end_of_text_id_that_transformers_would_misread() -> None:
    with pytest.raises(MaquetteError, match="largest id"):
        clip_config.text_to_config(replace(r.MINI_CLIP, end=2))


def test_what_a_moving_average_leaves_in_a_config_changes_nothing() -> None:
    """As in the published folder of SDXL for inpainting."""
    left = {
        "decay": 0.9999,
        "inv_gamma": 1.0,
        "min_decay": 0.0,
        "optimization_step": 37000,
        "power": 0.6666666666666666,
    }
    left |= {"update_after_step": 0, "use_ema_warmup": False}
    options = unet_config.to_config(published.SDXL_UNET)
    assert unet_config.from_config({**options, **left}) == published.SDXL_UNET


BOUNDED: dict[Callable[..., Any], dict[str, Any]] = {  # what else each needs to be told
    unet_config.from_config: unet_config.to_config(published.SD1_UNET),
    unet2d_config.from_config: unet2d_config.to_config(published.DDPM_CIFAR_UNET),
    vae_config.from_config: VAE,
    t5_config.from_config: t5_config.to_config(published.T5_XXL),
    mmdit_config.from_config: mmdit_config.to_config(published.SD3_MEDIUM),
    t2i_adapter_config.from_config: {"channels": [320, 640]},
}


@pytest.mark.parametrize(
    ("read", "option"),
    [
        (unet_config.from_config, {"layers_per_block": 10**9}),
        (unet_config.from_config, {"layers_per_block": 200, "transformer_layers_per_block": 10}),
        (unet_config.from_config, {"transformer_layers_per_block": 10**9}),
        (unet_config.from_config, {"block_out_channels": [32] * 17}),
        (unet2d_config.from_config, {"layers_per_block": 10**9}),
        (vae_config.from_config, {"layers_per_block": 10**9}),
        (clip_config.text_from_config, {"num_hidden_layers": 10**9}),
        (clip_config.image_from_config, {"num_hidden_layers": 10**9}),
        (t5_config.from_config, {"num_layers": 10**9}),
        (bert_config.from_config, {"encoder_layers": 10**9}),
        (dit_config.from_config, {"num_layers": 10**9}),
        (mmdit_config.from_config, {"num_layers": 10**9}),
        (flux_config.from_config, {"num_layers": 10**9}),
        (flux_config.from_config, {"num_single_layers": 10**9}),
        (transformer_controlnet_config.flux_from_config, {"num_single_layers": 10**9}),
        (t2i_adapter_config.from_config, {"num_res_blocks": 10**9}),
        (t2i_adapter_config.from_config, {"channels": [32] * 17}),
    ],
    ids=lambda each: each.__module__.rpartition(".")[2] if callable(each) else str(each),
)
def test_no_options_ask_for_endless_networks(read: Callable[..., Any], option: dict[str, Any]) -> None:
    """Before anything of that size is made, so that this takes no time."""
    valid = BOUNDED.get(read, {})
    read(valid)
    with pytest.raises(MaquetteError, match=f"^here: '{list(option)[-1]}' is .{{0,300}}; use another model$"):
        read(valid | option, "here")
