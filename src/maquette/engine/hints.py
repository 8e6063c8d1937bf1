"""What a file and its surroundings say of what its shapes cannot: prediction, noise, and families told by marks."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from maquette.diffusion.prediction import PREDICTIONS
from maquette.engine.parts import markers
from maquette.families.known import FAMILIES
from maquette.weights.view import Weights

SPELLINGS = {"v_prediction": "v", "v-prediction": "v", "eps": "epsilon", "flow": "velocity", "x0": "sample"}
LARGEST_YAML = 1 << 20
# Of Stable Diffusion 2's last transformer, in the original and in diffusers' layout.
TELLING_BIASES = (
    "output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
)
LEAST_SPREAD_OF_V = 0.09
FAMILY_METADATA = "maquette.family"  # where files that are written here name a family that nothing else tells

Hints = Mapping[str, tuple[str, str]]
"""What is said of "family", "prediction", "discrete prediction" and "zero_terminal_snr", and what says it."""


def hints(path: Path, weights: Weights) -> Iterator[tuple[str, tuple[str, str]]]:
    """What a file and its surroundings say; the last word on each counts."""
    told = weights.metadata.get("modelspec.prediction_type") or weights.metadata.get("prediction_type")
    if told and SPELLINGS.get(told, told) in PREDICTIONS:
        # kohya's scripts write epsilon into whatever they train, flows as well
        of = "discrete prediction" if SPELLINGS.get(told, told) in ("epsilon", "v") else "prediction"
        yield of, (told, "modelspec.prediction_type in the metadata")
    if (family := weights.metadata.get(FAMILY_METADATA)) in FAMILIES:
        yield "family", (family, f"{FAMILY_METADATA} in the metadata")
    if weights.metadata.get("ss_zero_terminal_snr") == "True":
        yield "zero_terminal_snr", ("true", "ss_zero_terminal_snr in the metadata")
    marks = markers(weights)
    if marks["v_pred"]:
        yield "discrete prediction", ("v", "the tensor v_pred")
    if marks["ztsnr"]:
        yield "zero_terminal_snr", ("true", "the tensor ztsnr")
    if marks["edm_vpred.sigma_max"]:
        yield "family", ("cosxl", "the tensor edm_vpred.sigma_max")
    if marks["edm_mean"]:
        yield "family", ("playground-2.5", "the tensor edm_mean")
    sidecar = path.with_suffix(".yaml")
    if sidecar.is_file() and sidecar.stat().st_size <= LARGEST_YAML:
        value = _prediction_of_yaml(sidecar.read_text("utf-8", errors="replace"))
        if value is not None:
            yield "discrete prediction", (value, f"{sidecar.name} beside the file")


def _prediction_of_yaml(text: str) -> str | None:
    """What a config of latent diffusion's or sgm's code says; the former's default is epsilon."""
    named = re.search(r"\bparameterization:\s*[\"']?(\w+)", text)
    if named:
        value = SPELLINGS.get(named[1], named[1])
        return value if value in PREDICTIONS else None
    scaling = re.search(r"\b(V|Eps)Scaling\b", text)
    if scaling:
        return "v" if scaling[1] == "V" else "epsilon"
    return "epsilon" if re.search(r"\btarget:\s*ldm\.models\.diffusion\.ddpm\.", text) else None


def prediction_by_spread(denoiser: Weights) -> tuple[str, str] | None:
    """What a U-Net of Stable Diffusion 2 predicts, by a bias whose numbers lie further apart where it is v.

    So ComfyUI tells the published models and what was trained from them; of random weights it says nothing true.
    """
    for name in TELLING_BIASES:
        if name in denoiser:
            spread = float(denoiser[name].float().std(correction=0))
            value = "v" if spread > LEAST_SPREAD_OF_V else "epsilon"
            return value, f"{name} has a spread of {spread:.3f}; v's is above {LEAST_SPREAD_OF_V}"
    return None
