import json
from typing import Any

import pytest

from maquette.errors import MaquetteError
from maquette.workflows.foreign import Settings
from maquette.workflows.invokeai import read_dream, read_metadata, read_sd_metadata
from maquette.workflows.request import Request

METADATA: dict[str, Any] = {
    **{
        "app_version": "5.4.2",
        "generation_mode": "sdxl_txt2img",
        "positive_prompt": "a fox",
        "negative_prompt": "snow",
    },
    **{"width": 1024, "height": 768, "seed": 356120443, "rand_device": "cpu", "cfg_scale": 7.5, "steps": 30},
    **{"cfg_rescale_multiplier": 0.5, "scheduler": "euler_k", "clip_skip": 1, "seamless_x": False},
    "model": {"key": "1", "hash": "blake3:0123", "name": "juggernaut", "base": "sdxl", "type": "main"},
    "loras": [{"model": {"key": "2", "name": "whiskers", "base": "sdxl"}, "weight": 0.75}],
    "vae": {"name": "sdxl-vae-fp16-fix"},
}
OLD = {
    **{
        "model": "stable diffusion",
        "model_weights": "stable-diffusion-1.5",
        "model_hash": "ab12",
        "app_version": "2.2.4",
    },
    "app_id": "invoke-ai/InvokeAI",
    "image": {
        **{"prompt": [{"prompt": "a fox [snow] in the woods [fog]", "weight": 1.0}], "steps": 20, "cfg_scale": 7.5},
        **{"threshold": 0, "perlin": 0, "height": 512, "width": 640, "seed": 77, "seamless": False, "type": "txt2img"},
        **{"hires_fix": False, "postprocessing": None, "sampler": "k_dpmpp_2", "variations": []},
    },
}


def left(settings: Settings) -> dict[str, str]:
    return {each.name: each.value for each in settings.untranslated}


def test_reads_what_version_3_and_later_write() -> None:
    settings = read_metadata(json.dumps(METADATA))
    assert settings.fields == {
        **{"prompt": "a fox", "negative": "snow", "width": 1024, "height": 768, "seed": 356120443, "steps": 30},
        **{"guidance": 7.5, "rescale": 0.5, "sampler": "euler", "schedule": "karras", "clip_skip": 2},
        **{"model": "juggernaut", "loras": [{"file": "whiskers", "scale": 0.75}]},
    }
    assert left(settings) == {"vae": "{'name': 'sdxl-vae-fp16-fix'}", "scheduler": "karras"}  # begins lower there
    assert (settings.version, settings.noise, settings.hashes) == ("5.4.2", "invokeai", {"model": "blake3:0123"})
    assert Request.read(settings.fields).clip_skip == 2


@pytest.mark.parametrize(("base", "schedule"), [("sd-1", "linspace"), ("sdxl", "leading"), ("sdxl-refiner", "leading")])
def test_levels_are_spaced_as_the_models_own_files_say(base: str, schedule: str) -> None:
    model = {"name": "juggernaut", "base": base}
    settings = read_metadata(json.dumps({**METADATA, "scheduler": "euler", "model": model}))
    assert settings.fields["schedule"] == schedule and "scheduler" not in left(settings)


def test_fluxs_guidance_is_told_apart_from_classifier_free_guidance() -> None:
    model = {"name": "flux", "base": "flux"}
    told = {"positive_prompt": "a fox", "guidance": 4, "scheduler": "euler", "model": model, "steps": 20}
    settings = read_metadata(json.dumps(told))
    assert settings.fields["guidance"] == 4.0 and "true_guidance" not in settings.fields and not left(settings)
    both = read_metadata(json.dumps({**told, "cfg_scale": 2.0})).fields
    assert (both["guidance"], both["true_guidance"]) == (4.0, 2.0)


def test_reads_what_the_first_versions_of_the_3_wrote() -> None:
    told = METADATA | {
        **{"model": {"model_name": "sd-1-5", "base_model": "sd-1", "model_type": "main"}, "scheduler": "ddim"},
        **{"loras": [{"lora": {"model_name": "whiskers"}, "weight": 1}], "vae": None, "rand_device": "cuda"},
    }
    settings = read_metadata(json.dumps(told))
    assert (settings.fields["model"], settings.fields["schedule"]) == ("sd-1-5", "leading")
    assert (left(settings), settings.noise) == ({}, "invokeai-cuda")
    assert settings.fields["loras"] == [{"file": "whiskers", "scale": 1.0}]


def test_a_flow_model_has_its_own_schedule() -> None:
    told = METADATA | {"scheduler": "euler", "model": {"name": "flux-dev", "base": "flux"}}
    assert read_metadata(json.dumps(told)).fields["schedule"] == "flow"


def test_a_refiner_is_taken_over() -> None:
    told = METADATA | {"refiner_model": {"name": "sdxl-refiner"}, "refiner_start": 0.7}
    assert read_metadata(json.dumps(told)).fields["refiner"] == {"model": "sdxl-refiner", "at": 0.7}


def test_what_a_request_has_no_words_for_is_named() -> None:
    told = METADATA | {
        **{"scheduler": "sa_solver", "generation_mode": "sdxl_img2img", "seamless_x": True, "loras": [], "vae": None},
        **{"positive_prompt": "a (fox)1.3 in snow++", "cfg_scale": [7.5, 8.0]},
    }
    settings = read_metadata(json.dumps(told))
    assert settings.fields.keys().isdisjoint({"sampler", "guidance"})
    assert left(settings) == {
        **{"scheduler": "sa_solver", "generation_mode": "sdxl_img2img", "seamless_x": "True"},
        **{"prompt": "a (fox)1.3 in snow++", "cfg_scale": "[7.5, 8.0]"},
    }


def test_pictures_that_were_looked_at_and_regions_are_named() -> None:
    reference = {"id": "a", "isEnabled": True, "config": {"type": "ip_adapter", "weight": 1, "model": {"name": "ip"}}}
    assert left(read_metadata(json.dumps(METADATA | {"ref_images": [reference]}))).keys() == {
        *("ref_images", "vae", "scheduler"),
    }
    layers = [{"id": "c", "isEnabled": True}, {"id": "d", "isEnabled": False}]
    off: dict[str, Any] = {"rasterLayers": layers, "referenceImages": layers[1:], "controlLayers": []}
    told = {"controlLayers": layers, "regionalGuidance": layers, "referenceImages": layers}
    settings = read_metadata(json.dumps(METADATA | {"vae": None, "canvas_v2_metadata": off | told, "ref_images": []}))
    assert left(settings).items() >= dict.fromkeys(told, "[{'id': 'c', 'isEnabled': True}]").items()
    for canvas in (off, [], "text", {"controlLayers": None}):
        assert left(read_metadata(json.dumps(METADATA | {"canvas_v2_metadata": canvas}))).keys() == {"vae", "scheduler"}


@pytest.mark.parametrize(("steps", "schedule"), [(20, "karras"), (50, "linspace")])
def test_reads_what_version_2_wrote(steps: int, schedule: str) -> None:
    settings = read_sd_metadata(json.dumps(OLD | {"image": OLD["image"] | {"steps": steps}}))
    assert settings.fields == {
        **{"prompt": "a fox  in the woods", "negative": "snow fog", "width": 640, "height": 512, "seed": 77},
        **{"steps": steps, "guidance": 7.5, "sampler": "dpmpp_2m", "schedule": schedule},
        "model": "stable-diffusion-1.5",
    }
    assert (settings.untranslated, settings.noise, settings.hashes) == ([], "a1111-nv", {"model": "ab12"})


@pytest.mark.parametrize(
    "form", ["-s 50 -S 7 -W 512 -H 640 -C 8.5 -A k_euler_a", "-s50 -S7 -W512 -H640 -C8.5 -Ak_euler_a"]
)
def test_reads_the_command_of_the_first_versions(form: str) -> None:
    settings = read_dream(f'"a fox [fog]" {form}')
    assert settings.fields == {
        **{"prompt": "a fox", "negative": "fog", "steps": 50, "seed": 7, "width": 512, "height": 640},
        **{"guidance": 8.5, "sampler": "euler_a", "schedule": "linspace"},
    }
    assert left(read_dream(f'"a fox" {form} -f0.6 -G 0.8')) == {"-f": "0.6", "-G": "", "Dream": "0.8"}


@pytest.mark.parametrize("read", [read_metadata, read_sd_metadata])
@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, "{", "NaN"])
def test_what_is_not_of_invokeai_is_refused(read, text: str) -> None:
    with pytest.raises(MaquetteError, match="is not what InvokeAI writes; the picture was changed"):
        read(text)


@pytest.mark.parametrize("text", ["{}", '{"image": 3}', '{"image": []}'])
def test_metadata_without_a_picture_is_refused(text: str) -> None:
    with pytest.raises(MaquetteError, match="has no 'image'"):
        read_sd_metadata(text)


@pytest.mark.parametrize("text", ["", '"never closed', '"a" -s many', '"a" -C', f'"a" -S{"9" * 5000}'])
def test_what_is_no_command_is_refused(text: str) -> None:
    with pytest.raises(MaquetteError):
        read_dream(text)


STRANGE = [True, [], {}, [1], [[]], "text", -1, 2.5, 10**400, float("inf"), float("nan"), {"name": 3}]


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:12])
def test_values_of_the_wrong_kind_are_named_or_refused(value: object) -> None:
    told = [(read_metadata, METADATA | {key: value}) for key in METADATA]
    told += [(read_sd_metadata, OLD | {"image": OLD["image"] | {key: value}}) for key in OLD["image"]]
    for read, changed in told:
        try:
            Request.read(read(json.dumps(changed)).fields)
        except MaquetteError as error:
            assert "\n" not in str(error)
