"""LoRAs and learned words of a request: found, merged for it alone, told in the picture and loaded again."""

import json
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import maquette
from maquette.cli import main as command
from maquette.engine.adapt import Added, LoRAFile
from maquette.engine.model import Model
from maquette.errors import MaquetteError
from maquette.weights.safetensors_file import write_safetensors
from maquette.workflows.foreign import Settings
from maquette.workflows.infotext import read_infotext
from maquette.workflows.loop import Result, resolve, run
from maquette.workflows.loras import file_hash, find_lora, take_tags, write_tag
from maquette.workflows.paint import paint
from maquette.workflows.picture import read_settings, read_texts
from maquette.workflows.reproduce import remarks, request_of
from maquette.workflows.request import Request
from maquette.workflows.settings import Embedding, Lora

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from small_models import write_original

TO_Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TE = "lora_te_text_model_encoder_layers_1_mlp_fc1"


def lora(seed: int, *, text: bool = True) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    shapes = {TO_Q: (32, 32)} | ({TE: (128, 64)} if text else {})
    tensors = {}
    for name, (out, into) in shapes.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(4, into, generator=made)
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, 4, generator=made)
    return tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two LoRAs in a folder of them and a learned word."""
    place = tmp_path_factory.mktemp("loras")
    write_original("sd1", place)
    (place / "loras" / "styles").mkdir(parents=True)
    write_safetensors(place / "loras" / "one.safetensors", lora(1))
    write_safetensors(place / "loras" / "styles" / "v1.5 two.safetensors", lora(2))
    write_safetensors(place / "sks.safetensors", {"emb_params": torch.randn(2, 64)})
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return maquette.open(folder / "sd1.safetensors", device="cpu", lora_folder=folder / "loras")


def weights(model: Model) -> dict[str, Tensor]:
    parts = {"unet": model.network, "text": model.encoders[0].tower}
    return {f"{part}.{name}": t.clone() for part, net in parts.items() for name, t in net.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


TOLD = {"prompt": "a red apple", "seed": 3, "steps": 2, "width": 64, "height": 64}


def painted(model: Model, **fields: object) -> Result:
    return run(paint(model, Request.read({**TOLD, **fields})))


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("one", Lora(file="one")),
        ("one:0.8", Lora(file="one", scale=0.8)),
        ("one:0.5:0.8", Lora(file="one", scale=0.8, text_scale=0.5)),
        ("one:0.5:0.5", Lora(file="one", scale=0.5)),
        ("one:te=0.5:unet=0.8", Lora(file="one", scale=0.8, text_scale=0.5)),
        ("one:unet=0.8", Lora(file="one", scale=0.8, text_scale=1.0)),
        ("a name: -1", Lora(file="a name", scale=-1.0)),
    ],
)
def test_tags_are_read_as_a1111_does(told: str, expected: Lora) -> None:
    words, [fields] = take_tags(f"a <lora:{told}>cat <b>")
    assert (words, Lora.model_validate(fields)) == ("a cat <b>", expected)
    assert Lora.model_validate(take_tags(write_tag(expected))[1][0]) == expected


def test_a_file_is_found_by_path_or_by_name(folder: Path) -> None:
    loras = folder / "loras"
    one, two = str(loras / "one.safetensors"), str(loras / "styles" / "v1.5 two.safetensors")
    assert find_lora(one, None) == one
    assert (
        find_lora("one", loras)
        == find_lora("one.safetensors", loras)
        == find_lora("/old/one.safetensors", loras)
        == one
    )
    assert find_lora("v1.5 two", loras) == two
    with pytest.raises(MaquetteError, match=r"there is no LoRA 'onee' in the folder .*; did you mean one\?"):
        find_lora("onee", loras)
    with pytest.raises(MaquetteError, match=r"there is no LoRA 'one'; give --lora-folder FOLDER"):
        find_lora("one", None)
    with pytest.raises(MaquetteError, match="there is no LoRA"):
        find_lora("x" * 5000, loras)


def test_a_lora_of_a_request_is_that_of_the_model_and_does_not_stay(model: Model, folder: Path) -> None:
    before, plain = weights(model), painted(model)
    asked = painted(model, prompt="a red apple<lora:one:0.5>")
    assert same(weights(model), before)
    assert painted(model).latent_hashes == plain.latent_hashes != asked.latent_hashes
    opened = maquette.open(folder / "sd1.safetensors", device="cpu", loras=[(folder / "loras/one.safetensors", 0.5)])
    assert painted(opened).latent_hashes == asked.latent_hashes
    assert painted(opened, loras=()).latent_hashes == plain.latent_hashes  # they take the place of the model's own
    assert painted(opened).latent_hashes == asked.latent_hashes
    assert painted(model, loras=[{"file": "one", "scale": 0.5}]).latent_hashes == asked.latent_hashes
    told = Request.read({"loras": ["one", ("two", 0.5), [Path("three"), 0.5, 0.25]]}).loras
    assert told == (Lora(file="one"), Lora(file="two", scale=0.5), Lora(file="three", scale=0.5, text_scale=0.25))


def test_requests_that_are_painted_by_turns_keep_to_their_own_loras(model: Model) -> None:
    before = weights(model)
    requests = [Request.read({**TOLD, "loras": loras}) for loras in ((), ("one",), ("v1.5 two",), ("one", "v1.5 two"))]
    alone = [run(paint(model, request)).latent_hashes for request in requests]
    assert len(set(map(tuple, alone))) == 4
    works, found = {k: paint(model, request) for k, request in enumerate(requests)}, {}
    while works:
        for k, work in list(works.items()):
            try:
                next(work)
            except StopIteration as end:
                found[k] = end.value.latent_hashes
                del works[k]
    assert [found[k] for k in range(4)] == alone
    assert same(weights(model), before)
    stopped = paint(model, requests[1])
    next(stopped)
    assert not same(weights(model), before)
    stopped.close()
    assert same(weights(model), before)


def test_text_and_network_have_scales_of_their_own(model: Model, folder: Path) -> None:
    file, before = folder / "loras" / "one.safetensors", weights(model)
    model.wear(Added(loras=(LoRAFile(file, 0.5, 0.25),)))
    found = weights(model)
    for scale, begin in ((0.5, "unet."), (0.25, "text.")):
        model.wear(Added(loras=(LoRAFile(file, scale),)))
        expected = weights(model)
        changed = [
            name for name in expected if name.startswith(begin) and not torch.equal(expected[name], before[name])
        ]
        assert len(changed) == 1
        assert all(torch.equal(found[name], expected[name]) for name in expected if name.startswith(begin))
    model.wear(model.added)
    assert same(weights(model), before)


def test_a_learned_word_is_known_for_one_request(model: Model, folder: Path) -> None:
    file, words = str(folder / "sks.safetensors"), "a sks cat"
    plain = painted(model, prompt=words)
    asked = painted(model, prompt=words, embeddings={"sks": file})
    assert asked.latent_hashes != plain.latent_hashes == painted(model, prompt=words).latent_hashes
    assert painted(model, prompt=words, embeddings=[file]).request.embeddings == (Embedding(word="sks", file=file),)
    assert asked.hashes == {"embedding sks": sha256(Path(file).read_bytes()).hexdigest()[:12]}


def test_the_hash_of_a_lora_is_that_of_its_tensors(tmp_path: Path) -> None:
    """As A1111 and training tools have it: what is written into the header changes nothing."""
    for name, metadata in (("a", {}), ("b", {"ss_comment": "longer"})):
        write_safetensors(tmp_path / f"{name}.safetensors", {"x": torch.arange(5.0)}, metadata)
    tensors = torch.arange(5.0).numpy().tobytes()
    assert file_hash(str(tmp_path / "a.safetensors")) == sha256(tensors).hexdigest()[:12]
    assert file_hash(str(tmp_path / "a.safetensors")) == file_hash(str(tmp_path / "b.safetensors"))
    (tmp_path / "a.pt").write_bytes(b"words")
    assert file_hash(str(tmp_path / "a.pt")) == sha256(b"words").hexdigest()[:12]


def test_a_picture_tells_its_loras_and_is_painted_again_with_them(model: Model, folder: Path, tmp_path: Path) -> None:
    result = painted(model, prompt="a red apple <lora:one:0.5:0.75>", loras=("v1.5 two",))
    [path] = result.save(tmp_path / "x.png")
    settings = read_settings(path)
    files = [str(folder / "loras" / "styles" / "v1.5 two.safetensors"), str(folder / "loras" / "one.safetensors")]
    assert [each["file"] for each in settings.fields["loras"]] == files
    assert settings.hashes["lora one"] == file_hash(files[1])
    again = run(paint(model, request_of(settings)))
    assert again.latent_hashes == result.latent_hashes
    assert list(remarks(settings, model, again.hashes)) == []
    settings.hashes["lora one"] = "0" * 12
    assert list(remarks(settings, model, again.hashes)) == [
        f"the lora one is another: 000000000000 painted it, this is {file_hash(files[1])}"
    ]
    with Image.open(path) as image:
        infotext = image.info["parameters"]
    assert infotext.startswith("a red apple  <lora:v1.5 two:1> <lora:one:0.5:0.75>\n")
    assert f'Lora hashes: "v1.5 two: {file_hash(files[0])}, one: {file_hash(files[1])}"' in infotext


def test_loras_of_one_name_are_told_one_by_one(model: Model, folder: Path, tmp_path: Path) -> None:
    files = [tmp_path / name / "x.safetensors" for name in ("a", "b")]
    for k, file in enumerate(files):
        file.parent.mkdir()
        write_safetensors(file, lora(k))
    result = painted(model, loras=[str(file) for file in files])
    hashes = [file_hash(str(file)) for file in files]
    assert result.hashes == dict(zip(("lora x", "lora x (2)"), hashes, strict=True))
    [path] = result.save(tmp_path / "x.png")
    settings = read_settings(path)
    write_safetensors(files[0], lora(3))
    assert list(remarks(settings, model, painted(model, loras=[str(file) for file in files]).hashes)) == [
        f"the lora x is another: {hashes[0]} painted it, this is {file_hash(str(files[0]))}"
    ]
    theirs = read_infotext(read_texts(path)["parameters"])
    assert {name: theirs.hashes[name] for name in result.hashes} == result.hashes
    assert [each["file"] for each in theirs.fields["loras"]] == ["x", "x"]


def test_loras_of_the_model_are_told_too(folder: Path, tmp_path: Path) -> None:
    file = folder / "loras" / "one.safetensors"
    opened = maquette.open(folder / "sd1.safetensors", device="cpu", loras=[(file, 0.5)])
    [path] = painted(opened).save(tmp_path / "x.png")
    plain = maquette.open(folder / "sd1.safetensors", device="cpu")
    again = run(paint(plain, request_of(read_settings(path))))
    with Image.open(path) as first:
        assert np.array_equal(np.asarray(first), np.asarray(again.images[0]))


def test_a_file_that_was_replaced_is_read_anew_and_told(folder: Path, tmp_path: Path) -> None:
    file, word = tmp_path / "x.safetensors", tmp_path / "sks.safetensors"

    def write(place: Path, tensors: dict[str, Tensor]) -> None:
        write_safetensors(tmp_path / "new.safetensors", tensors)
        (tmp_path / "new.safetensors").replace(place)

    def opened() -> Model:
        return maquette.open(folder / "sd1.safetensors", device="cpu", loras=[(file, 0.5)], embeddings={"sks": word})

    write(file, lora(1))
    write(word, {"emb_params": torch.ones(1, 64)})
    model = opened()
    first, before = painted(model, prompt="a sks"), weights(model)
    for place, tensors in ((file, lora(2)), (word, {"emb_params": torch.ones(1, 64) / 2})):
        write(place, tensors)
        new = painted(model, prompt="a sks")
        assert new.latent_hashes == painted(opened(), prompt="a sks").latent_hashes != first.latent_hashes
        assert new.hashes == {"lora x": file_hash(str(file)), "embedding sks": file_hash(str(word), whole=True)}
        assert new.hashes != first.hashes
        first = new
    assert not same(weights(model), before)
    work = paint(model, Request.read({**TOLD, "prompt": "a sks"}))
    next(work)
    write(file, lora(1))  # those who have begun go on with what they have
    with pytest.raises(StopIteration) as end:
        while True:
            next(work)
    assert (end.value.value.hashes, end.value.value.latent_hashes) == (first.hashes, first.latent_hashes)
    work = paint(model, Request.read({**TOLD, "prompt": "a sks"}))
    next(work)
    model.wear(Added())
    write(file, lora(2))
    with pytest.raises(MaquetteError, match=r"x\.safetensors: was changed while pictures were painted with it"):
        next(work)


def test_a_file_that_stays_is_merged_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = maquette.open(folder / "sd1.safetensors", device="cpu", loras=[(folder / "loras/one.safetensors", 0.5)])
    monkeypatch.setattr(opened, "_merge", lambda wanted: pytest.fail("it was merged again"))
    painted(opened)


def test_what_a_model_was_opened_with_is_told(folder: Path, tmp_path: Path) -> None:
    opened = maquette.open(
        folder / "sd1.safetensors", device="cpu", dtype=torch.bfloat16, text=folder / "sd1.safetensors"
    )
    [path] = painted(opened).save(tmp_path / "x.png")
    settings = read_settings(path)
    assert settings.fields["model"] == str(folder / "sd1.safetensors")
    assert settings.opened_with == {"dtype": "bfloat16", "text": [str(folder / "sd1.safetensors")]}


def test_the_precision_is_told_though_nobody_asked_for_it(folder: Path, tmp_path: Path) -> None:
    [path] = painted(maquette.open(folder / "sd1.safetensors", device="cpu")).save(tmp_path / "x.png")
    assert read_settings(path).opened_with == {"dtype": "float32"}


def test_loras_of_other_programs_that_are_not_here_are_named(folder: Path) -> None:
    settings = Settings(program="A1111", fields={"prompt": "a"})
    settings.fields["loras"] = [{"file": "one", "scale": 0.5}, {"file": "gone", "scale": 0.7}]
    assert request_of(settings, lora_folder=folder / "loras").loras == (Lora(file="one", scale=0.5),)
    assert [str(each) for each in settings.untranslated] == [
        "lora 'gone:0.7': it is not found; give --lora-folder FOLDER, or --lora FILE:SCALE"
    ]
    assert request_of(settings).loras is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "a <lora:one:much>"}, r"without a number; write <lora:name:0\.8>"),
        ({"prompt": "a <lora:one:nan>"}, "without a number"),
        ({"prompt": "a <lora:none:1>"}, "there is no LoRA 'none' in the folder"),
        ({"negative": "a <lora:one:1>"}, "stands in the words of the negative prompt; write it in the prompt"),
        ({"regions": [{"prompt": "<lora:one:1>", "box": "0,0,8,8"}]}, "in the words of a region"),
        ({"variation": {"prompt": "<lora:one:1>"}}, "in the words of the variation"),
    ],
)
def test_a_mistake_is_named_before_anything_is_painted(fields: dict, message: str, model: Model) -> None:
    with pytest.raises(MaquetteError, match=message):
        resolve(Request.read({**TOLD, **fields}), model)


def test_a_lora_of_another_family_changes_nothing(model: Model, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "flux.safetensors", {"double_blocks.0.img_attn.qkv.lora_A.weight": torch.ones(1, 9)})
    before = weights(model)
    with pytest.raises(MaquetteError, match=r"flux\.safetensors"):
        painted(model, loras=[str(tmp_path / "flux.safetensors")])
    assert same(weights(model), before)


def test_the_command_finds_loras_by_option_and_environment(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["txt2img", "a red apple <lora:one:0.5>", "--model", str(folder / "sd1.safetensors"), "--device", "cpu"]
    words += ["--steps", "1", "--size", "64x64", "--seed", "1"]
    assert command.run([*words, "--out", "x.png"]) == 2
    assert "there is no LoRA 'one'; give --lora-folder FOLDER" in capsys.readouterr().err
    assert command.run([*words, "--lora-folder", str(folder / "loras"), "--out", "x.png"]) == 0
    monkeypatch.setenv("MAQUETTE_LORA_FOLDER", str(folder / "loras"))
    assert command.run([*words, "--out", "y.png"]) == 0
    told = [json.loads(read_texts(Path(name))["maquette"]) for name in ("x.png", "y.png")]
    assert told[0] == told[1]
    assert told[0]["request"]["loras"] == [{"file": str(folder / "loras" / "one.safetensors"), "scale": 0.5}]
    capsys.readouterr()
    monkeypatch.delenv("MAQUETTE_LORA_FOLDER")
    assert command.run(["reproduce", "x.png", "--device", "cpu"]) == 0  # model and LoRA are where they were
    assert capsys.readouterr().out.startswith("identical")
