"""ControlNets for SD3 and FLUX.1 against diffusers on the same random weights, alone and in the transformer."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformer_references as t
from accelerate import init_empty_weights
from diffusers import FluxControlNetModel, FluxPipeline, SD3ControlNetModel
from references import noise, relative_error
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.models import transformer_controlnet_config as config
from maquette.models import transformer_controlnet_names as names
from maquette.models.flux import Flux, FluxSpec
from maquette.models.mmdit import MMDiT, MMDiTSpec
from maquette.models.transformer_controlnet import (
    FluxControlNet,
    FluxControlNetSpec,
    MMDiTControlNet,
    MMDiTControlNetSpec,
)
from maquette.weights.view import InMemory

BOUND = 1e-5
SD3 = MMDiTSpec(width=128, layers=5, heads=2, context=48, vector=32, grid=12)
SD35 = replace(SD3, qk_norm=True, dual=(0,))
FLUX = FluxSpec(width=256, heads=2, double=3, single=5, context=48, vector=32)
MMDIT_SPECS = {
    "sd3": MMDiTControlNetSpec(body=replace(SD3, layers=2)),
    "sd3.5": MMDiTControlNetSpec(body=replace(SD35, layers=2), unpooled=False),
}
FLUX_SPECS = {
    "plain": FluxControlNetSpec(body=replace(FLUX, double=2, single=2)),
    "union": FluxControlNetSpec(body=replace(FLUX, double=2, single=2), modes=3),
    "double alone": FluxControlNetSpec(body=replace(FLUX, double=1, single=0)),
    "schnell": FluxControlNetSpec(body=replace(FLUX, double=1, single=1, guidance=False)),
}


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def worst(ours: Any, theirs: Any) -> float:
    return max(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", MMDIT_SPECS)
def test_controlnet_for_sd3_and_what_the_transformer_makes_of_it(name: str) -> None:
    spec = MMDIT_SPECS[name]
    network = t.randomise(MMDiTControlNet(spec), seed=3)
    with init_empty_weights():
        reference = SD3ControlNetModel.from_config(config.mmdit_to_config(spec))
    written = names.MMDIT.write(network.state_dict(), network)
    reference.load_state_dict(dict(written), assign=True)
    whole = t.randomise(MMDiT(SD3 if name == "sd3" else SD35))
    inputs, latent = t.mmdit_inputs(whole.spec), noise(1, 16, 10, 14, seed=7)
    told = Conditioning(inputs["tokens"], inputs["vector"])
    ours = network(inputs["x"], inputs["t"], told, network.read(latent))
    (theirs,) = reference.eval()(
        inputs["x"],
        latent.expand(2, -1, -1, -1),
        encoder_hidden_states=inputs["tokens"],
        pooled_projections=torch.zeros_like(inputs["vector"]) if spec.unpooled else inputs["vector"],
        timestep=1000 * inputs["t"],
        return_dict=False,
    )
    assert worst(ours, theirs) < BOUND
    inputs["control"] = theirs
    answer = t.mmdit_ours(whole, **inputs)["velocity"]
    expected = t.mmdit_theirs(t.mmdit_reference(whole), **inputs)["velocity"]
    assert relative_error(answer, expected) < BOUND
    assert relative_error(t.mmdit_ours(whole, **{**inputs, "control": ()})["velocity"], expected) > 0.01


def flux_ids(tokens: Tensor, height: int, width: int) -> dict[str, Tensor]:
    image = FluxPipeline._prepare_latent_image_ids(2, height // 2, width // 2, tokens.device, tokens.dtype)
    return {"txt_ids": torch.zeros(tokens.shape[1], 3), "img_ids": image}


def pack(latent: Tensor) -> Tensor:
    return FluxPipeline._pack_latents(latent, *latent.shape)


@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own use of it
@pytest.mark.parametrize("name", FLUX_SPECS)
def test_controlnet_for_flux_and_what_the_transformer_makes_of_it(name: str) -> None:
    spec = FLUX_SPECS[name]
    network = t.randomise(FluxControlNet(spec), seed=3)
    with init_empty_weights():
        reference = FluxControlNetModel.from_config(config.flux_to_config(spec))
    reference.load_state_dict(dict(names.FLUX.write(network.state_dict(), network)), assign=True)
    whole = t.randomise(Flux(replace(FLUX, guidance=spec.body.guidance)))
    inputs, latent = t.flux_inputs(whole.spec), noise(1, 16, 6, 10, seed=7)
    told = Conditioning(inputs["tokens"], inputs["vector"], guidance=inputs["guidance"])
    double, single = network(inputs["x"], inputs["t"], told, network.read(latent), mode=2)
    ids = flux_ids(inputs["tokens"], 6, 10)
    common = {"encoder_hidden_states": inputs["tokens"], "pooled_projections": inputs["vector"], **ids}
    common |= {"timestep": inputs["t"], "guidance": inputs["guidance"], "return_dict": False}
    mode = torch.full((2, 1), 2) if spec.modes else None
    theirs = reference.eval()(pack(inputs["x"]), pack(latent).expand(2, -1, -1), controlnet_mode=mode, **common)
    assert worst(double, theirs[0]) < BOUND
    assert worst(single, theirs[1] or ()) < BOUND if single else theirs[1] is None

    answer = whole(inputs["x"], inputs["t"], replace(told, control=double, features=single))
    (expected,) = t.flux_reference(whole)(
        pack(inputs["x"]), controlnet_block_samples=theirs[0], controlnet_single_block_samples=theirs[1], **common
    )
    assert relative_error(pack(answer), expected) < BOUND
    assert relative_error(pack(whole(inputs["x"], inputs["t"], told)), expected) > 0.01


@pytest.mark.parametrize("name", [*MMDIT_SPECS, *FLUX_SPECS])
def test_names_and_configs(name: str) -> None:
    spec: Any = (MMDIT_SPECS | FLUX_SPECS)[name]
    is_flux = name in FLUX_SPECS
    dialect: Any = names.FLUX if is_flux else names.MMDIT
    network = t.randomise(FluxControlNet(spec) if is_flux else MMDiTControlNet(spec))
    written = InMemory(dict(dialect.write(network.state_dict(), network)))
    assert all(mark in written for mark in dialect.marks)
    assert dialect.spec(written) == (spec if is_flux else replace(spec, unpooled=True))
    read = dialect.read(written, network)
    assert all(torch.equal(read[each], tensor) for each, tensor in network.state_dict().items())
    there, back = (
        (config.flux_to_config, config.flux_from_config)
        if is_flux
        else (config.mmdit_to_config, config.mmdit_from_config)
    )
    assert back(there(spec)) == spec


def test_a_new_controlnet_says_nothing() -> None:
    for network in (MMDiTControlNet(MMDIT_SPECS["sd3"]), FluxControlNet(FLUX_SPECS["plain"])):
        hint = network.read(noise(1, 16, 6, 10))
        told = Conditioning(noise(2, 5, 48), noise(2, 32), guidance=torch.ones(2))
        said = network(noise(2, 16, 6, 10), torch.tensor([0.5, 0.2]), told, hint)
        residuals = said if isinstance(network, MMDiTControlNet) else [*said[0], *said[1]]
        assert not any(residual.any() for residual in residuals)


def test_what_is_not_supported_is_refused() -> None:
    network = FluxControlNet(FLUX_SPECS["union"])
    hint, told = network.read(noise(1, 16, 6, 10)), Conditioning(noise(2, 5, 48), noise(2, 32), guidance=torch.ones(2))
    for mode in (None, 3):
        with pytest.raises(MaquetteError, match=f"follows 3 kinds of pictures: got kind {mode}"):
            network(noise(2, 16, 6, 10), 0.5, told, hint, mode=mode)
    large = MMDiTControlNet(MMDIT_SPECS["sd3"])
    written = dict(names.MMDIT.write(large.state_dict(), large))
    del written["context_embedder.weight"]
    with pytest.raises(MaquetteError, match=r"SD3\.5 large"):
        names.MMDIT.spec(InMemory(written))
    with pytest.raises(MaquetteError, match="'use_pos_embed' is False"):
        config.mmdit_from_config(config.mmdit_to_config(MMDIT_SPECS["sd3"]) | {"use_pos_embed": False})
