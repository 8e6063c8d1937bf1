import json
from typing import Any

import pytest

from maquette.errors import MaquetteError
from maquette.families.family import Family
from maquette.families.flux import DEV
from maquette.families.sd1 import SD1
from maquette.families.sdxl import SDXL
from maquette.workflows.comfyui import read_graph
from maquette.workflows.foreign import Settings, suited
from maquette.workflows.request import Request
from maquette.workflows.settings import Lora


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def simple(**changes: Any) -> dict[str, Any]:
    """The graph that ComfyUI opens with."""
    sampler = {
        **{
            "seed": 156680208700286,
            "steps": 20,
            "cfg": 8,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1,
        },
        **{"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]},
    }
    return {
        "3": node("KSampler", **(sampler | changes)),
        "4": node("CheckpointLoaderSimple", ckpt_name="v1-5-pruned-emaonly.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="beautiful scenery, glass bottle", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="text, watermark", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
    }


def read(graph: object) -> Settings:
    return read_graph(json.dumps(graph))


def left(settings: Settings) -> dict[str, str]:
    return {each.name: each.value for each in settings.untranslated}


FIELDS = {
    **{"prompt": "beautiful scenery, glass bottle", "negative": "text, watermark", "seed": 156680208700286},
    **{"steps": 20, "guidance": 8.0, "sampler": "euler", "schedule": "linspace", "width": 512, "height": 768},
    "model": "v1-5-pruned-emaonly.safetensors",
}


def test_reads_the_graph_that_comfyui_opens_with() -> None:
    settings = read(simple())
    assert settings.fields == FIELDS
    assert (settings.program, settings.noise, settings.untranslated) == ("ComfyUI", "comfyui", [])
    assert Request.read(settings.fields).steps == 20


def test_what_pushes_further_is_taken_over() -> None:
    graph = simple(model=["12", 0])
    graph["9"] = node("PerturbedAttentionGuidance", scale=2.5, model=["4", 0])
    graph["10"] = node("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2, model=["9", 0])
    graph["11"] = node("CFGZeroStar", model=["10", 0])
    graph["12"] = node("FreeU", b1=1.1, b2=1.2, s1=0.9, s2=0.2, model=["13", 0])
    graph["13"] = node("DifferentialDiffusion", model=["11", 0])
    settings = read(graph)
    freeu = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}
    assert settings.fields == FIELDS | {
        "pag": {"scale": 2.5},
        "freeu": freeu,
        "cfg_zero": True,
        "mask_grey": "strength",
    }
    assert left(settings).keys() == {"FreeU"}
    assert Request.read(settings.fields).freeu.b1 == 1.3


def test_loras_clip_skip_a_vae_and_values_from_other_nodes() -> None:
    graph = simple(model=["11", 0], seed=["20", 0], sampler_name="dpmpp_2m_sde_gpu", scheduler="karras")
    graph["9"] = node("LoraLoaderModelOnly", lora_name="one.safetensors", strength_model=0.8, model=["4", 0])
    both = {"strength_model": 0.5, "strength_clip": 0.25, "clip": ["4", 1]}
    graph["10"] = node("LoraLoader", lora_name="styles\\two", model=["9", 0], **both)
    loras = [
        {"file": "styles/two", "scale": 0.5, "text_scale": 0.25},
        {"file": "one.safetensors", "scale": 0.8, "text_scale": 0.0},
    ]
    graph["11"] = node("RescaleCFG", multiplier=0.7, model=["10", 0])
    graph["12"] = node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["10", 1])
    graph["6"] = node("CLIPTextEncode", text=["21", 0], clip=["12", 0])
    graph["13"] = node("VAELoader", vae_name="vae-ft-mse.safetensors")
    graph |= {"20": node("PrimitiveInt", value=7), "21": node("PrimitiveStringMultiline", value="a fox")}
    settings = read(graph)
    assert settings.fields == FIELDS | {
        **{"prompt": "a fox", "seed": 7, "clip_skip": 2, "rescale": 0.7, "schedule": "karras"},
        **{"sampler": "dpmpp_2m_sde", "loras": loras},
    }
    assert left(settings).keys() == {"VAE", "sampler_name", "RescaleCFG"}
    assert Request.read(settings.fields).loras == (
        Lora(file="styles/two", scale=0.5, text_scale=0.25),
        Lora(file="one.safetensors", scale=0.8, text_scale=0.0),
    )


def test_custom_sampling_as_for_flux() -> None:
    graph = {
        "5": node("EmptySD3LatentImage", width=1024, height=1024, batch_size=1),
        "6": node("CLIPTextEncode", text="a fox", clip=["11", 0]),
        "8": node("VAEDecode", samples=["13", 0], vae=["10", 0]),
        "9": node("SaveImage", images=["8", 0]),
        "10": node("VAELoader", vae_name="ae.safetensors"),
        "11": node("DualCLIPLoader", clip_name1="t5xxl_fp16.safetensors", clip_name2="clip_l.safetensors", type="flux"),
        "12": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
        "13": node(
            "SamplerCustomAdvanced",
            **{"noise": ["25", 0], "guider": ["22", 0], "sampler": ["16", 0], "sigmas": ["17", 0]},
            latent_image=["5", 0],
        ),
        "16": node("KSamplerSelect", sampler_name="euler"),
        "17": node("BasicScheduler", scheduler="simple", steps=28, denoise=1, model=["12", 0]),
        "22": node("BasicGuider", model=["12", 0], conditioning=["26", 0]),
        "25": node("RandomNoise", noise_seed=219670278747233),
        "26": node("FluxGuidance", guidance=3.5, conditioning=["6", 0]),
    }
    settings = read(graph)
    assert settings.fields == {
        **{"prompt": "a fox", "negative": "", "seed": 219670278747233, "steps": 28, "guidance": 3.5},
        **{"sampler": "euler", "schedule": "simple", "width": 1024, "height": 1024, "model": "flux1-dev.safetensors"},
    }
    assert left(settings) == {"VAE": "ae.safetensors"}
    graph["22"] = node("CFGGuider", cfg=2.0, model=["12", 0], positive=["26", 0], negative=["6", 0])
    assert {name: read(graph).fields[name] for name in ("guidance", "true_guidance")} == {
        "guidance": 3.5,
        "true_guidance": 2.0,
    }


@pytest.mark.parametrize(("cfg", "true"), [(1.0, 1.0), (2.0, 2.0)])
def test_a_distilled_model_that_was_told_no_guidance_is_told_what_it_is_there(cfg: float, true: float) -> None:
    settings = read(simple(cfg=cfg))
    request = Request.read(settings.fields)
    ours = suited(request, settings, DEV)
    assert (ours.guidance, ours.true_guidance) == (3.5, true)
    assert suited(request, settings, SD1).guidance == cfg


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("family", [SD1, SDXL], ids=["sd1", "sdxl"])
def test_an_empty_negative_that_means_something_else_there_is_named(zeros: bool, family: Family) -> None:
    graph = simple()
    graph["7"]["inputs"]["text"] = ""
    if zeros:
        graph["3"]["inputs"]["negative"] = ["10", 0]
        graph["10"] = node("ConditioningZeroOut", conditioning=["7", 0])
    settings = read(graph)
    suited(Request.read(settings.fields), settings, family)
    assert ("negative" in left(settings)) == (zeros != family.zero_empty_negative)


def test_the_older_custom_sampler_and_nodes_that_make_one_thing() -> None:
    graph = simple()
    graph["3"] = node(
        "SamplerCustom",
        **{"add_noise": True, "noise_seed": 5, "cfg": 6.5, "model": ["4", 0], "positive": ["6", 0]},
        **{"negative": ["7", 0], "sampler": ["30", 0], "sigmas": ["31", 0], "latent_image": ["5", 0]},
    )
    graph["30"] = node("SamplerEulerAncestral", eta=1.0, s_noise=1.0)
    graph["31"] = node("KarrasScheduler", steps=12, sigma_max=14.6, sigma_min=0.03, rho=7)
    settings = read(graph)
    assert settings.fields == FIELDS | {
        **{"seed": 5, "guidance": 6.5, "sampler": "euler_a", "schedule": "karras", "steps": 12},
    }


def second_pass(by: str) -> dict[str, Any]:
    graph = simple()
    latent = ["40", 0]
    if by == "latent":
        graph["40"] = node(
            "LatentUpscale", samples=["3", 0], upscale_method="bilinear", width=768, height=1152, crop="no"
        )
    else:
        graph["40"] = node("VAEEncode", pixels=["41", 0], vae=["4", 2])
        graph["41"] = node("ImageScaleBy", image=["8", 0], upscale_method="lanczos", scale_by=1.5)
    again = simple(seed=3, denoise=0.5, steps=10, latent_image=latent)["3"]
    graph |= {"42": again, "43": node("VAEDecode", samples=["42", 0]), "44": node("SaveImage", images=["43", 0])}
    return graph


@pytest.mark.parametrize("by", ["latent", "pixel"])
def test_an_enlargement_and_a_second_pass(by: str) -> None:
    settings = read(second_pass(by))
    hires = settings.fields.pop("hires")
    assert hires == {"scale": 1.5, "strength": 0.5, "steps": 20, "by": by}
    assert settings.fields == FIELDS
    assert left(settings).pop("seed of the second pass") == "3"


NETWORK = node("ImageUpscaleWithModel", upscale_model=["net", 0])


def times(scale: float) -> dict[str, Any]:
    return node("LatentUpscaleBy", upscale_method="bilinear", scale_by=scale)


def to(width: int, height: int) -> dict[str, Any]:
    return node("LatentUpscale", upscale_method="bilinear", width=width, height=height)


@pytest.mark.parametrize(
    ("nodes", "network", "scale", "named"),
    [
        ((times(1.5), times(2.0)), "", 3.0, {}),
        ((to(1024, 1536),), "", 2.0, {}),
        ((to(1024, 0),), "", 2.0, {}),
        ((times(1.5), to(1024, 1536)), "", 2.0, {}),
        ((to(1024, 768),), "", 2.0, {"LatentUpscale": "1024x768"}),
        ((NETWORK, times(0.5)), "4x-UltraSharp.pth", 2.0, {"ImageUpscaleWithModel": "4x-UltraSharp.pth"}),
        ((NETWORK,), "RealESRGAN_x2plus.pth", 2.0, {"ImageUpscaleWithModel": "RealESRGAN_x2plus.pth"}),
        ((NETWORK, to(1024, 1536)), "mine.pth", 2.0, {"ImageUpscaleWithModel": "mine.pth"}),
        ((NETWORK, times(0.5)), "mine.pth", None, {"ImageUpscaleWithModel": "mine.pth"}),
    ],
)
def test_enlargements_count_together(
    nodes: tuple[dict[str, Any], ...], network: str, scale: float | None, named: dict[str, str]
) -> None:
    graph, before = second_pass("latent"), "3"
    for k, each in enumerate(nodes):
        graph[f"more {k}"] = each | {"inputs": {**each["inputs"], "samples": [before, 0]}}
        before = f"more {k}"
    graph["42"]["inputs"]["latent_image"] = [before, 0]
    settings = read(graph | {"net": node("UpscaleModelLoader", model_name=network)})
    assert settings.fields.get("hires", {}).get("scale") == scale
    assert named.items() <= left(settings).items()


def test_what_follows_the_last_pass_is_named() -> None:
    graph = simple()
    graph["late"] = node("ImageScaleBy", upscale_method="lanczos", scale_by=2.0, image=["8", 0])
    graph["9"]["inputs"]["images"] = ["late", 0]
    assert left(read(graph)).keys() - left(read(simple())).keys() == {"ImageScaleBy"}


def test_a_loader_that_holds_words_and_size_and_a_detailer_behind_it() -> None:
    """Nodes that many install: one loads, encodes and makes the latent; one repaints faces."""
    loader = node(
        "Efficient Loader",
        **{"ckpt_name": "v1-5-pruned-emaonly.safetensors", "clip_skip": -1, "lora_name": "None", "positive": "a fox"},
        **{"negative": "fog", "empty_latent_width": 512, "empty_latent_height": 768, "batch_size": 1},
    )
    links = {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2], "latent_image": ["1", 3]}
    sampler = simple(**links)["3"] | {"class_type": "KSampler (Efficient)"}
    detailer = simple(denoise=0.5)["3"] | {"class_type": "FaceDetailer"}
    detailer["inputs"] |= {"image": ["2", 5], "guide_size": 512, **links}
    del detailer["inputs"]["latent_image"]
    settings = read({"1": loader, "2": sampler, "3": detailer, "9": node("SaveImage", images=["3", 0])})
    assert settings.fields == FIELDS | {"prompt": "a fox", "negative": "fog"}
    assert left(settings) == {"FaceDetailer": "steps 20, denoise 0.5"}


def test_sdxl_tells_its_two_encoders_apart() -> None:
    graph = simple()
    graph["6"] = node("CLIPTextEncodeSDXL", text_g="a fox", text_l="a fox in snow", width=1024, clip=["4", 1])
    settings = read(graph)
    assert settings.fields["prompt"] == "a fox"
    assert left(settings) == {"CLIPTextEncodeSDXL": "a fox in snow"}


def test_words_that_mean_another_thing_here_are_translated_or_named() -> None:
    graph = simple()
    graph["6"]["inputs"]["text"] = "a (cat:1.4) AND a dog BREAK [b]"
    graph["7"]["inputs"]["text"] = "embedding:easynegative.pt, fog"
    settings = read(graph)
    assert settings.fields["negative"] == "easynegative, fog"
    assert left(settings).keys() == {"(", "AND", "BREAK", "[", "embedding"}


def test_what_a_request_has_no_words_for_is_named() -> None:
    graph = simple(sampler_name="euler_cfg_pp", scheduler="linear_quadratic", denoise=0.6, latent_image=["51", 0])
    graph["50"] = node("ControlNetApply", conditioning=["6", 0], strength=0.9, control_net=["52", 0], image=["53", 0])
    graph["51"] = node("VAEEncode", pixels=["53", 0], vae=["4", 2])
    graph["52"] = node("ControlNetLoader", control_net_name="canny.safetensors")
    graph["53"] = node("LoadImage", image="cat.png")
    graph["3"]["inputs"]["positive"] = ["50", 0]
    settings = read(graph)
    assert settings.fields["prompt"] == "beautiful scenery, glass bottle"
    assert settings.fields.keys().isdisjoint({"sampler", "schedule", "width", "height"})
    assert left(settings) == {
        **{"sampler_name": "euler_cfg_pp", "scheduler": "linear_quadratic", "denoise": "0.6"},
        **{"ControlNetApply": "0.9", "latent_image": "VAEEncode"},
    }


def test_a_seed_beyond_our_range_and_a_batch_are_named() -> None:
    graph = simple(seed=2**64 - 1)
    graph["5"]["inputs"]["batch_size"] = 4
    settings = read(graph)
    assert "seed" not in settings.fields
    assert left(settings) == {"seed": str(2**64 - 1), "batch_size": "4"}


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ([], "is no graph"),
        (3, "is no graph"),
        ({"3": 4}, "has no class_type and inputs"),
        ({"3": {"class_type": ["x"], "inputs": {}}}, "has no class_type and inputs"),
        ({"3": {"class_type": "KSampler", "inputs": []}}, "has no class_type and inputs"),
        ({"3": node("LoadImage", image="x.png")}, "no node that samples"),
        (simple(model=["99", 0]), "is linked to .* which is no node"),
        (simple(positive=[[], 0]), "is linked to .* which is no node"),
        (simple(latent_image=[]), "is linked to .* which is no node"),
        ({str(k): node("X") for k in range(3001)}, "is no graph"),
    ],
)
def test_a_damaged_graph_is_refused(graph: object, message: str) -> None:
    with pytest.raises(MaquetteError, match=message):
        read(graph)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000, "1" * 10_000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(MaquetteError, match="is no graph"):
        read_graph(text)


def test_links_in_a_circle_come_to_an_end() -> None:
    graph = simple(model=["10", 0], seed=["20", 0], positive=["60", 0], latent_image=["8", 0])
    graph["10"] = node("LoraLoader", model=["10", 0], lora_name="x")
    graph |= {"20": node("PrimitiveInt", value=["22", 0]), "22": node("PrimitiveInt", value=["20", 0])}
    graph |= {"60": node("A", conditioning=["61", 0]), "61": node("B", conditioning=["60", 0])}
    settings = read(graph)
    assert settings.fields["prompt"] == ""
    assert "seed" not in settings.fields
    assert left(settings).keys() >= {"model", "seed", "latent_image"}


STRANGE = [None, True, [], {}, [1], "text", -1, 2.5, 1e-300, 10**400, float("inf"), float("nan"), ["4", 0], ["3", 0]]


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: repr(value)[:12])
def test_inputs_of_the_wrong_kind_are_named_or_refused(value: object) -> None:
    """Whatever stands in an input: the graph is read or refused in one line, and what is read makes no other error."""
    for graph in (simple(), second_pass("latent"), second_pass("pixel")):
        for name, told in graph.items():
            for key in told["inputs"]:
                changed = graph | {name: told | {"inputs": told["inputs"] | {key: value}}}
                try:
                    Request.read(read(changed).fields)
                except MaquetteError as error:
                    assert "\n" not in str(error)


def test_a_large_graph_takes_no_time() -> None:
    graph = simple(model=["n0", 0], positive=["n0", 0])
    graph |= {f"n{k}": node("X", model=[f"n{k + 1}", 0], conditioning=[f"n{k + 1}", 0]) for k in range(2900)}
    graph["n2900"] = node("CheckpointLoaderSimple", ckpt_name="deep")
    assert read(graph).fields["model"] == "deep"
