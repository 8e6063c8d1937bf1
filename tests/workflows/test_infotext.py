import pytest

from maquette.diffusion.samplers import SAMPLERS
from maquette.diffusion.schedules import SCHEDULES
from maquette.errors import MaquetteError
from maquette.workflows.infotext import SAMPLER_LABELS, SCHEDULE_LABELS, read_infotext, write_infotext
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
]


@pytest.mark.parametrize("prompt", ODD)
@pytest.mark.parametrize("negative", ODD)
def test_round_trip(prompt: str, negative: str, model) -> None:
    fields = {"prompt": prompt, "negative": negative, "seed": 5, "guidance": 7.25, "model": 'a, "model": b'}
    request = Request.read(fields).resolved(model.family.defaults)
    assert Request.read(read_infotext(write_infotext(request, "ab" * 32))) == Request.read(request.model_dump())


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_has_one_label(name: str, model) -> None:
    request = Request(seed=1, sampler=name).resolved(model.family.defaults)
    assert read_infotext(write_infotext(request, ""))["sampler"] == name


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_one_label(name: str, model) -> None:
    request = Request(seed=1, schedule=name).resolved(model.family.defaults)
    assert read_infotext(write_infotext(request, ""))["schedule"] == name


def test_labels_are_for_names_that_exist() -> None:
    assert set(SAMPLER_LABELS) <= set(SAMPLERS)
    assert set(SCHEDULE_LABELS) <= set(SCHEDULES)


def test_reads_what_a1111_writes() -> None:
    text = (
        "a castle, (detailed:1.2)\non a hill\nNegative prompt: people,\nfog\n"
        "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 123456789, Size: 512x768, "
        'Model hash: 6ce0161689, Model: v1-5-pruned, Lora hashes: "one: 1a2b, two: 3c4d", Version: v1.10.1'
    )
    assert read_infotext(text) == {
        **{"prompt": "a castle, (detailed:1.2)\non a hill", "negative": "people,\nfog", "model": "v1-5-pruned"},
        **{"steps": 25, "sampler": "dpmpp_2m", "schedule": "karras", "guidance": 6.5, "seed": 123456789},
        **{"width": 512, "height": 768},
    }


@pytest.mark.parametrize("text", ["", "just words", "words\nSteps: many", "words\nSteps: 3, Size: big"])
def test_what_is_no_infotext_is_refused(text: str) -> None:
    with pytest.raises(MaquetteError):
        read_infotext(text)
