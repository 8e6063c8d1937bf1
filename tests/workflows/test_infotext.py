import random

import pytest
from PIL import Image

from maquette import __version__
from maquette.diffusion.emulation import EMULATIONS
from maquette.diffusion.samplers import SAMPLERS
from maquette.diffusion.schedules import SCHEDULES, kept_steps
from maquette.errors import MaquetteError
from maquette.families.mini import MINI
from maquette.workflows.foreign import Settings
from maquette.workflows.hires import enlarged
from maquette.workflows.infotext import MAX_INFOTEXT, SAMPLER_LABELS, SCHEDULE_LABELS, read_infotext, write_infotext
from maquette.workflows.reproduce import request_of
from maquette.workflows.request import Request, Resolved

ODD = [
    "",
    "a red apple",
    'a "quoted" apple, with commas: and colons',
    "two\nlines, and a third\n",
    "\n leading and trailing \n",
    "Steps: 3, Sampler: none",
    "一个红苹果，在蓝色背景上",
    "🍎👩‍🔬 emoji, é ü ß, \\ back\\slashes\t",
    "<lora:kept:1> [weak] <b>",
]


@pytest.mark.parametrize("prompt", ODD)
@pytest.mark.parametrize("negative", ODD)
def test_round_trip(prompt: str, negative: str, model) -> None:
    fields = {"prompt": prompt, "negative": negative, "seed": 5, "guidance": 7.25, "model": 'a, "model": b'}
    request = Request.read(fields).resolved(model.family.defaults)
    settings = read_infotext(write_infotext(request, "ab" * 32))
    assert Request.read(settings.fields) == Request.read(
        {name: getattr(request, name) for name in Request.model_fields}
    )
    assert (settings.program, settings.untranslated) == ("Maquette", [])


def chance(seed: int) -> dict[str, object]:
    """The fields of a request that says anything that A1111 can say."""
    dice = random.Random(seed)

    def maybe(**fields: object) -> dict[str, object]:
        return fields if dice.random() < 0.6 else {}

    def share() -> float:
        return dice.choice([0.0, 0.25, 1.0, dice.random()])

    def text() -> str:
        return "".join(dice.choice(["cat", " ", ",", "\n", "(x:1.2)", ":", '"', "猫", "\\", "<b>"]) for _ in range(9))

    hires = {
        "scale": 1.01 + 6 * dice.random(),
        "strength": 0.01 + 0.9 * dice.random(),
        "by": dice.choice(["latent", "pixel"]),
    }
    variation = {"seed": dice.randrange(2**63), "amount": share()}
    loras = [{"file": f"name {k}.5", "scale": dice.uniform(-2, 2), **maybe(text_scale=dice.random())} for k in range(2)]
    return {
        **{"prompt": text(), "negative": text(), "model": text() or "m", "seed": dice.randrange(2**63)},
        **{"steps": dice.randrange(1, 1000), "guidance": dice.choice([7.5, 100 * dice.random()])},
        **{"sampler": dice.choice(list(SAMPLERS)), "schedule": dice.choice(list(SCHEDULES))},
        **{"width": 8 * dice.randrange(1, 60), "height": 8 * dice.randrange(1, 60)},
        **maybe(clip_skip=dice.randrange(1, 13), noise_delta=dice.choice([31337, dice.randrange(2**31)])),
        **maybe(noise=dice.choice(list(EMULATIONS))),
        **maybe(hires=hires | maybe(steps=dice.randrange(1, 1000))),
        **maybe(variation=variation),
        **maybe(refiner={"model": "an x, y", "at": share()}),
        **maybe(loras=loras[dice.randrange(2) :]),
    }


@pytest.mark.parametrize("seed", range(60))
def test_what_a1111_can_say_is_read_again(seed: int, model) -> None:
    request = Request.read(chance(seed)).resolved(model.family.defaults)
    settings = read_infotext(write_infotext(request, "ab" * 32, {"lora name 1.5": "0123456789ab"}))
    assert request_of(settings) == Request.read({name: getattr(request, name) for name in Request.model_fields})
    assert settings.untranslated == []
    assert settings.hashes.get("lora name 1.5", "0123456789ab") == "0123456789ab"


def test_settings_are_told_in_a1111s_keys() -> None:
    black = Image.new("RGB", (32, 32))
    told = {"prompt": "a cat", "negative": "rain", "model": "sd15", "seed": 7, "steps": 20, "guidance": 7.0}
    told |= {"sampler": "dpmpp_2m", "schedule": "karras", "width": 512, "height": 512, "clip_skip": 2}
    told |= {"noise": "a1111-nv", "noise_delta": 31337, "variation": {"seed": 5, "amount": 0.1}}
    told |= {"hires": {"scale": 2.0, "strength": 0.5, "steps": 12, "by": "latent"}}
    told |= {"refiner": {"model": "refiner", "at": 0.75}, "loras": ["whiskers.safetensors"]}
    control = {"model": "dir/control_canny.safetensors", "image": black, "scale": 0.8, "end": 0.5, "mode": "prompt"}
    told |= {"controls": [{**control, "preprocessor": "canny:50"}, {"model": "t2i", "image": black, "resize": "pad"}]}
    text = write_infotext(Resolved.read(told), "0123456789abcdef", {"lora whiskers": "aabbccddeeff"})
    assert text == (
        "a cat <lora:whiskers:1>\nNegative prompt: rain\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 7, Size: 512x512, "
        "Model hash: 0123456789, Model: sd15, Variation seed: 5, Variation seed strength: 0.1, "
        "Denoising strength: 0.5, Clip skip: 2, ENSD: 31337, RNG: NV, "
        "Hires upscale: 2, Hires steps: 6, Hires upscaler: Latent, Hires schedule steps: 12, "
        "Refiner: refiner, Refiner switch at: 0.75, Refiner switch by sampling steps: True, "
        'ControlNet 0: "Module: canny, Model: control_canny, Weight: 0.8, Resize Mode: Crop and Resize, '
        "Threshold A: 50, Threshold B: 200, Guidance Start: 0, Guidance End: 0.5, Pixel Perfect: True, "
        'Control Mode: My prompt is more important", '
        'ControlNet 1: "Module: none, Model: t2i, Weight: 1, Resize Mode: Resize and Fill, '
        'Guidance Start: 0, Guidance End: 1, Pixel Perfect: True, Control Mode: Balanced", '
        f'Lora hashes: "whiskers: aabbccddeeff", Version: maquette {__version__}'
    )
    settings = read_infotext(text)
    assert left(settings).keys() == {"ControlNet 0", "ControlNet 1"}
    assert "the picture that it follows is not in the file" in str(settings.untranslated[0])


def test_a_picture_that_was_begun_with_is_told_by_strength_and_mask_blur(model) -> None:
    told = {"image": Image.new("RGB", (32, 32)), "mask": Image.new("L", (32, 32), 255), "strength": 0.4, "mask_blur": 9}
    text = write_infotext(Request.read({**told, "seed": 1}).resolved(model.family.defaults), "")
    assert "Denoising strength: 0.4, RNG: CPU, Mask blur: 9, Version" in text
    settings = read_infotext(text)
    assert settings.fields["mask_blur"] == 9
    assert left(settings) == {"Denoising strength": "0.4"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_has_one_label(name: str, model) -> None:
    request = Request(seed=1, sampler=name).resolved(model.family.defaults)
    assert read_infotext(write_infotext(request, "")).fields["sampler"] == name


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_one_label(name: str, model) -> None:
    request = Request(seed=1, schedule=name).resolved(model.family.defaults)
    assert read_infotext(write_infotext(request, "")).fields["schedule"] == name


def test_labels_are_for_names_that_exist() -> None:
    assert set(SAMPLER_LABELS) <= set(SAMPLERS)
    assert set(SCHEDULE_LABELS) <= set(SCHEDULES)
    assert SAMPLER_LABELS["dpmpp_2m_sde"] == "DPM++ 2M SDE"
    assert SCHEDULE_LABELS["linspace"] == "Uniform"


def left(settings: Settings) -> dict[str, str]:
    return {each.name: each.value for each in settings.untranslated}


def test_reads_what_a1111_writes() -> None:
    settings = read_infotext(
        "a castle, (detailed:1.2)\non a hill\nNegative prompt: people,\nfog\n"
        "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 123456789, Size: 512x768, "
        'Model hash: 6ce0161689, Model: v1-5-pruned, Lora hashes: "one: 1a2b, two: 3c4d", Version: v1.10.1'
    )
    assert settings.fields == {
        **{"prompt": "a castle, (detailed:1.2)\non a hill", "negative": "people,\nfog", "model": "v1-5-pruned"},
        **{"steps": 25, "sampler": "dpmpp_2m", "schedule": "karras", "guidance": 6.5, "seed": 123456789},
        **{"width": 512, "height": 768},
    }
    assert (settings.program, settings.version, settings.untranslated) == ("A1111", "v1.10.1", [])
    assert settings.hashes == {"model": "6ce0161689", "lora one": "1a2b", "lora two": "3c4d"}
    assert (settings.noise, settings.noise_delta) == ("a1111-nv", 0)


def test_reads_everything_that_a_request_has_words_for() -> None:
    settings = read_infotext(
        "a cat <lora:whiskers:0.7>, masterpiece\nNegative prompt: bad-hands-5, dog\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x512, Model hash: cc6cb27103, Model: v1-5, "
        "VAE hash: 735e4c3a44, VAE: vae-ft-mse.ckpt, Variation seed: 99, Variation seed strength: 0.2, "
        "Denoising strength: 0.55, Clip skip: 2, ENSD: 31337, RNG: CPU, Hires upscale: 1.5, Hires steps: 12, "
        'Hires upscaler: 4x-UltraSharp, Lora hashes: "whiskers: 0123456789ab", TI hashes: "bad-hands-5: aa7651be154c", '
        "Refiner: sd_xl_refiner_1.0 [7440042bbd], Refiner switch at: 0.75, Tiling: True, Version: v1.6.0"
    )
    assert settings.fields == {
        **{"prompt": "a cat , masterpiece", "negative": "bad-hands-5, dog", "model": "v1-5", "steps": 20, "seed": 42},
        **{"sampler": "euler_a", "schedule": "linspace", "guidance": 7.0, "width": 512, "height": 512, "clip_skip": 2},
        "variation": {"seed": 99, "amount": 0.2},
        "hires": {"scale": 1.5, "strength": 12 / 21, "by": "pixel", "steps": 21},
        **{"refiner": {"model": "sd_xl_refiner_1.0", "at": 0.75}, "loras": [{"file": "whiskers", "scale": 0.7}]},
    }
    assert left(settings) == {
        **{"embedding": "bad-hands-5", "VAE": "vae-ft-mse.ckpt", "Tiling": "True"},
        **{"Hires upscaler": "4x-UltraSharp", "Hires refiner": "second pass"},
    }
    assert (settings.noise, settings.noise_delta) == ("a1111-cpu", 31337)
    assert settings.hashes["embedding bad-hands-5"] == "aa7651be154c"
    Request.read(settings.fields)


@pytest.mark.parametrize(
    ("told", "sampler", "schedule"),
    [
        ("Sampler: DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("Sampler: DPM++ 3M SDE Exponential", "dpmpp_3m_sde", "exponential"),
        ("Sampler: DPM++ 2M SDE Heun Karras", "dpmpp_2m_sde", "karras"),
        ("Sampler: LMS Karras", "lms", "karras"),
        ("Sampler: DPM++ 2M", "dpmpp_2m", "linspace"),  # before 1.9 nothing was chosen
        ("Sampler: DPM++ 2M, Schedule type: Automatic", "dpmpp_2m", "karras"),
        ("Sampler: DPM++ 2M SDE, Schedule type: Automatic", "dpmpp_2m_sde", "exponential"),
        ("Sampler: Euler, Schedule type: Automatic", "euler", "linspace"),
        ("Sampler: Euler, Schedule type: SGM Uniform", "euler", "sgm_uniform"),
        ("Sampler: DDIM", "ddim", "leading"),
        ("Sampler: UniPC", "unipc", "sgm_uniform"),
        ("Sampler: PLMS", "plms", "leading"),
        ("Sampler: DDIM, Schedule type: Karras", "ddim", "leading"),  # which it does not read
        ("Sampler: DDIM, Schedule type: Karras, Version: f2.0.1v1.10.1", "ddim", "karras"),  # Forge's does
        ("Sampler: euler A", "euler_a", "linspace"),
    ],
)
def test_samplers_and_schedules_of_every_version(told: str, sampler: str, schedule: str) -> None:
    fields = read_infotext(f"a cat\nSteps: 20, {told}, CFG scale: 7").fields
    assert (fields["sampler"], fields["schedule"]) == (sampler, schedule)


@pytest.mark.parametrize("scale", [1.2, 1.5, 1.7, 1.9, 2.0])
@pytest.mark.parametrize("size", [(512, 512), (512, 768), (600, 424)])
def test_a_second_pass_has_the_sides_that_it_has_there(scale: float, size: tuple[int, int]) -> None:
    width, height = size
    told = f"a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: {width}x{height}, Denoising strength: 0.5"
    settings = read_infotext(f"{told}, Hires upscale: {scale}, Hires upscaler: Latent")
    ours = enlarged(Request.read({**settings.fields, "model": "mini"}).resolved(MINI.defaults), 8)
    theirs = tuple(int(side * scale) // 8 * 8 for side in size)
    assert (ours.width, ours.height) == theirs or left(settings)["Hires upscale"]
    assert (ours.width, ours.height) == theirs or size == (600, 424)


def test_a_size_that_a1111_would_make_of_no_scale_is_told() -> None:
    fields = {"seed": 1, "width": 512, "height": 512, "hires": {"scale": 1.7}}
    text = write_infotext(Request.read(fields).resolved(MINI.defaults), "")
    assert "Hires resize: 872x872" in text and read_infotext(text).fields["hires"]["scale"] == 1.7
    theirs = read_infotext(text.replace("Version: maquette ", "Version: v"))
    assert theirs.fields["hires"]["scale"] == 872 / 512


@pytest.mark.parametrize(
    ("told", "complaints"),
    [
        ("Version: v1.7.0", set()),
        ("Version: v1.10.1", {"Refiner switch at"}),
        ("Refiner switch by sampling steps: True, Version: v1.10.1", set()),
        ("Hires upscale: 2, Version: v1.7.0", {"Hires refiner"}),
        ("Hires upscale: 2, Hires refiner: both passes, Version: v1.7.0", set()),
    ],
)
def test_a_refiner_that_begins_elsewhere_there_is_named(told: str, complaints: set[str]) -> None:
    text = "Steps: 20, Sampler: Euler, CFG scale: 7, Refiner: other, Refiner switch at: 0.7, Denoising strength: 0.5"
    settings = read_infotext(f"a cat\n{text}, {told}")
    assert settings.fields["refiner"] == {"model": "other", "at": 0.7}
    assert {name for name in left(settings) if "efiner" in name} == complaints


@pytest.mark.parametrize("name", ["DPM adaptive", "Restart", "A Sampler Of Tomorrow"])
def test_a_sampler_that_is_not_here_is_named_and_left_to_the_model(name: str) -> None:
    settings = read_infotext(f"a cat\nSteps: 20, Sampler: {name}, CFG scale: 7")
    assert "sampler" not in settings.fields
    assert left(settings) == {"Sampler": name}


def test_a_picture_that_began_with_another_says_so() -> None:
    settings = read_infotext("a cat\nSteps: 20, Sampler: Euler, Denoising strength: 0.4, Mask blur: 4")
    assert left(settings) == {"Denoising strength": "0.4", "Mask blur": "4"}
    assert "not in the file" in settings.untranslated[0].why


@pytest.mark.parametrize("label", ["Heun", "DPM++ 2S a", "DPM++ SDE", "DPM++ 2M"])
@pytest.mark.parametrize("words", ["[a|b]", "[a:b:3]", "[a:b:0.5]"])
def test_words_that_count_steps_count_calls_of_the_network_there(label: str, words: str) -> None:
    settings = read_infotext(f"a cat\nNegative prompt: {words}\nSteps: 20, Sampler: {label}, Schedule type: Karras")
    assert left(settings) == ({} if words == "[a:b:0.5]" or label == "DPM++ 2M" else {"Sampler": label})
    assert all("twice a step" in each.why for each in settings.untranslated)


def test_texts_that_were_filled_up_are_said() -> None:
    (padded,) = read_infotext("a cat\nSteps: 20, Sampler: Euler, Pad conds: True").untranslated
    assert (padded.name, padded.value) == ("Pad conds", "True")
    assert "as if it were alone" in padded.why


def test_a_latent_second_pass_to_a_size() -> None:
    told = "Size: 512x768, Denoising strength: 0.7, Hires resize: 768x1152, Hires upscaler: Latent"
    settings = read_infotext(f"a cat\nSteps: 20, Sampler: Euler, {told}")
    assert settings.fields["hires"] == {"scale": 1.5, "strength": 20 / 28, "steps": 28, "by": "latent"}
    assert settings.untranslated == []


@pytest.mark.parametrize(
    ("size", "scale"),
    [("1024x0", 2.0), ("0x1152", 1.5), ("768x1150", 1.5), *((size, None) for size in ("1024x1152", "0x0", "x", "8"))],
)
def test_a_second_pass_to_one_side_or_to_another_shape(size: str, scale: float | None) -> None:
    told = f"Size: 512x768, Denoising strength: 0.7, Hires resize: {size}, Hires upscaler: Latent"
    settings = read_infotext(f"a cat\nSteps: 20, Sampler: Euler, {told}")
    assert settings.fields.get("hires", {}).get("scale") == scale
    assert left(settings) == ({} if scale else {"Hires resize": size})


def test_forge_tells_a_distilled_model_its_guidance() -> None:
    settings = read_infotext("a cat\nSteps: 20, Sampler: Euler, CFG scale: 1, Distilled CFG Scale: 3.5")
    assert (settings.fields["guidance"], settings.untranslated) == (3.5, [])
    assert "true_guidance" not in settings.fields
    settings = read_infotext("a cat\nSteps: 20, Sampler: Euler, CFG scale: 2, Distilled CFG Scale: 3.5")
    assert (settings.fields["guidance"], settings.fields["true_guidance"]) == (3.5, 2.0)


def test_two_scales_of_guidance_are_read_as_they_were_written(model) -> None:
    request = Request.read({"prompt": "a cat", "seed": 3, "guidance": 3.5, "true_guidance": 2.0})
    settings = read_infotext(write_infotext(request.resolved(model.family.defaults), "0" * 10))
    assert (settings.fields["guidance"], settings.fields["true_guidance"]) == (3.5, 2.0)


def test_what_extensions_append_does_not_hide_the_settings() -> None:
    settings = read_infotext("a cat\nSteps: 20, Seed: 3\nTemplate: a {cat|dog}\nNegative Template: x")
    assert (settings.fields["prompt"], settings.fields["seed"]) == ("a cat", 3)
    assert left(settings) == {"Template": "Template: a {cat|dog}\nNegative Template: x"}


@pytest.mark.parametrize(
    "text",
    [
        *("", "just words", "words\nSteps: many", "words\nSteps: 3, Size: big", "words\nSteps: 3, Clip skip: x"),
        f"Steps: {'9' * 5000}",
        "Steps: 3, Hires upscale: much",
        "Steps: 3, Variation seed: 1, Variation seed strength: much",
        "Steps: 3" + "," * MAX_INFOTEXT,
    ],
)
def test_what_is_no_infotext_is_refused(text: str) -> None:
    with pytest.raises(MaquetteError):
        read_infotext(text)


@pytest.mark.parametrize("unit", ["a", 'a: "', "a: ", " ", '"', "<lora:", "Steps: 1\n", "\\"])
def test_a_hostile_text_takes_no_time(unit: str) -> None:
    words = unit * (MAX_INFOTEXT // len(unit) - 20)
    for text in (f"{words}\nSteps: 1", f"Steps: 1, {words}"):
        assert read_infotext(text).fields["steps"] == 1


@pytest.mark.parametrize(("steps", "strength"), [(20, 0.7), (12, 0.55), (7, 1.0), (1, 0.01), (20, 0.5)])
def test_a_second_pass_walks_as_many_steps_as_theirs(steps: int, strength: float) -> None:
    """A1111's setup_img2img_steps lays out int(steps / min(strength, 0.999)) and walks the last `steps` of them."""
    whole = int(steps / min(strength, 0.999))
    for told in (f"Steps: 30, Hires steps: {steps}", f"Steps: {steps}"):
        text = f"a\n{told}, Denoising strength: {strength}, Hires upscale: 2, Sampler: Euler"
        hires = read_infotext(text).fields["hires"]
        assert (hires["steps"], kept_steps(hires["steps"], hires["strength"])) == (whole, steps)
    told = {"steps": 30, "hires": {"scale": 2.0, "strength": strength, "steps": whole}, "guidance": 7.0, "seed": 1}
    ours = Resolved.read({**told, "sampler": "euler", "schedule": "karras", "width": 64, "height": 64})
    assert f"Hires steps: {kept_steps(whole, strength)}," in write_infotext(ours, "")
