"""Controls that do not fit a model, files that are none, and pictures that cannot be followed: errors that say so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import ADAPTER, CONTROLNET, LAYOUTS, SD3_CONTROLNET, ask, ip_spec, picture, write, write_folder
from small_models import SD1, SDXL, named, random_state, write_original

import maquette
from maquette.engine import control, kinds
from maquette.engine.build import outline
from maquette.engine.control import open_control
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.models import t2i_adapter_config
from maquette.models.controlnet import ControlNetSpec
from maquette.models.t2i_adapter import T2IAdapterSpec
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import InMemory, prefixed, union

pytestmark = pytest.mark.usefixtures("no_gradients")


def test_controls_of_other_models_are_refused(model: Model, large: Model, tmp_path: Path) -> None:
    controlnet = LAYOUTS["bare"](tmp_path)
    with pytest.raises(MaquetteError, match=r"its width at each skip is \(32, .*, the model's is \(64, "):
        open_control(controlnet, large)
    wide = write(tmp_path / "w.safetensors", kinds.CONTROLNET, ControlNetSpec(unet=replace(SD1, context=96)))
    with pytest.raises(MaquetteError, match="its width of text is 96, the model's is 64"):
        open_control(wide, model)
    adapter = write(tmp_path / "a.safetensors", kinds.T2I_ADAPTER, T2IAdapterSpec(widths=SDXL.widths))
    with pytest.raises(MaquetteError, match=r"width and scale of each feature is \[\(64, 8\), .*\[\(64, 16\)"):
        open_control(adapter, large)
    ip = write(tmp_path / "ip.safetensors", kinds.IP_ADAPTER, ip_spec(large))
    with pytest.raises(MaquetteError, match="cross-attention"):
        open_control(ip, model)


def test_models_that_are_no_unets_are_refused(tmp_path: Path) -> None:
    dit = maquette.open(write_original("dit", tmp_path), device="cpu")
    with pytest.raises(MaquetteError, match="for a U-Net that reads text, which dit is not"):
        open_control(LAYOUTS["bare"](tmp_path), dit)
    sd3 = write(tmp_path / "c.safetensors", kinds.MMDIT_CONTROLNET, SD3_CONTROLNET, "diffusers")
    with pytest.raises(MaquetteError, match="for SD3, which dit is not"):
        open_control(sd3, dit)


def test_what_is_no_control_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match=r"holds 0 networks that could be a ControlNet"):
        open_control(write_original("sd1", tmp_path), model)
    with pytest.raises(MaquetteError, match="there is no control 'nowhere.safetensors'"):
        open_control("nowhere.safetensors", model)
    with pytest.raises(MaquetteError, match="there is no control"):
        open_control("x" * 5000, model)
    state = random_state(outline(kinds.CONTROLNET.network, CONTROLNET), 1)
    written = dict(kinds.CONTROLNET.dialects[0].write(InMemory(state), outline(kinds.CONTROLNET.network, CONTROLNET)))
    write_safetensors(tmp_path / "union.safetensors", InMemory(written | {"task_embedding": torch.ones(3)}))
    with pytest.raises(MaquetteError, match=r"1 unknown \(task_embedding\)"):
        open_control(tmp_path / "union.safetensors", model)


def test_pictures_that_cannot_be_followed(model: Model, tmp_path: Path) -> None:
    opened = open_control(LAYOUTS["bare"](tmp_path), model)
    with pytest.raises(MaquetteError, match=r"to follow is 72x72, what is painted is 64x64; bring it to that size"):
        ask(model, opened.follow(picture(side=72)))
    with pytest.raises(MaquetteError, match=r"of shape \(3, 64, 64\)"):
        opened.follow(picture()[0])
    with pytest.raises(MaquetteError, match=r"start 0\.5 and end 0\.5"):
        opened.follow(picture(), start=0.5, end=0.5)
    with pytest.raises(MaquetteError, match="give one of balanced, prompt, control"):
        opened.follow(picture(), mode="mine")  # type: ignore[arg-type]
    with pytest.raises(MaquetteError, match="only an IP-Adapter has a picture for what is not wanted"):
        opened.follow(picture(), against=picture())


def test_a_control_of_the_package_is_found_by_its_name(model: Model, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(control, "ASSETS", tmp_path / "assets")
    mine = write_folder(
        tmp_path / "assets" / "mine", kinds.T2I_ADAPTER, ADAPTER, t2i_adapter_config.to_config(ADAPTER), "diffusers"
    )
    (mine / "model.safetensors").rename(mine / "diffusion_pytorch_model.safetensors")  # as the package names them
    (tmp_path / "assets" / "empty").mkdir()
    assert open_control("mine", model).network.spec == ADAPTER
    for name in ("empty", "../assets/mine"):
        with pytest.raises(MaquetteError, match="there is no control"):
            open_control(name, model)


def test_a_difference_from_a_unet_is_no_controlnet(model: Model, tmp_path: Path) -> None:
    for name, prefix in (
        ("difference", "control_model."),
        ("control_model.difference", "control_model."),
        ("difference", ""),
        ("lora_controlnet", ""),
    ):
        view = prefixed(named(kinds.CONTROLNET, CONTROLNET, "original"), prefix)
        write_safetensors(tmp_path / "diff.safetensors", union([view, InMemory({name: torch.zeros(1)})]))
        with pytest.raises(MaquetteError, match=r"holds a (Control-LoRA|.*difference from a U-Net), which is not supp"):
            open_control(tmp_path / "diff.safetensors", model)
