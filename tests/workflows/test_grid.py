"""Grids: what an axis may say, and that every cell is the picture that its settings give alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFont

from maquette.engine.adapt import Added, LoRAFile
from maquette.errors import MaquetteError
from maquette.workflows import loop, overlay
from maquette.workflows.grid import LETTERS, LINES, MARGIN, PITCH, Axis, _wrap, grid, sheet, varied
from maquette.workflows.overlay import chinese_font
from maquette.workflows.paint import paint
from maquette.workflows.request import Request


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("steps=5,10", Axis("steps", (5, 10))),
        ("guidance=1..3:3", Axis("guidance", (1.0, 2.0, 3.0))),
        ("replace=cat, dog", Axis("replace", ("cat", "dog"))),
        ("sampler=euler,ddim", Axis("sampler", ("euler", "ddim"))),
        ("hires.scale=1.5,2", Axis("hires.scale", (1.5, 2.0))),
        ("regions.weight=1,2", Axis("regions.weight", (1.0, 2.0))),
        ("loras.scale=0.5,1", Axis("loras.scale", (0.5, 1.0))),
        ("seed=1000000..1000004:5", Axis("seed", tuple(range(1000000, 1000005)))),
        ("seed=9223372036854775806..9223372036854775807:2", Axis("seed", (2**63 - 2, 2**63 - 1))),
        ("guidance=0..1:11", Axis("guidance", tuple(k / 10 for k in range(11)))),
        ("guidance=2..9:1", Axis("guidance", (2.0,))),
        ("model=../a.safetensors", Axis("model", ("../a.safetensors",))),
        ("prompt=a cat..", Axis("prompt", ("a cat..",))),
        ("negative=,ugly", Axis("negative", ("", "ugly"))),
        ('prompt="a cat, asleep", a dog,"5"" tall"', Axis("prompt", ("a cat, asleep", "a dog", '5" tall'))),
        ('prompt=a cat\nasleep,a 5" dog', Axis("prompt", ("a cat asleep", 'a 5" dog'))),
        ("replace=red,,blue", Axis("replace", ("red", "", "blue"))),
        ("steps=5,10,", Axis("steps", (5, 10))),
    ],
)
def test_an_axis_has_values_of_its_settings_kind(text: str, axis: Axis) -> None:
    assert Axis.read(text) == axis


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("steps", "is no axis"),
        ("steps=", "is no axis"),
        ("stepz=1", "'stepz' is not a setting; did you mean steps"),
        ("steps=ten", "steps cannot be 'ten'"),
        ("sampler=eular", "'eular' does not exist; did you mean euler"),
        ("steps=,", "is no axis"),
        ("guidance=1..x", "is no range"),
        ("guidance=1..9:0", "asks for 0 values; ask for 1 to 400, such as 1..9:5"),
        ("guidance=1..9:-1", "asks for -1 values"),
        ("guidance=1..9:401", "asks for 401 values"),
        ("replace=,blue", "replaces nothing"),
        ("image=nowhere.png", "image cannot be 'nowhere.png': there is no file nowhere.png"),
        ("steps.scale=1", "'steps.scale' is not a setting: steps has no parts; write steps="),
        ("loras.size=1", "'loras.size' is not a setting; known are file, scale, text_scale"),
        ("refiner=a,b", "refiner has parts; vary one of them: refiner.model, refiner.at"),
        ("interval=0.5", "interval cannot be '0.5': give 2 parts"),
        ('slg.layers="7,x"', "slg.layers cannot be '7,x'"),
        ("hires.scales=2", "'hires.scales' is not a setting; did you mean scale"),
        ('prompt="a cat,a dog', "is no list of values"),
    ],
)
def test_what_is_no_axis_is_said_in_a_line(text: str, complaint: str) -> None:
    with pytest.raises(MaquetteError, match=complaint):
        Axis.read(text)


def test_models_are_compared_too_one_after_the_other(model, monkeypatch) -> None:
    others, asked = {}, []
    for name, spread in (("other", 0.5), ("third", 0.7)):
        others[name] = type(model)()
        others[name].name = others[name].opened_as = name
        others[name].spread = spread

    def opened(_, name: str):
        asked.append(name)
        return others[name]

    monkeypatch.setattr("maquette.workflows.grid.companion", opened)
    axes = [Axis.read("model=gaussian,other,third"), Axis.read("steps=2,3")]
    whole, results = loop.run(grid(model, Request(prompt="a red apple", seed=7), axes))
    told = [(result.request.model, result.request.steps) for result in results]
    assert told == [(name, steps) for steps in (2, 3) for name in ("gaussian", "other", "third")]
    assert asked == ["other", "other", "third", "third"]
    assert results[0].latent_hashes != results[1].latent_hashes
    alone = loop.run(paint(others["other"], Request(prompt="a red apple", seed=7, steps=2)))
    assert results[1].latent_hashes == alone.latent_hashes
    assert whole.width > 3 * 32


def test_every_cell_is_the_picture_that_its_settings_give_alone(model) -> None:
    request = Request(prompt="a red apple", seed=7)
    axes = [Axis.read("steps=2,3"), Axis.read("replace=red,green,blue"), Axis.read("guidance=1,2")]
    work = grid(model, request, axes)
    steps = 0
    while True:
        try:
            next(work)
            steps += 1
        except StopIteration as end:
            whole, results = end.value
            break
    assert steps == 6 * (2 + 3)
    wanted = Request(prompt="a blue apple", seed=7, steps=3, guidance=2)
    assert results[-1].latent_hashes == loop.run(paint(model, wanted)).latent_hashes
    assert whole.width > 4 * 32 and whole.height > 3 * 16
    right = np.asarray(whole)[:, -38:-6][-22:-6]
    assert np.array_equal(right, np.asarray(results[-1].images[0]))


def test_parts_of_parts_are_varied_and_everything_is_checked_before_painting(model) -> None:
    request = Request.read({"hires": {"scale": 2.0, "strength": 0.3}})
    hires = varied(request, [Axis.read("hires.scale=3")], [3.0]).hires
    assert (hires.scale, hires.strength) == (3.0, 0.3)
    with pytest.raises(MaquetteError, match="too many"):
        next(grid(model, request, [Axis("seed", tuple(range(500)))]))


def test_cells_differ_by_nothing_else(model) -> None:
    _, results = loop.run(grid(model, Request(prompt="a red apple"), [Axis("guidance", (2.0, 2.0))]))
    assert results[0].request.seed == results[1].request.seed
    assert results[0].latent_hashes == results[1].latent_hashes


def test_pictures_begun_with_are_varied(model, tmp_path: Path) -> None:
    for name in ("red", "blue"):
        Image.new("RGB", (32, 32), name).save(tmp_path / f"{name}.png")
    Image.new("L", (32, 32), 255).save(tmp_path / "white.png")
    axis = Axis.read(f"image={tmp_path / 'red.png'},{tmp_path / 'blue.png'}")
    _, results = loop.run(grid(model, Request(prompt="a cat", seed=7), [axis]))
    for name, result in zip(("red", "blue"), results, strict=True):
        alone = Request.read({"prompt": "a cat", "seed": 7, "image": str(tmp_path / f"{name}.png")})
        assert result.latent_hashes == loop.run(paint(model, alone)).latent_hashes
        assert result.request.image.path == alone.image.path
    mask = Axis.read(f"mask={tmp_path / 'white.png'}")
    assert varied(alone, [mask], mask.values).mask.path == str(tmp_path / "white.png")


def test_two_axes_lead_into_the_same_part(model) -> None:
    request = Request(prompt="a red apple", seed=7, steps=2)
    axes = [Axis.read("hires.scale=1.5,2"), Axis.read("hires.strength=0.3,0.6")]
    _, results = loop.run(grid(model, request, axes))
    told = [(result.request.hires.scale, result.request.hires.strength) for result in results]
    assert told == [(1.5, 0.3), (2.0, 0.3), (1.5, 0.6), (2.0, 0.6)]
    begun = Request.read(
        {"image": Image.new("RGB", (32, 32)), "controls": [{"model": "a"}, {"model": "b", "end": 0.9}]}
    )
    for first, second, values in (
        ("variation.amount=0.2", "variation.seed=1", [0.2, 1]),
        ("controls.start=0.5", "controls.end=0.6", [0.5, 0.6]),
    ):
        both = varied(begun, [Axis.read(first), Axis.read(second)], values)
        assert varied(begun, [Axis.read(second), Axis.read(first)], values[::-1]) == both
    assert [(each.model, each.start, each.end) for each in both.controls] == [("a", 0.5, 0.6), ("b", 0.5, 0.6)]


def test_what_there_are_several_of_is_varied_in_each() -> None:
    boxes = [{"prompt": word, "box": "16x16+0+0", "feather": 3} for word in ("cat", "dog")]
    request = Request.read({"regions": boxes, "image": Image.new("RGB", (32, 32)), "controls": [{"model": "canny"}]})
    weighed = varied(request, [Axis.read("regions.weight=2"), Axis.read("controls.scale=0.5")], [2.0, 0.5])
    assert weighed.regions == Request.read({"regions": [{**box, "weight": 2.0} for box in boxes]}).regions
    assert [(control.model, control.scale) for control in weighed.controls] == [("canny", 0.5)]
    for name in ("regions.weight", "controls.scale", "loras.scale"):
        with pytest.raises(MaquetteError, match=f"{name} cannot be varied: the request has no {name.split('.')[0]}"):
            varied(Request(), [Axis.read(f"{name}=1")], [1.0])


@pytest.mark.parametrize("prompt", ["a cat", "a cat <lora:one:0.3>"])
def test_scales_of_loras_are_varied_wherever_they_were_named(model, tmp_path: Path, prompt: str) -> None:
    file = tmp_path / "one.safetensors"
    file.write_bytes(bytes(8))
    model.lora_folder, worn = tmp_path, []
    if "<" not in prompt:
        model.added = Added((LoRAFile(str(file), 0.3, None),), ())
    model.wear = worn.append
    axes = [Axis.read("loras.scale=0.5,1"), Axis.read("replace=cat,dog")]
    _, results = loop.run(grid(model, Request(prompt=prompt, seed=7), axes))
    told = [(result.request.prompt.strip(), [each.scale for each in result.request.loras]) for result in results]
    assert told == [("a cat", [0.5]), ("a cat", [1.0]), ("a dog", [0.5]), ("a dog", [1.0])]
    assert [each.scale for added in dict.fromkeys(worn) if added != model.added for each in added.loras] == [0.5, 1.0]


def test_words_are_replaced_in_both_prompts_or_it_is_said_that_there_are_none() -> None:
    axis = Axis.read("replace=blue,red")
    request = varied(Request(prompt="a blue cat", negative="blue sky"), [axis], ["red"])
    assert (request.prompt, request.negative) == ("a red cat", "red sky")
    assert varied(Request(prompt="a cat", negative="blue"), [axis], ["red"]).negative == "red"
    with pytest.raises(MaquetteError, match="'blue' is neither in the prompt nor in the negative"):
        varied(Request(prompt="a bleu cat"), [axis], ["blue"])
    both = [axis, Axis.read("prompt=a blue cat,a blue dog")]
    assert varied(Request(), both, ["red", "a blue dog"]).prompt == "a red dog"


def test_a_cell_shows_all_of_its_pictures(model) -> None:
    whole, (first, second) = loop.run(grid(model, Request(prompt="cat", seed=7, count=4), [Axis.read("steps=2,3")]))
    assert len(first.images) == len(second.images) == 4
    left, top = MARGIN + 2 * 32 + MARGIN, LETTERS + MARGIN
    for k, image in enumerate(second.images):
        x, y = left + k % 2 * 32, top + k // 2 * 16
        assert whole.crop((x, y, x + 32, y + 16)).tobytes() == image.tobytes()
    with pytest.raises(MaquetteError, match="512 pictures are too many"):
        next(grid(model, Request(count=256), [Axis.read("steps=2,3")]))


def test_labels_keep_to_their_cells() -> None:
    pictures, words = [Image.new("RGB", (64, 40), "white")] * 8, "a cat on a mat, " * 20
    axes = [Axis("prompt", (words, "a dog")), Axis("negative", (words, "x" * 3500)), Axis("model", (words, "mini"))]
    whole = np.asarray(sheet(pictures, axes).convert("L"))
    width = whole.shape[1] // 2
    left = width - 2 * (64 + MARGIN)
    assert left <= MARGIN + 2 * 64 + MARGIN
    for start in (0, width):
        for gap in (left - MARGIN, left + 64, left + 64 + MARGIN + 64):
            rows = slice(whole.shape[0] - 2 * (40 + MARGIN), None) if gap < left else slice(LINES * PITCH + 3, None)
            assert (whole[rows, start + gap : start + gap + MARGIN] == 255).all()
    assert (whole[: LINES * PITCH, width : width + MARGIN] == 255).all()


def test_a_label_is_divided_between_words_and_says_that_it_was_cut() -> None:
    font = ImageFont.load_default(LETTERS)
    words = "guidance of three and a half"
    assert _wrap(font, words, 1000, 3) == [words]
    lines = _wrap(font, words, 80, 3)
    assert len(lines) == 3 and " ".join(lines) == words and max(map(font.getlength, lines)) <= 80
    for text in (words * 9, "/models/" + "x" * 300, "first\nsecond " * 40):
        cut = _wrap(font, text, 80, 2)
        assert len(cut) == 2 and cut[-1].endswith("…") and max(map(font.getlength, cut)) <= 80
    assert _wrap(font, "wide", 1, 2) == ["w", "i…"]


@pytest.mark.parametrize("has_font", [True, False])
def test_chinese_values_can_be_told_apart(has_font: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_font:
        monkeypatch.setattr(overlay, "chinese_font", lambda: None)
    elif chinese_font() is None:
        pytest.skip("no font with Chinese letters")
    cell = Image.new("RGB", (200, 16), "white")
    whole = sheet([cell, cell], [Axis("replace", ("红", "蓝"))])
    first, second = (whole.crop((x, 0, x + 200, LETTERS + MARGIN)) for x in (MARGIN, MARGIN + 200 + MARGIN))
    assert ImageChops.difference(first, second).getbbox() is not None


def test_two_axes_of_one_setting_are_refused(model) -> None:
    with pytest.raises(MaquetteError, match="two axes vary steps"):
        next(grid(model, Request(), [Axis.read("steps=1,2"), Axis.read("steps=3,4")]))
    both = [Axis.read("replace=cat,dog"), Axis.read("replace=red,blue")]
    assert len(loop.run(grid(model, Request(prompt="a red cat", steps=1), both))[1]) == 4


def test_a_value_that_cannot_be_is_said_as_options_say_it() -> None:
    with pytest.raises(MaquetteError, match="^steps cannot be '-3': must be at least 1$"):
        Axis.read("steps=2,-3")
