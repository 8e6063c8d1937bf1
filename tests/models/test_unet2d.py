"""U-Nets without a context: latent diffusion's unconditional ones and those of pixels, compared with diffusers'."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from references import noise, randomise, relative_error

from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.models import published, unet_names
from maquette.models.unet import UNet, UNetSpec
from maquette.models.unet2d_config import from_config, to_config
from maquette.weights.view import InMemory

LDM = UNetSpec(
    in_channels=3,
    out_channels=3,
    widths=(32, 64),
    down=((0,), (1,)),
    up=((1, 1), (0, 0)),
    context=None,
    head_width=32,
)
DDPM = replace(LDM, head_width=None, heads=1, details="ddpm", down=((1,), (0,)), up=((0, 0), (1, 1)))
ADM = replace(LDM, widths=(32, 32, 64), down=((1, 1), (0, 0), (0, 0)), up=((0,) * 3, (0,) * 3, (1,) * 3), details="adm")
SPECS = {"ldm": LDM, "ddpm": DDPM, "adm": ADM}
DIALECTS = {"original": unet_names.ORIGINAL, "old": unet_names.DIFFUSERS_OLD, "diffusers": unet_names.DIFFUSERS}


def reference(network: UNet) -> UNet2DModel:
    model = UNet2DModel.from_config(to_config(network.spec))
    model.load_state_dict(dict(unet_names.DIFFUSERS.write(network.state_dict(), network)), assign=True)
    return model.eval()


@pytest.mark.parametrize("size", [(16, 16), (12, 20)], ids=str)
@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_diffusers_gives_the_same(name: str, size: tuple[int, int]) -> None:
    network = randomise(UNet(SPECS[name])).double()  # norms of one channel each magnify the rounding of float32
    x, t = noise(2, 3, *size).double(), torch.tensor([3.0, 961.0])
    assert relative_error(network(x, t, Conditioning()), reference(network)(x, t).sample) <= 1e-5


PUBLISHED = {
    "LDM_UNET": 274_056_163,
    "DDPM_CIFAR_UNET": 35_746_307,
    "DDPM_256_UNET": 113_673_219,
    "LDM_CHURCHES_UNET": 294_966_916,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes(name: str) -> None:
    spec: UNetSpec = getattr(published, name)
    with torch.device("meta"):
        network = UNet(spec)
        config = to_config(replace(spec, heads=None, head_width=8) if (spec.heads or 1) > 1 else spec)
        theirs = UNet2DModel.from_config(config).state_dict()
    written = unet_names.DIFFUSERS.write(network.state_dict(), network)
    assert {key: written.shape(key) for key in written} == {key: tuple(each.shape) for key, each in theirs.items()}
    assert sum(each.numel() for each in network.parameters()) == PUBLISHED[name]
    for dialect in DIALECTS.values():
        found = dialect.spec(dialect.write(network.state_dict(), network))
        if spec.details == "ddpm":  # neither details nor heads show in shapes
            found = replace(found, details="ddpm", heads=1, head_width=None)
        assert found == spec


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", SPECS)
def test_names_go_there_and_back(name: str, dialect: str) -> None:
    network = randomise(UNet(SPECS[name]))
    theirs = dict(DIALECTS[dialect].write(network.state_dict(), network))
    assert all(mark in theirs for mark in DIALECTS[dialect].marks)
    back = DIALECTS[dialect].read(InMemory(theirs), network)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, back[key]), key


@pytest.mark.parametrize(
    "spec", [published.LDM_IMAGENET_F4_UNET, published.LDM_IMAGENET_F8_UNET, published.LDM_TEXT_UNET], ids=str
)
def test_heads_of_published_networks_with_a_context(spec: UNetSpec) -> None:
    with torch.device("meta"):
        network = UNet(spec)
    for dialect in unet_names.DIALECTS:
        assert dialect.spec(dialect.write(network.state_dict(), network)) == spec


@torch.no_grad()
def test_the_original_attention_divides_heads_before_queries_and_keys() -> None:
    """As latent-diffusion computes it from the one tensor that its files hold (a product over channels and places)."""
    network = randomise(UNet(replace(LDM, head_width=16)))
    at = "middle_block.1"
    theirs = unet_names.ORIGINAL.write(network.state_dict(), network)
    block = network.middle[0].transformer
    x = noise(2, 64, 4, 4)
    tokens = block.norm(x).flatten(2)  # (B, C, places)
    qkv = torch.nn.functional.conv1d(tokens, theirs[f"{at}.qkv.weight"], theirs[f"{at}.qkv.bias"])
    q, k, v = qkv.reshape(2 * 4, 3 * 16, 16).split(16, dim=1)  # 4 heads of 16
    seen = torch.einsum("bts,bcs->bct", torch.einsum("bct,bcs->bts", q, k).div(16**0.5).softmax(-1), v).reshape(
        2, 64, 16
    )
    out = torch.nn.functional.conv1d(seen, theirs[f"{at}.proj_out.weight"], theirs[f"{at}.proj_out.bias"])
    assert relative_error(block(x), x + out.unflatten(2, (4, 4))) <= 1e-6


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"freq_shift": 1}, "freq_shift"),
        ({"norm_eps": 1e-6}, "norm_eps"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"num_class_embeds": 10}, "num_class_embeds"),
        ({"down_block_types": ["SkipDownBlock2D"] * 2}, "down_block_types"),
        ({"add_attention": False}, "add_attention"),
        ({"attn_norm_num_groups": 16}, "attn_norm_num_groups"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"magic": 3}, "magic"),
    ],
    ids=str,
)
def test_refused_options(option: dict[str, Any], named: str) -> None:
    with pytest.raises(MaquetteError, match=f"here: '{named}'"):
        from_config(to_config(LDM) | option, "here")


def test_configs_are_read_with_diffusers_defaults() -> None:
    options = {"block_out_channels": [32, 64], "layers_per_block": 1}
    kinds = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
    theirs = dict(UNet2DModel(**options, **kinds).config)
    assert from_config(theirs) == replace(LDM, head_width=8) == from_config(options | kinds)
    for spec in SPECS.values():
        assert from_config(to_config(spec, sample_size=8)) == spec
    with pytest.raises(MaquetteError, match="no options for"):
        to_config(replace(LDM, head_width=None, heads=8))
