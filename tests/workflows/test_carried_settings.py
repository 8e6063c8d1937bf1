"""Settings in files of every kind, as programs write them."""

import json
from pathlib import Path

import pytest
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from maquette.errors import MaquetteError
from maquette.workflows.exif import decode_comment
from maquette.workflows.foreign import MAX_TEXT
from maquette.workflows.picture import Origin, encode_png, read_request, read_settings
from maquette.workflows.request import Request

INFOTEXT = "一只猫 a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512"
USER_COMMENT, EXIF_IFD, MAKE, MODEL = 0x9286, 0x8769, 0x010F, 0x0110
GRAPH = {
    "1": {
        "class_type": "KSampler",
        "inputs": {
            **{"seed": 7, "steps": 9, "cfg": 3, "sampler_name": "lcm", "scheduler": "simple", "denoise": 1},
            **{"positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0], "model": ["4", 0]},
        },
    },
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
    "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15"}},
}
INVOKE = {"positive_prompt": "a cat", "steps": 9, "scheduler": "lcm", "seed": 7}
OLD_INVOKE = {"image": {"prompt": "a cat", "steps": 9, "sampler": "ddim", "seed": 7}}


def png(folder: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name.replace("_dash_", "-"), text)
    Image.new("RGB", (8, 8)).save(folder / "x.png", pnginfo=info)
    return folder / "x.png"


@pytest.mark.parametrize(
    ("texts", "program"),
    [
        ({"parameters": INFOTEXT}, "A1111"),
        ({"prompt": json.dumps(GRAPH), "workflow": "{}"}, "ComfyUI"),
        ({"invokeai_metadata": json.dumps(INVOKE)}, "InvokeAI"),
        ({"sd_dash_metadata": json.dumps(OLD_INVOKE), "Dream": "x"}, "InvokeAI"),
        ({"Dream": '"a cat" -s 9 -S 7 -A k_lms'}, "InvokeAI"),
    ],
)
def test_a_png_of_each_program(texts: dict[str, str], program: str, tmp_path: Path) -> None:
    settings = read_settings(png(tmp_path, **texts))
    assert settings.program == program
    assert "a cat" in read_request(tmp_path / "x.png").prompt
    assert settings.fields["seed"] in (5, 7)


def test_our_own_tells_its_version_and_hashes(tmp_path: Path, model) -> None:
    request = Request.read({"seed": 7, "hires": {"scale": 1.5}}).resolved(model.family.defaults)
    data = encode_png(Image.new("RGB", (8, 8)), Origin(request=request, model_hash="ab" * 32, latent_hash="cd" * 32))
    (tmp_path / "x.png").write_bytes(data)
    settings = read_settings(tmp_path / "x.png")
    assert settings.hashes == {"model": "ab" * 32, "latent": "cd" * 32}
    assert (settings.program, settings.noise, settings.untranslated) == ("Maquette", "cpu", [])
    assert "with torch 2" in settings.version
    assert read_request(tmp_path / "x.png").hires == request.hires


@pytest.mark.parametrize("kind", ["jpg", "webp", *(["avif"] if features.check("avif") else [])])
@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-16"])
def test_a_user_comment_of_jpeg_and_webp(kind: str, encoding: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[MAKE] = "a tag"  # Pillow takes one without any for empty
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + INFOTEXT.encode(encoding)
    Image.new("RGB", (8, 8)).save(tmp_path / f"x.{kind}", exif=exif)
    settings = read_settings(tmp_path / f"x.{kind}")
    assert (settings.program, settings.fields["prompt"], settings.fields["seed"]) == ("A1111", "一只猫 a cat", 5)


def test_a_graph_in_the_tags_of_a_webp(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[MODEL], exif[MAKE] = f"prompt:{json.dumps(GRAPH)}", "workflow:{}"
    Image.new("RGB", (8, 8)).save(tmp_path / "x.webp", exif=exif)
    assert read_settings(tmp_path / "x.webp").fields["sampler"] == "lcm"


@pytest.mark.parametrize("comment", [b"", b"ASCII\0\0\0", b"UNICODE\0\xd8", b"UNICODE\0\xff\xfe\x00", b"\xff" * 9])
def test_a_damaged_comment_is_some_text(comment: bytes) -> None:
    assert isinstance(decode_comment(comment), str)
    assert decode_comment(b"ASCII\0\0\0Steps: 3\0\0") == "Steps: 3"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"parameters": "Steps: many"}, r"x\.png: the settings .* hold no number"),
        ({"prompt": "[" * 100_000}, r"x\.png: the text 'prompt' is no graph"),
        ({"maquette": "[" * 100_000}, r"x\.png: the text 'maquette' is not what Maquette writes"),
        ({"maquette": '{"request": [[1]]}'}, r"x\.png: the text 'maquette' is not what Maquette writes"),
        ({"parameters": "x" * (MAX_TEXT + 1)}, "too many to be settings"),
        ({"title": "a cat"}, "carries no settings"),
    ],
)
def test_a_text_that_is_damaged_or_too_long_is_one_line(texts: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match=message) as caught:
        read_settings(png(tmp_path, **texts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_a_picture_cut_off_or_changed_anywhere_makes_no_other_error(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + INFOTEXT.encode("utf-16-be")
    info = PngInfo()
    info.add_itxt("parameters", INFOTEXT, zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / f"x.{kind}", exif=exif, **({"pnginfo": info} if kind == "png" else {}))
    data = (tmp_path / f"x.{kind}").read_bytes()
    for place in range(0, len(data), 7):
        for changed in (data[:place], data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :]):
            (tmp_path / f"x.{kind}").write_bytes(changed)
            try:
                read_settings(tmp_path / f"x.{kind}")
            except MaquetteError as error:
                assert "\n" not in str(error)
