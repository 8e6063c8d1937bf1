import pytest

from maquette.diffusion.samplers import SAMPLERS
from maquette.diffusion.schedules import SCHEDULES
from maquette.errors import MaquetteError
from maquette.workflows.foreign import Settings
from maquette.workflows.infotext import MAX_INFOTEXT, SAMPLER_LABELS, SCHEDULE_LABELS, read_infotext, write_infotext
from maquette.workflows.request import Request

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
        "hires": {"scale": 1.5, "strength": 0.55, "by": "pixel", "steps": 12},
        "refiner": {"model": "sd_xl_refiner_1.0", "at": 0.75},
    }
    assert left(settings) == {
        **{"lora": "whiskers:0.7", "embedding": "bad-hands-5", "VAE": "vae-ft-mse.ckpt", "Tiling": "True"},
        "Hires upscaler": "4x-UltraSharp",
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
        ("Sampler: UniPC", "unipc", "leading"),
        ("Sampler: euler A", "euler_a", "linspace"),
    ],
)
def test_samplers_and_schedules_of_every_version(told: str, sampler: str, schedule: str) -> None:
    fields = read_infotext(f"a cat\nSteps: 20, {told}, CFG scale: 7").fields
    assert (fields["sampler"], fields["schedule"]) == (sampler, schedule)


@pytest.mark.parametrize("name", ["DPM adaptive", "PLMS", "A Sampler Of Tomorrow"])
def test_a_sampler_that_is_not_here_is_named_and_left_to_the_model(name: str) -> None:
    settings = read_infotext(f"a cat\nSteps: 20, Sampler: {name}, CFG scale: 7")
    assert "sampler" not in settings.fields
    assert left(settings) == {"Sampler": name}


def test_a_picture_that_began_with_another_says_so() -> None:
    settings = read_infotext("a cat\nSteps: 20, Sampler: Euler, Denoising strength: 0.4, Mask blur: 4")
    assert left(settings) == {"Denoising strength": "0.4", "Mask blur": "4"}
    assert "not in the file" in settings.untranslated[0].why


def test_a_latent_second_pass_to_a_size() -> None:
    told = "Size: 512x768, Denoising strength: 0.7, Hires resize: 768x1152, Hires upscaler: Latent"
    settings = read_infotext(f"a cat\nSteps: 20, Sampler: Euler, {told}")
    assert settings.fields["hires"] == {"scale": 1.5, "strength": 0.7, "by": "latent"}
    assert settings.untranslated == []


def test_forge_tells_a_distilled_model_its_guidance() -> None:
    settings = read_infotext("a cat\nSteps: 20, Sampler: Euler, CFG scale: 1, Distilled CFG Scale: 3.5")
    assert (settings.fields["guidance"], settings.untranslated) == (3.5, [])


def test_what_extensions_append_does_not_hide_the_settings() -> None:
    settings = read_infotext("a cat\nSteps: 20, Seed: 3\nTemplate: a {cat|dog}\nNegative Template: x")
    assert (settings.fields["prompt"], settings.fields["seed"]) == ("a cat", 3)
    assert left(settings) == {"Template": "Template: a {cat|dog}\nNegative Template: x"}


@pytest.mark.parametrize(
    "text",
    [
        *("", "just words", "words\nSteps: many", "words\nSteps: 3, Size: big", "words\nSteps: 3, Clip skip: x"),
        f"Steps: {'9' * 5000}",
        f"Steps: 3, Size: 8x8, Hires resize: {'9' * 400}x8",
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
