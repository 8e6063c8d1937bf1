"""Names of published layouts: complete for every spec, undone exactly, and the spec read back from them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import references as r
import torch
from diffusers.loaders import single_file_utils
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from maquette.errors import MaquetteError
from maquette.models import clip_config, clip_names, published, unet_config, unet_names, vae_config, vae_names
from maquette.weights.dialect import Dialect, recognise
from maquette.weights.lora import read_lora, with_lora
from maquette.weights.view import InMemory

DIALECTS: dict[type, tuple[Dialect[Any, Any], ...]] = {
    r.UNetSpec: unet_names.DIALECTS,
    r.VAESpec: vae_names.DIALECTS,
    r.CLIPTextSpec: clip_names.TEXT_DIALECTS,
    r.CLIPImageSpec: clip_names.IMAGE_DIALECTS,
}

# Tensors in each layout, and parameters: as published.
COUNTS = {
    "SD1_UNET": ((686, 686), 859_520_964),
    "SD2_UNET": ((686, 686), 865_910_724),
    "SDXL_UNET": ((1680, 1680), 2_567_463_684),
    "SDXL_REFINER_UNET": ((1220, 1220), 2_259_526_660),
    "SD_VAE": ((248, 248, 248, 248), 83_653_863),
    "SD3_VAE": ((244, 244, 244, 244), 83_819_683),
    "CLIP_L_TEXT": ((196, 196, 148, 148), 123_060_480),
    "OPEN_CLIP_H_TEXT": ((389, 389, 293, 293), 354_032_641 - 1),  # without logit_scale
    "OPEN_CLIP_G_TEXT": ((517, 517, 389, 389), 694_659_841 - 1),
    "CLIP_L_IMAGE": ((392, 392 - 4 * 24), 303_966_208),
}

SPECS = {
    **{name.removesuffix("_UNET").lower(): its for name, its in vars(published).items() if type(its) in DIALECTS},
    **{name.lower(): getattr(r, name) for name in dir(r) if name.startswith(("SMALL_", "MINI_"))},
}


def outline(spec: Any) -> nn.Module:
    """The network without its data."""
    with torch.device("meta"):
        return r.KINDS[type(spec)].network(spec)


@pytest.mark.parametrize("name", COUNTS)
def test_published_counts(name: str) -> None:
    spec = getattr(published, name)
    network = outline(spec)
    tensors, parameters = COUNTS[name]
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert tuple(len(dialect.write(network.state_dict(), network)) for dialect in DIALECTS[type(spec)]) == tensors


@pytest.mark.parametrize("name", SPECS.keys() - {"mini_vae", "ddpm_cifar", "ddpm_256"})  # the last: test_unet2d.py
def test_spec_is_read_back(name: str) -> None:
    spec = SPECS[name]
    network = outline(spec)
    for dialect in DIALECTS[type(spec)]:
        written = dialect.write(network.state_dict(), network)
        if dialect is clip_names.TEXT_OPEN_CLIP_MIXED and spec.projection is None:
            dialect = clip_names.TEXT_OPEN_CLIP  # they differ in the projection alone
        assert recognise(written, DIALECTS[type(spec)]) is dialect
        found = dialect.spec(written)
        if name == "mini_unet":  # heads of 64 behind convolutions: shapes cannot tell
            assert (found.heads, found.head_width) == (8, None)
            found = replace(found, heads=None, head_width=64)
        if isinstance(spec, r.CLIPTextSpec | r.CLIPImageSpec):
            found = replace(found, activation=spec.activation)
        assert found == spec


def test_activation_is_told_by_layout_and_width() -> None:
    for spec in (published.CLIP_L_TEXT, published.OPEN_CLIP_H_TEXT, published.OPEN_CLIP_G_TEXT):
        network = outline(spec)
        for dialect in (clip_names.TEXT_HF, clip_names.TEXT_HF_FLAT):
            assert dialect.spec(dialect.write(network.state_dict(), network)).activation == spec.activation
        open_clip = clip_names.TEXT_OPEN_CLIP.write(network.state_dict(), network)
        assert clip_names.text_spec_from_weights(open_clip).activation == "gelu"


def test_small_groups_need_the_config() -> None:
    network = outline(r.MINI_VAE)
    for dialect in vae_names.DIALECTS:
        with pytest.raises(MaquetteError, match=r"32 groups .* give the config\.json"):
            dialect.spec(dialect.write(network.state_dict(), network))


SMALL = {name: spec for name, spec in SPECS.items() if name.startswith(("small_", "mini_"))}


@pytest.mark.parametrize("name", SMALL)
def test_reading_undoes_writing(name: str) -> None:
    network = r.randomise(r.KINDS[type(SMALL[name])].network(SMALL[name])).to(torch.bfloat16)
    ours = network.state_dict()
    for dialect in DIALECTS[type(SMALL[name])]:
        written = dialect.write(ours, network)
        stored = {theirs: written[theirs].clone() for theirs in written}
        for theirs, tensor in stored.items():
            assert (written.shape(theirs), written.dtype(theirs)) == (tuple(tensor.shape), tensor.dtype)
        read = dialect.read(InMemory(stored), network)
        assert set(read) == set(ours)
        for ours_name, tensor in ours.items():
            assert torch.equal(read[ours_name], tensor)
            assert (read.shape(ours_name), read.dtype(ours_name)) == (tuple(tensor.shape), tensor.dtype)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("name", ["small_sd1", "small_sd2", "small_sdxl", "small_refiner", "small_inpaint"])
def test_unet_names_agree_with_diffusers_converter(name: str) -> None:
    network = r.randomise(r.UNet(SPECS[name]))
    prefix = "model.diffusion_model."
    written = unet_names.ORIGINAL.write(network.state_dict(), network)
    converted = single_file_utils.convert_ldm_unet_checkpoint(
        {prefix + theirs: tensor for theirs, tensor in written.items()}, unet_config.to_config(network.spec)
    )
    assert_same(converted, dict(unet_names.DIFFUSERS.write(network.state_dict(), network)))


@pytest.mark.parametrize("name", ["small_vae", "small_vae_16"])
def test_vae_names_agree_with_diffusers_converter(name: str) -> None:
    network = r.randomise(r.VAE(SPECS[name]))
    written = vae_names.ORIGINAL.write(network.state_dict(), network)
    converted = single_file_utils.convert_ldm_vae_checkpoint(
        {"first_stage_model." + theirs: tensor for theirs, tensor in written.items()},
        vae_config.to_config(vae_config.VAEConfig(network.spec)),
    )
    assert_same(converted, dict(vae_names.DIFFUSERS.write(network.state_dict(), network)))


def test_open_clip_names_agree_with_diffusers_converter() -> None:
    network = r.randomise(r.CLIPText(r.SMALL_OPEN_CLIP))
    reference = CLIPTextModelWithProjection(CLIPTextConfig(**clip_config.text_to_config(network.spec)))
    written = clip_names.TEXT_OPEN_CLIP.write(network.state_dict(), network)
    prefix = "conditioner.embedders.1.model."
    converted = single_file_utils.convert_open_clip_checkpoint(
        reference, {prefix + theirs: tensor for theirs, tensor in written.items()}, prefix
    )
    assert_same(converted, dict(clip_names.TEXT_HF.write(network.state_dict(), network)))


def test_stored_ranks_may_differ() -> None:
    """1 x 1 convolutions stored as matrices, and matrices stored as 1 x 1 convolutions, are the same weights."""
    network = r.randomise(r.VAE(r.MINI_VAE))
    for dialect, rank in ((vae_names.ORIGINAL, 2), (vae_names.DIFFUSERS, 4)):
        written = dict(dialect.write(network.state_dict(), network))
        attention = [name for name in written if ".attn" in name or "attentions" in name]
        for name in (name for name in attention if name.endswith("weight") and "norm" not in name):
            written[name] = written[name].flatten(1) if rank == 2 else written[name].flatten(1)[:, :, None, None]
        assert_same(dict(dialect.read(InMemory(written), network)), network.state_dict())


def test_extra_tensors_that_do_not_matter() -> None:
    network = r.randomise(r.CLIPText(r.SMALL_OPEN_CLIP))
    extra = {"logit_scale": torch.ones(()), "text_model.embeddings.position_ids": torch.arange(20)[None]}
    for dialect in clip_names.TEXT_DIALECTS:
        written = dict(dialect.write(network.state_dict(), network))
        assert_same(dict(dialect.read(InMemory(written | extra), network)), network.state_dict())
        with pytest.raises(MaquetteError, match=r"1 unknown \(stranger\)"):
            dialect.read(InMemory(written | {"stranger": torch.ones(1)}), network)


def test_wrong_spec_is_an_error() -> None:
    network = outline(r.SMALL_SD1)
    written = unet_names.ORIGINAL.write(network.state_dict(), network)
    with pytest.raises(MaquetteError, match=r"'conv_in\.weight' of shape \(64, 9, 3, 3\), the file of \(64, 4, 3, 3\)"):
        unet_names.ORIGINAL.read(written, outline(r.SMALL_INPAINT))
    with pytest.raises(MaquetteError, match=r"missing \(label_emb\.0\.0\.weight, .*unknown"):
        unet_names.ORIGINAL.read(written, outline(r.SMALL_SDXL))


@pytest.mark.parametrize(
    "damage",
    [
        lambda names: names.pop("input_blocks.0.0.weight"),
        lambda names: [names.pop(name) for name in list(names) if name.startswith("output_blocks.5")],
        lambda names: names.update({"input_blocks.0.0.weight": torch.ones(3)}),
        lambda names: names.update({"input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": torch.ones(3)}),
        lambda names: names.update({"input_blocks.1.0.out_layers.3.weight": torch.ones(5, 1)}),
    ],
    ids=["no first layer", "cut short", "first layer of one dimension", "context of none", "odd width"],
)
def test_damaged_names_are_refused(damage: Callable[[dict[str, torch.Tensor]], object]) -> None:
    network = outline(r.SMALL_SD1)
    names = dict(unet_names.ORIGINAL.write(network.state_dict(), network))
    damage(names)
    with pytest.raises(MaquetteError):
        unet_names.ORIGINAL.read(InMemory(names), outline(unet_names.spec_from_weights(InMemory(names))))


LORA_MODULES = [
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_k",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "mid_block.attentions.0.proj_in",
    "up_blocks.0.resnets.2.conv1",
    "down_blocks.1.downsamplers.0.conv",
]


@pytest.mark.parametrize("dialect", unet_names.DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("spelling", ["dotted", "bare", "kohya"])
def test_lora_finds_its_rows(dialect: Dialect[Any, Any], spelling: str) -> None:
    """Merging through the targets is the same as adding to the dialect's own tensors and reading those."""
    network = r.randomise(r.UNet(r.SMALL_SD1))
    theirs = dict(dialect.write(network.state_dict(), network))
    in_diffusers = unet_names.DIFFUSERS.write(network.state_dict(), network)
    lora = {}
    for seed, module in enumerate(LORA_MODULES):
        position = list(in_diffusers).index(f"{module}.weight")
        name = list(theirs)[position].removesuffix(".weight")  # both tables are in the order of ours
        weight = theirs[f"{name}.weight"]
        up = r.noise(len(weight), 3, *[1] * (weight.ndim - 2), seed=seed)
        down = r.noise(3, *weight.shape[1:], seed=seed + 10)
        theirs[f"{name}.weight"] = weight + (up.flatten(1) @ down.flatten(1)).view_as(weight)
        match spelling:
            case "kohya":
                key = f"lora_unet_{name.replace('.', '_')}.lora_{{}}.weight"
            case "dotted":
                key = f"unet.{name}.lora_{{}}.weight"
            case _:
                key = f"base_model.model.{name}.lora_{{}}.weight"
        words = ("up", "down") if spelling == "kohya" else ("B", "A")
        lora |= {key.format(words[0]): up, key.format(words[1]): down}
    merged = with_lora(InMemory(network.state_dict()), [read_lora(InMemory(lora))], unet_names.lora_targets(network))
    assert merged.reports[0].unmatched == ()
    expected = dialect.read(InMemory(theirs), network)
    assert len(merged.changed) == len(LORA_MODULES)
    for name in expected:
        torch.testing.assert_close(merged[name], expected[name])


@pytest.mark.parametrize("root", ["lora_te_", "lora_te1_", "text_encoder.", "base_model.model."])
def test_lora_of_text_speaks_transformers_names(root: str) -> None:
    network = r.randomise(r.CLIPText(r.SMALL_OPEN_CLIP))
    module = "text_model.encoder.layers.1.self_attn.v_proj"
    up, down = r.noise(128, 2), r.noise(2, 128, seed=2)
    if root.endswith("_"):
        names = [f"{root}{module.replace('.', '_')}.lora_{part}.weight" for part in ("up", "down")]
    else:
        names = [f"{root}{module}.lora_{part}.weight" for part in "BA"]
    lora = read_lora(InMemory({names[0]: up, names[1]: down}))
    merged = with_lora(InMemory(network.state_dict()), [lora], clip_names.text_lora_targets(network))
    assert merged.changed == {"layers.1.attention.qkv.weight"}
    delta = merged["layers.1.attention.qkv.weight"] - network.state_dict()["layers.1.attention.qkv.weight"]
    torch.testing.assert_close(delta[256:], up @ down)
    assert not delta[:256].any()
