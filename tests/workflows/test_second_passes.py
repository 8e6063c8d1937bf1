"""What a request means when only a part of the way is walked, or a second pass follows a first."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.singlestep import Step
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.models.rrdb import RRDB, RRDBSpec
from maquette.models.rrdb_names import DIALECTS
from maquette.text.script import second_pass
from maquette.workflows.canvas import pad_edges
from maquette.workflows.hires import enlarged
from maquette.workflows.loop import resolve, run
from maquette.workflows.paint import count_steps, paint
from maquette.workflows.picture import read_settings
from maquette.workflows.reproduce import compare, request_of
from maquette.workflows.request import MAX_PIXELS, REPAINTED, Request
from maquette.workflows.settings import Picture

SIZE = {"width": 64, "height": 64}


def scene() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))


def told(model: Model, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> list[str]:
    """The texts that the model is told while it paints, in order."""
    texts: list[str] = []
    before = type(model).condition

    def condition(self: Model, prompts: list[str], **how: Any) -> Conditioning:
        texts.extend(() if how.get("negative") else prompts)
        return before(self, prompts, **how)

    monkeypatch.setattr(type(model), "condition", condition)
    run(paint(model, Request.read({"seed": 7, "steps": 4, **SIZE, **fields})))
    return texts


@pytest.mark.parametrize(
    ("prompt", "later"),
    [
        ("a [b:.5] c", "a b c"),  # A1111's own examples for its second pass (modules/prompt_parser.py)
        ("a [b:1.5] c", "a [:b:2] c"),  # of the five steps that it walks
        ("a [b:1.1] c", "a b c"),
        ("a [b:c:12] [d::3]", "a [b:c:2] "),
        ("[a|[b:c:1.0]]", "[a|c]"),
        ("[words] (more:1.2) [a:b", "[words] (more:1.2) [a:b"),
    ],
)
def test_what_a_second_pass_says(prompt: str, later: str) -> None:
    assert second_pass(prompt, 10, 5) == later


def test_fractions_are_of_the_steps_that_a_second_pass_walks(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    hires = {"scale": 1.5, "strength": 0.5, "steps": 8}
    texts = told(model, monkeypatch, prompt="[pear:plum:1.5]", hires=hires)
    assert [text for text in texts if text] == ["pear", "pear", "plum"]  # each is read once a pass


def test_steps_of_both_passes_are_counted(model: Model) -> None:
    hires = {"scale": 1.5, "strength": 0.5, "steps": 8}
    request = Request.read({"seed": 7, "steps": 3, **SIZE, "hires": hires})
    walked: list[Step] = []
    run(paint(model, request), walked.append)
    assert len(walked) == count_steps(resolve(request, model)) == 3 + 4


def test_what_details_alone_would_not_heed_is_refused(model: Model) -> None:
    fields = {"image": scene(), "detail": {"boxes": ((8, 8, 40, 40),)}, "seed": 7, "steps": 2}
    for name, value in (("regions", [{"prompt": "a", "box": (0, 0, 8, 8)}]), ("tiles", {"size": 64, "overlap": 8})):
        with pytest.raises(MaquetteError, match=f"{name} act on whole pictures"):
            run(paint(model, Request.read({**fields, name: value})))


def test_the_seeds_of_variations_end_where_seeds_do() -> None:
    with pytest.raises(MaquetteError, match=r"variation\.seed 9223372036854775807 leaves no seeds for 2 pictures"):
        Request.read({"count": 2, "variation": {"seed": 2**63 - 1, "amount": 0.1}})


def test_words_change_from_the_first_step_that_is_walked(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in A1111: of 4 steps the last 3 are walked, 2 of them with the first word."""
    words = told(model, monkeypatch, prompt="[apple:pear:0.5]", image=scene(), strength=0.75)
    assert words == ["apple", "pear"]
    assert told(model, monkeypatch, prompt="[apple:pear:0.5]", image=scene(), strength=0.5) == ["apple"]


def test_a_second_pass_begins_with_what_a_network_enlarged(model: Model, tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = RRDB(RRDBSpec(width=8, growth=4, blocks=1))
    torch.nn.init.zeros_(network.conv_out.weight)
    network.conv_out.bias.data = torch.tensor([0.9, 0.1, 0.4])  # all that it paints is of one colour
    view = DIALECTS[0].write(network.state_dict(), network)
    save_file({name: view[name].clone() for name in view}, tmp_path / "x4.safetensors")
    hires = {"scale": 2.0, "strength": 0.2, "upscaler": str(tmp_path / "x4.safetensors")}
    told = {"seed": 7, "steps": 5, **SIZE}
    [image] = run(paint(model, Request.read({**told, "hires": hires}))).images
    flat = Image.new("RGB", (64, 64), tuple(round(255 * each) for each in (0.9, 0.1, 0.4)))
    begun = {"image": flat, "strength": 0.2, "width": 128, "height": 128}
    [other] = run(paint(model, Request.read({**told, **begun}))).images
    assert image.size == (128, 128)
    assert np.abs(np.asarray(image, int) - np.asarray(other, int)).max() <= 1
    with pytest.raises(MaquetteError, match="has an upscaler, which enlarges pictures"):
        Request.read({**told, "hires": {**hires, "by": "latent"}})


def test_an_upscaler_that_is_none_is_refused_before_anything_is_painted(model: Model, tmp_path: Path) -> None:
    asked = {"seed": 7, "hires": {"upscaler": str(tmp_path / "typo.pth")}, **SIZE}
    with pytest.raises(MaquetteError, match="typo.pth: cannot be opened"):
        run(paint(model, Request.read(asked)))
    assert getattr(model, "evaluations", 0) == 0


def test_a_region_may_have_the_shape_of_a_photo_that_is_no_multiple(model: Model) -> None:
    photo, mask = scene().resize((76, 61)), Image.new("L", (76, 61))
    mask.paste(255, (0, 0, 30, 61))
    asked = {"image": photo, "regions": [{"prompt": "pear", "mask": mask}], "strength": 0.5, "seed": 1}
    for further, size in (({}, (80, 64)), ({"mask": Image.new("L", (76, 61), 255)}, (76, 61))):
        assert run(paint(model, Request.read({**asked, **further}))).images[0].size == size
    with pytest.raises(MaquetteError, match="their shapes differ"):
        other = [{"prompt": "pear", "mask": mask.resize((61, 76))}]
        run(paint(model, Request.read({**asked, "regions": other})))


def test_a_region_lies_over_a_photo_that_is_padded(model: Model) -> None:
    def painted(photo: Image.Image, mask: Image.Image) -> list[str]:
        asked = {"image": photo, "mask": Image.new("L", photo.size, 255), "seed": 1}
        return run(paint(model, Request.read({**asked, "regions": [{"prompt": "pear", "mask": mask}]}))).latent_hashes

    photo, mask = scene().resize((76, 61)), Image.new("L", (76, 61))
    mask.paste(255, (0, 0, 30, 61))
    assert painted(photo, mask) == painted(pad_edges(photo, 0, 0, 4, 3), pad_edges(mask, 0, 0, 4, 3))


def test_details_have_nothing_of_another_mask(model: Model) -> None:
    asked = {"image": scene(), "mask": Image.new("L", (64, 64), 255), "seed": 7, "strength": 0.3, "steps": 6}
    detail = {"boxes": ((8, 8, 40, 40),), "strength": 0.5, "size": 64}
    first = run(paint(model, Request.read({**asked, "mask_grey": "strength"}))).images[0]
    both = run(paint(model, Request.read({**asked, "mask_grey": "strength", "detail": detail}))).images[0]
    alone = run(paint(model, Request.read({"image": first, "seed": 7, "steps": 6, "detail": detail}))).images[0]
    assert np.array_equal(np.asarray(both), np.asarray(alone))


@pytest.mark.parametrize("padding", [0.0, 0.5])
def test_the_soft_edge_of_a_small_detail_is_not_cut(padding: float, model: Model) -> None:
    image = Image.new("RGB", (64, 64), (200, 30, 90))
    detail = {"boxes": ((30, 30, 34, 34),), "size": 64, "padding": padding, "feather": 8, "strength": 1.0}
    (new,) = run(paint(model, Request.read({"image": image, "seed": 7, "detail": detail}))).images
    changes = np.abs(np.asarray(new, int) - np.asarray(image, int)).max(-1)[32]
    assert (changes[24:40] > 0).all() and (changes[:22] == 0).all() and (changes[42:] == 0).all()
    assert np.abs(np.diff(changes)).max() < changes.max() / 2


@pytest.mark.parametrize("box", [(10, 40, 54, 120), (0, 40, 64, 120)])
def test_the_soft_edge_of_a_detail_longer_than_the_picture_is_wide_is_not_cut(
    box: tuple[int, int, int, int], model: Model
) -> None:
    image = Image.new("RGB", (64, 160), (200, 30, 90))
    detail = {"boxes": (box,), "size": 64, "feather": 8, "strength": 1.0}
    (new,) = run(paint(model, Request.read({"image": image, "seed": 7, "detail": detail}))).images
    changes = np.abs(np.asarray(new, int) - np.asarray(image, int)).max(-1)[:, 32]
    assert (changes[34:126] > 0).all() and (changes[:32] == 0).all() and (changes[128:] == 0).all()
    assert np.abs(np.diff(changes)).max() < changes.max() / 2


def test_regions_lie_over_the_same_part_of_a_larger_picture(model: Model) -> None:
    fields = {"regions": [{"prompt": "[a:b:6]", "box": (32, 0, 64, 64), "feather": 8}], "hires": {"scale": 1.5}}
    request = resolve(Request.read({"steps": 4, **SIZE, **fields}), model)
    (region,) = enlarged(request, model.multiple).regions
    assert (region.box, region.feather, region.prompt) == ((48, 0, 96, 96), 12, "[a:b:2]")


def test_regions_lie_over_the_same_part_of_a_larger_picture_that_was_painted_with_a_few_pixels_more(
    model: Model,
) -> None:
    image, mask = Image.new("RGB", (60, 60)), Image.new("L", (60, 60), 255)
    regions = [{"prompt": "a", "box": (30, 0, 64, 64)}, {"prompt": "b", "box": (60, 0, 64, 64)}]  # the other is cut off
    fields = {"image": image, "mask": mask, "strength": 0.5, "steps": 4, "seed": 7}
    request = Request.read({**fields, "regions": regions, "hires": {"scale": 2.0}})
    larger = enlarged(resolve(request, model), model.multiple)
    assert (larger.width, larger.height) == (120, 120)
    assert [(region.prompt, region.box) for region in larger.regions] == [("a", (60, 0, 120, 120))]
    assert run(paint(model, request)).images[0].size == (120, 120)
    with pytest.raises(MaquetteError, match="60x60"):
        run(paint(model, Request.read({**fields, "detail": {"boxes": ((60, 0, 64, 64),)}})))


def test_the_words_of_a_variation_are_read_as_those_of_the_prompt(model: Model) -> None:
    def painted(words: str) -> list[str]:
        fields = {"prompt": "apple", "seed": 7, **SIZE, "variation": {"prompt": words, "amount": 1.0}}
        return run(paint(model, Request.read(fields))).latent_hashes

    assert painted("[pear|pear]") == painted("pear") != painted("[pear|plum]")
    with pytest.raises(MaquetteError, match="leave out AND"):
        painted("a AND b")


def test_a_region_may_be_what_is_white_in_a_mask(model: Model, tmp_path: Path) -> None:
    mask, path = Image.new("L", (128, 128)), tmp_path / "mask.png"
    mask.paste(255, (64, 0, 128, 128))
    mask.save(path)
    told = {"prompt": "apple", "seed": 7, **SIZE}

    def painted(*regions: dict) -> list[str]:
        return run(paint(model, Request.read({**told, "regions": regions}))).latent_hashes

    by_mask = painted({"prompt": "pear", "mask": str(path)})
    assert by_mask == painted({"prompt": "pear", "box": (32, 0, 64, 64), "feather": 0})
    assert by_mask != painted()
    larger = Request.read({**told, "regions": [{"prompt": "pear", "mask": str(path)}], "hires": {"scale": 1.5}})
    assert run(paint(model, larger)).images[0].size == (96, 96)


@pytest.mark.parametrize(
    ("region", "complaint"),
    [
        ({"prompt": "x"}, "needs a box or a mask"),
        ({"prompt": "x", "box": (0, 0, 8, 8), "mask": "mask.png"}, "needs a box or a mask, and not both"),
        ({"prompt": "x", "mask": "wide.png"}, "their shapes differ"),
        ({"prompt": "x", "mask": "black.png"}, "is empty"),
    ],
)
def test_a_region_that_lies_nowhere_is_refused(
    region: dict, complaint: str, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, size, colour in (("mask", (64, 64), 255), ("wide", (64, 32), 255), ("black", (64, 64), 0)):
        Image.new("L", size, colour).save(f"{name}.png")
    with pytest.raises(MaquetteError, match=complaint):
        resolve(Request.read({"regions": [region], **SIZE}), model)


def test_how_much_is_new_is_told(model: Model) -> None:
    image, mask = scene(), Image.new("L", (64, 64), 255)
    assert resolve(Request(image=Picture(image)), model).strength == 0.75
    assert resolve(Request(image=Picture(image), mask=Picture(mask)), model).strength == REPAINTED
    assert resolve(Request.read({"image": image, "hires": {"scale": 2.0}}), model).strength is None


@pytest.mark.parametrize("noise", ["comfyui", "cpu"])
def test_pictures_drawn_together_are_painted_again(noise: str, model: Model, tmp_path: Path) -> None:
    request = Request.read({"prompt": "a cat", "seed": 7, "count": 2, "noise": noise, **SIZE})
    result = run(paint(model, request))
    for path, image in zip(result.save(tmp_path / "x.png"), result.images, strict=True):
        settings = read_settings(path)
        assert settings.place == (int(path.stem[-1]) - 1 if noise == "comfyui" else None)
        again = run(paint(model, request_of(settings)))
        assert compare(again, settings, image).identical


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "L", "RGB"])
def test_a_picture_that_was_exchanged_is_noticed(mode: str, tmp_path: Path) -> None:
    """Of two pictures that differ in what RGB does not hold, too."""
    one, other = (Image.new(mode, (8, 8), colour) for colour in COLOURS[mode])
    assert Picture(one) == Picture(one.copy()) != Picture(other)
    one.save(tmp_path / "x.png")
    record = Picture.read(tmp_path / "x.png").told()
    other.save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="is another picture"):
        Picture.read(record)


COLOURS: dict[str, tuple[Any, Any]] = {
    "RGBA": ((9, 9, 9, 255), (9, 9, 9, 0)),
    "I;16": (40_000, 50_000),
    "L": (3, 4),
    "RGB": ((1, 2, 3), (1, 2, 4)),
}


def test_a_size_that_is_asked_for_is_painted(model: Model) -> None:
    image, mask = scene(), Image.new("L", (64, 64), 255)
    fields = {"image": image, "mask": mask, "width": 80, "height": 80}
    assert run(paint(model, Request.read(fields))).images[0].size == (80, 80)


def test_a_grey_mask_beside_an_extension_is_as_grey_as_it_was(model: Model) -> None:
    from maquette.workflows.begun import canvas

    request = Request.read({"image": scene(), "mask": Image.new("L", (64, 64), 128), "extend": {"left": 8}})
    assert canvas(resolve(request, model))[1].getpixel((40, 30)) == 128


def test_the_words_of_vary_may_hold_weights() -> None:
    from maquette.cli.painting import READERS

    read = READERS["vary"][1]
    assert read("a (red:1.3) apple") == {"prompt": "a (red:1.3) apple", "amount": 0.1}
    assert read("a (red:1.3) apple:.4") == {"prompt": "a (red:1.3) apple", "amount": 0.4}
    assert read("12:0.5") == {"seed": 12, "amount": 0.5}


def test_what_follows_a_seed_of_vary_is_a_number() -> None:
    from maquette.cli.painting import READERS

    read = READERS["vary"][1]
    assert read("8:4e-1") == {"seed": 8, "amount": 0.4}
    for amount in ("0,4", "40%", "", "much"):
        with pytest.raises(MaquetteError, match=f"--vary: '{amount}' is no number"):
            read(f"8:{amount}")
    with pytest.raises(MaquetteError, match=r"variation\.amount"):
        Request.read({"variation": read("8:-0.4")})


def test_details_of_a_photo_that_is_too_large_to_be_painted_are_repainted(model: Model) -> None:
    photo = Image.new("RGB", (5000, 4000), (9, 99, 199))
    assert photo.width * photo.height > MAX_PIXELS
    result = run(
        paint(model, Request.read({"image": photo, "detail": {"boxes": [(4900, 3900, 4964, 3964)]}, "seed": 7}))
    )
    (new,) = result.images
    assert new.size == photo.size and result.request.width * result.request.height <= MAX_PIXELS
    kept, changed = ((0, 0, 4000, 3000), (4900, 3900, 4964, 3964))
    assert new.crop(kept).tobytes() == photo.crop(kept).tobytes()
    assert new.crop(changed).tobytes() != photo.crop(changed).tobytes()


def test_a_regions_mask_lies_over_the_extended_picture(model: Model) -> None:
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 100, 3), np.uint8))
    mask = Image.new("L", (140, 60))
    mask.paste(255, (0, 0, 30, 60))

    def painted(mask: Image.Image) -> list[str]:
        region = {"prompt": "pear", "mask": mask}
        fields = {"image": photo, "extend": {"right": 40}, "seed": 1, "regions": [region]}
        result = run(paint(model, Request.read(fields)))
        assert result.images[0].size == (140, 60)
        return result.latent_hashes

    assert painted(mask) == painted(pad_edges(mask, 0, 0, 4, 4))
