"""ControlNet, T2I-Adapter and IP-Adapter against diffusers on the same random weights, alone and in the U-Net."""

from dataclasses import replace
from typing import Any

import pytest
import references as r
import torch
from accelerate import init_empty_weights
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers import T2IAdapter as TheirAdapter
from diffusers.loaders import single_file_utils
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.models import (
    controlnet_config,
    controlnet_names,
    ip_adapter_names,
    published,
    t2i_adapter_config,
    t2i_adapter_names,
)
from maquette.models.clip import ImageStates
from maquette.models.controlnet import ControlNet, ControlNetSpec
from maquette.models.ip_adapter import IPAdapter, IPAdapterSpec, ResamplerSpec, cross_attentions, looking_at
from maquette.models.t2i_adapter import T2IAdapter, T2IAdapterSpec
from maquette.models.unet import UNet
from maquette.weights.dialect import Dialect
from maquette.weights.view import InMemory

BOUND = 1e-5
SD1, SD2 = replace(r.SMALL_SD1, widths=(32, 64, 64, 64)), replace(r.SMALL_SD2, widths=(64, 64, 64, 64))
SDXL = replace(r.SMALL_SDXL, widths=(64, 64, 128), down=((0, 0), (1, 1), (2, 2)), middle=2)
SDXL = replace(SDXL, up=((2, 2, 2), (1, 1, 1), (0, 0, 0)))
SMALL = {"sd1": SD1, "sd2": SD2, "sdxl": SDXL}
# Made small as diffusers/controlnet-canny-sdxl-1.0-small was: nothing attends.
PLAIN = replace(SDXL, down=((0, 0),) * 3, middle=0, up=((0, 0, 0),) * 3)

FULL = T2IAdapterSpec(widths=SD1.widths)
GREY = replace(FULL, channels=1)
XL = T2IAdapterSpec(widths=(*SDXL.widths, SDXL.widths[-1]), factor=16, form="xl")
LIGHT = T2IAdapterSpec(widths=SD1.widths, blocks=4, form="light")
ADAPTERS = {"full": FULL, "grey": GREY, "xl": XL, "light": LIGHT}

RESAMPLER = ResamplerSpec(width=128, depth=4, heads=2, hidden=512)
FORMS = {
    "plain": {},
    "plus": {"reads": "patches", "tokens": 5, "resampler": RESAMPLER},
    "full": {"reads": "patches", "tokens": 0},
}


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def unet(name: str) -> UNet:
    network = r.randomise(UNet(SMALL[name]))
    assert isinstance(network, UNet)
    return network


def controlnet(spec: ControlNetSpec) -> ControlNet:
    network = r.randomise(ControlNet(spec), seed=3)
    assert isinstance(network, ControlNet)
    return network


def told(inputs: dict[str, Any], **more: Any) -> Conditioning:
    vector = None
    if inputs["pooled"] is not None:
        numbers = r.sinusoids(inputs["numbers"], 256).flatten(1)
        vector = torch.cat([inputs["pooled"], numbers], dim=1)
    return Conditioning(tokens=inputs["tokens"], vector=vector, **more)


def added(inputs: dict[str, Any]) -> dict[str, Any]:
    if inputs["pooled"] is None:
        return {}
    return {"added_cond_kwargs": {"text_embeds": inputs["pooled"], "time_ids": inputs["numbers"]}}


def picture(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(5))


def their_controlnet(network: ControlNet) -> ControlNetModel:
    with init_empty_weights():
        reference = ControlNetModel.from_config(controlnet_config.to_config(network.spec))
    written = controlnet_names.DIFFUSERS.write(network.state_dict(), network)
    reference.load_state_dict(dict(written), assign=True)
    return reference.eval()


@pytest.mark.parametrize("size", [(16, 16), (12, 10)], ids=["square", "oblong"])
@pytest.mark.parametrize("name", SMALL)
def test_controlnet_and_what_the_unet_makes_of_it(name: str, size: tuple[int, int]) -> None:
    network, hint = controlnet(ControlNetSpec(unet=SMALL[name])), picture(8 * size[0], 8 * size[1])
    inputs = r.unet_inputs(SMALL[name], size=size)
    x, t = inputs["x"], inputs["t"]
    residuals = network(x, t, told(inputs), network.read(hint))
    down, middle = their_controlnet(network)(
        x, t, inputs["tokens"], hint.expand(2, -1, -1, -1), return_dict=False, **added(inputs)
    )
    theirs = [*down, middle]
    assert len(residuals) == len(theirs)
    assert max(r.relative_error(ours, other) for ours, other in zip(residuals, theirs, strict=True)) < BOUND

    whole = unet(name)
    ours = whole(x, t, told(inputs, control=residuals))
    options = {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": middle}
    reference = r.unet_reference(whole)(x, t, inputs["tokens"], **options, **added(inputs)).sample
    assert r.relative_error(ours, reference) < BOUND
    assert r.relative_error(whole(x, t, told(inputs)), reference) > 0.01


def test_controlnet_that_tells_a_style() -> None:
    network = controlnet(ControlNetSpec(unet=SD1, pooled=True))
    inputs, hint = r.unet_inputs(SD1), picture(128, 128)
    residuals = network(inputs["x"], inputs["t"], told(inputs), network.read(hint))
    down, middle = their_controlnet(network)(
        inputs["x"], inputs["t"], inputs["tokens"], hint.expand(2, -1, -1, -1), return_dict=False
    )
    for ours, theirs in zip(residuals, [*down, middle], strict=True):
        assert r.relative_error(ours, theirs) < BOUND


def test_a_new_controlnet_changes_nothing() -> None:
    torch.manual_seed(0)
    whole, new, inputs = unet("sd1"), ControlNet(ControlNetSpec(unet=SD1)), r.unet_inputs(SD1)
    hint = new.read(picture(128, 128))
    residuals = new(inputs["x"], inputs["t"], told(inputs), hint)
    plain = whole(inputs["x"], inputs["t"], told(inputs))
    assert torch.equal(whole(inputs["x"], inputs["t"], told(inputs, control=residuals)), plain)
    with torch.enable_grad():
        new(inputs["x"], inputs["t"], told(inputs), hint)[0].sum().backward()
    assert new.skips[0].weight.grad.abs().sum() > 0  # but it can learn


@pytest.mark.parametrize("name", ["SD1_UNET", "SD2_UNET", "SDXL_UNET"])
def test_published_controlnets_are_of_diffusers_shapes(name: str) -> None:
    spec = ControlNetSpec(unet=getattr(published, name))
    with torch.device("meta"):
        network = ControlNet(spec)
    written = controlnet_names.DIFFUSERS.write(network.state_dict(), network)
    with init_empty_weights():
        reference = ControlNetModel.from_config(controlnet_config.to_config(spec)).state_dict()
    assert {each: written.shape(each) for each in written} == {each: tuple(t.shape) for each, t in reference.items()}
    if name == "SD1_UNET":
        assert sum(parameter.numel() for parameter in network.parameters()) == 361_279_120  # as published
    assert controlnet_names.DIFFUSERS.spec(written) == spec


def named(dialect: Dialect[Any, Any], network: nn.Module) -> dict[str, Tensor]:
    return dict(dialect.write(network.state_dict(), network))


@pytest.mark.parametrize("dialect", controlnet_names.DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("spec", [*SMALL.values(), PLAIN], ids=[*SMALL, "plain"])
def test_controlnet_names(spec: r.UNetSpec, dialect: Dialect[Any, Any]) -> None:
    network = controlnet(ControlNetSpec(unet=spec, channels=4, hint_widths=(16, 32, 64)))
    written = InMemory(named(dialect, network))
    found = dialect.spec(written)
    assert (found.channels, found.hint_widths, found.factor) == (4, (16, 32, 64), 4)
    expected = replace(spec, context=None, linear_projection=False, head_width=32) if spec is PLAIN else spec
    assert found.unet == expected
    read = dialect.read(written, network)
    assert all(torch.equal(read[name], tensor) for name, tensor in network.state_dict().items())
    with pytest.raises(MaquetteError, match="missing"):
        dialect.read(InMemory(dict(list(written.items())[1:])), network)


@pytest.mark.parametrize("name", SMALL)
def test_controlnet_config(name: str) -> None:
    spec = ControlNetSpec(unet=SMALL[name], channels=4, hint_widths=(16, 32), pooled=True)
    assert controlnet_config.from_config(controlnet_config.to_config(spec)) == spec
    with pytest.raises(MaquetteError, match="'controlnet_conditioning_channel_order' is 'bgr'"):
        controlnet_config.from_config(
            controlnet_config.to_config(spec) | {"controlnet_conditioning_channel_order": "bgr"}
        )


@pytest.mark.parametrize("name", SMALL)
def test_controlnet_names_agree_with_diffusers_converter(name: str) -> None:
    """Of SDXL's it loses the four tensors that read the vector (checked in 0.42); with them it agrees."""
    network = controlnet(ControlNetSpec(unet=SMALL[name]))
    written = {f"control_model.{theirs}": t for theirs, t in named(controlnet_names.ORIGINAL, network).items()}
    converted = single_file_utils.convert_controlnet_checkpoint(written, controlnet_config.to_config(network.spec))
    expected = named(controlnet_names.DIFFUSERS, network)
    lost = {each for each in expected if each.startswith("add_embedding.")}
    assert expected.keys() - converted.keys() == lost
    assert len(lost) == (4 if name == "sdxl" else 0)
    assert all(torch.equal(converted[each], expected[each]) for each in converted)


def their_adapter(network: T2IAdapter) -> TheirAdapter:
    reference = TheirAdapter.from_config(t2i_adapter_config.to_config(network.spec))
    reference.load_state_dict(named(t2i_adapter_names.DIFFUSERS, network))
    return reference.eval()


@pytest.mark.parametrize("name", ADAPTERS)
def test_t2i_adapter_and_what_the_unet_makes_of_it(name: str) -> None:
    spec = ADAPTERS[name]
    network = r.randomise(T2IAdapter(spec), seed=4)
    size = (12, 10)  # latents of odd sides at the lowest resolutions
    hint = picture(96, 80, spec.channels)
    ours, theirs = network(hint), their_adapter(network)(hint)
    assert len(ours) == len(theirs) == len(spec.widths)
    assert max(r.relative_error(mine, other) for mine, other in zip(ours, theirs, strict=True)) < BOUND

    of = "sdxl" if name == "xl" else "sd1"
    whole, inputs = unet(of), r.unet_inputs(SMALL[of], size=size)
    x, t = inputs["x"], inputs["t"]
    small = [0.02 * feature.expand(2, -1, -1, -1) / feature.std() for feature in theirs]  # as large as the stream
    answer = whole(x, t, told(inputs, features=tuple(small)))
    options = {"down_intrablock_additional_residuals": [feature.clone() for feature in small]}
    reference = r.unet_reference(whole)(x, t, inputs["tokens"], **options, **added(inputs)).sample
    assert r.relative_error(answer, reference) < BOUND
    assert r.relative_error(whole(x, t, told(inputs)), reference) > 0.01


@pytest.mark.parametrize("name", ADAPTERS)
def test_t2i_adapter_names(name: str) -> None:
    network = r.randomise(T2IAdapter(ADAPTERS[name]), seed=4)
    assert t2i_adapter_config.from_config(t2i_adapter_config.to_config(network.spec)) == network.spec
    for dialect in t2i_adapter_names.DIALECTS:
        written = InMemory(named(dialect, network))
        marked = all(mark in written for mark in dialect.marks)
        assert marked == (dialect.name in ("diffusers", "original light" if name == "light" else "original"))
        assert dialect.spec(written) == network.spec
        read = dialect.read(written, network)
        assert all(torch.equal(read[each], tensor) for each, tensor in network.state_dict().items())


def adapter_for(network: UNet, form: str) -> IPAdapter:
    widths = tuple(module.q.out_features for module in cross_attentions(network))
    context = network.spec.context
    assert context is not None
    adapter = r.randomise(IPAdapter(IPAdapterSpec(widths=widths, context=context, image=48, **FORMS[form])), seed=6)
    assert isinstance(adapter, IPAdapter)
    return adapter


def with_adapter(network: UNet, adapter: IPAdapter) -> UNet2DConditionModel:
    """diffusers' U-Net with the adapter loaded as its own loader does it."""
    file: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in named(ip_adapter_names.ORIGINAL, adapter).items():
        part, _, rest = name.partition(".")
        file[part][rest] = tensor
    reference = r.unet_reference(network)
    reference._load_ip_adapter_weights([file])
    for processor in reference.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.7]
    return reference.eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_ip_adapter_in_the_unet(name: str, form: str) -> None:
    network, inputs = unet(name), r.unet_inputs(SMALL[name])
    adapter = adapter_for(network, form)
    x, t, conditioning = inputs["x"], inputs["t"], told(inputs)
    seen = r.noise(2, 48, seed=8) if form == "plain" else r.noise(2, 7, 48, seed=8)
    plain = network(x, t, conditioning)
    with looking_at(network, adapter(seen), 0.7):
        ours = network(x, t, conditioning)
    more = added(inputs).get("added_cond_kwargs", {})
    theirs = with_adapter(network, adapter)(
        x, t, inputs["tokens"], added_cond_kwargs={**more, "image_embeds": [seen[:, None]]}
    ).sample
    assert r.relative_error(ours, theirs) < BOUND
    assert r.relative_error(plain, theirs) > 0.01
    assert torch.equal(network(x, t, conditioning), plain)  # nothing of it stays


@pytest.mark.parametrize("form", FORMS)
def test_ip_adapter_names(form: str) -> None:
    adapter = adapter_for(unet("sd1"), form)
    written = InMemory(named(ip_adapter_names.ORIGINAL, adapter))
    assert ip_adapter_names.ORIGINAL.spec(written) == adapter.spec
    read = ip_adapter_names.ORIGINAL.read(written, adapter)
    assert all(torch.equal(read[each], tensor) for each, tensor in adapter.state_dict().items())


def test_ip_adapter_reads_the_right_states() -> None:
    states = ImageStates((torch.zeros(1), torch.ones(1), torch.zeros(1)), torch.zeros(1), torch.full((1,), 2.0))
    network = unet("sd1")
    assert adapter_for(network, "plain").read(states) is states.projected
    assert adapter_for(network, "plus").read(states) is states.hidden[1]


def test_ip_adapter_of_faces_is_refused() -> None:
    names = dict(named(ip_adapter_names.ORIGINAL, adapter_for(unet("sd1"), "plain")))
    names["image_proj.proj.0.weight"] = names.pop("image_proj.proj.weight")
    with pytest.raises(MaquetteError, match="something else than CLIP's image tower"):
        ip_adapter_names.ORIGINAL.spec(InMemory(names))
