"""The same noise, words and steps give the picture that diffusers' pipelines give, whatever the layout of the weights.

The small models are written as original single files, opened by us, converted to folders and opened by diffusers.
"""

from pathlib import Path

import pytest
import torch
from against_diffusers import (
    CASES,
    LAYOUTS,
    PROMPT,
    compared_tensors,
    encoding_error,
    give,
    open_file,
    open_folder,
    paint_ours,
    paint_theirs,
    psnr,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # diffusers and transformers warn of each other


@pytest.mark.parametrize("name", CASES)
def test_the_picture_is_diffusers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    given = give(case, "original", tmp_path)
    model, pipe = given.open(), open_folder(case, given)
    assert psnr(paint_ours(model, case), paint_theirs(pipe, case, model)) > 60
    assert encoding_error(model, pipe) < 1e-5


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "original"])
@pytest.mark.parametrize("name", ["SD 1", "FLUX.1 dev"])
def test_the_picture_is_diffusers_from_every_layout(name: str, layout: str, tmp_path: Path) -> None:
    case = CASES[name]
    given = give(case, layout, tmp_path)
    model = given.open()
    assert psnr(paint_ours(model, case), paint_theirs(open_folder(case, given), case, model)) > 60


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.loader])
def test_diffusers_own_loader_of_original_files_finds_the_same_tensors(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    given = give(case, "original", tmp_path)
    same = compared_tensors(open_folder(case, given), open_file(case, given))
    assert [name for name in same if not same[name]] == []
    assert {"vae", "text_encoder", given.denoiser} <= {name.split(".")[0] for name in same}


@torch.no_grad()
def test_clip_skip_reads_an_earlier_layer_through_the_final_norm(tmp_path: Path) -> None:
    case = CASES["SD 1"]
    given = give(case, "original", tmp_path)
    model, pipe = given.open(), open_folder(case, given)
    ids = pipe.tokenizer(PROMPT, padding="max_length", max_length=20, return_tensors="pt").input_ids
    tower = pipe.text_encoder
    states = tower(ids, output_hidden_states=True)
    norm = next(module for name, module in tower.named_modules() if name.endswith("final_layer_norm"))
    for skip, expected in ((1, states.last_hidden_state), (2, norm(states.hidden_states[-2]))):
        found = model.condition([PROMPT], clip_skip=skip).tokens
        assert torch.allclose(found, expected, atol=1e-5), skip
