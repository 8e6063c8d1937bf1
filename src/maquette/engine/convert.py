"""Writing a model in another layout: one file with the original names, or a folder as diffusers has it.

Tensors are read, renamed and written one by one. A file that would not be recognised again is not written.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from maquette.diffusion.prediction import PREDICTIONS
from maquette.diffusion.process import EDM, Discrete
from maquette.engine.build import outline
from maquette.engine.fit import check_complete
from maquette.engine.folder import FAMILY_KEY, INDEX
from maquette.engine.hints import FAMILY_METADATA
from maquette.engine.kinds import Kind, find_dialect
from maquette.engine.parts import unread_layers
from maquette.engine.recognise import Recognition
from maquette.engine.scheduler import scheduler_config
from maquette.engine.tokens import ended, find_tokenizer, tokenizer_folder
from maquette.errors import MaquetteError
from maquette.families.family import Family, Reading
from maquette.families.known import FAMILIES
from maquette.models import vq_config
from maquette.models.unet import UNetSpec
from maquette.models.vae_config import VAEConfig, to_config
from maquette.models.vq import VQSpec
from maquette.weights.precision import cast
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import Chosen, InMemory, Weights, prefixed, union

LAYOUTS = ("original", "diffusers")
NETWORK_FILE, ENCODER_FILE = "diffusion_pytorch_model.safetensors", "model.safetensors"
VERSION = "0.30.0"  # of the layout, as diffusers counts
TRANSFORMERS = "transformers"
SIZED = ("UNet2DConditionModel", "UNet2DModel", "SD3Transformer2DModel")  # whose pipelines ask them for the usual size
REFINING = "StableDiffusionXLImg2ImgPipeline"
TOKENIZERS = {"clip": "CLIPTokenizer", "t5": "T5TokenizerFast", "bert": "BertTokenizer"}
LDM_BERT = ["latent_diffusion", "LDMBertModel"]  # diffusers' own class, beside the pipeline


@dataclass(frozen=True)
class Piece:
    """A network ready to be written: its spec and its tensors in our names."""

    kind: Kind
    spec: Any
    weights: Weights

    def named(self, layout: str) -> Weights:
        """Its tensors in the names of a layout."""
        dialect = next((each for each in self.kind.dialects if each.name == layout), None)
        if dialect is None:
            raise MaquetteError(f"the {self.kind.name} has no layout {layout!r}; choose another")
        return dialect.write(self.weights, outline(self.kind.network, self.spec))


def convert(found: Recognition, out: Path, layout: str, dtype: torch.dtype | None, tokenizers: list[Path]) -> None:
    """Write a recognised model to `out`, a .safetensors file ("original") or a folder ("diffusers").

    Raises:
        MaquetteError: parts are missing, `out` is there already, or the layout cannot say this model.
    """
    family = found.family
    if family is None:
        raise MaquetteError(f"{found.path}: holds no denoiser, only: {found.title}; convert a whole model")
    if layout not in LAYOUTS:
        raise MaquetteError(f"unknown layout {layout!r}; give {' or '.join(LAYOUTS)}")
    if out.exists():
        raise MaquetteError(f"{out}: is there already; give another name")
    if layout == "original":
        if out.suffix != ".safetensors":
            raise MaquetteError(f"{out}: the original layout is one file; give a name that ends in .safetensors")
        _check_told(found, family)
        write_safetensors(out, union(_original(found, family, dtype)), _metadata(family))
        return
    check_complete(found, family)
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as stage:
            folder = Path(stage) / out.name
            _write_folder(found, family, dtype, folder, tokenizers)
            shutil.move(folder, out)
    except OSError as error:
        raise MaquetteError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from error


def _check_told(found: Recognition, family: Family) -> None:
    """Refuse a model whose noise or latents are not its family's, where no mark in a file says so."""
    usual, marks = FAMILIES[family.name], _marks(family)
    noise = (family.process, family.shift_by_size) != (usual.process, usual.shift_by_size)
    latents = (family.latent.scale, family.latent.shift) != (usual.latent.scale, usual.latent.shift)
    what = [
        *(["noise schedule"] if noise and not marks else []),
        *(["scale of latents"] if latents and not marks.keys() & {"scale_factor", "edm_mean"} else []),
        *(["answer to empty prompts"] if family.zero_empty_negative != usual.zero_empty_negative else []),
    ]
    if what:
        raise MaquetteError(
            f"{found.path}: one file cannot say its {what[0]}, which is another than a file of {family.name} is taken "
            "to have; keep it as a folder"
        )


def _piece(found: Recognition, name: str, dtype: torch.dtype | None) -> Piece:
    part = found.parts[name]
    network = part.network()
    ours = part.read(network)
    return Piece(part.kind, part.spec, ours if dtype is None else cast(ours, dtype))


def _readings(found: Recognition, family: Family) -> Iterator[Reading]:
    return (reading for reading in family.readings if reading.part in found.parts)


def _original(found: Recognition, family: Family, dtype: torch.dtype | None) -> Iterator[Weights]:
    """The parts in their original names; tensors without data mark what shapes do not say."""
    for prefix, name in zip(family.prefixes, ("denoiser", "vae"), strict=True):
        if name in found.parts:
            yield _prefixed(_piece(found, name, dtype), "original", prefix, found.path, {})
    for reading in _readings(found, family):
        piece = _piece(found, reading.part, dtype)
        if reading.pooled_in_files == "pooled" and piece.spec.projection is not None:
            piece = _without_identity(piece, found.path)
        spare = reading.skip - unread_layers(reading, found.parts[reading.part])
        if spare:
            piece = _with_spare_layers(piece, spare)
        known = {"activation": reading.activation} if reading.kind == "clip" else {}
        yield _prefixed(piece, reading.layout, reading.prefix, found.path, known)
    yield InMemory(_marks(family))


def _marks(family: Family) -> dict[str, torch.Tensor]:
    """The small tensors of original files that say how noise and latents are."""
    process, latent = family.process, family.latent
    if process == Discrete.scaled_linear(zero_terminal_snr=True):
        return {"ztsnr": torch.zeros(1)}
    if latent.measured:
        return {"scale_factor": torch.tensor(latent.scale, dtype=torch.float64)}
    if isinstance(process, EDM) and isinstance(latent.scale, tuple):
        spread = [1.0 / each for each in latent.scale]
        return {"edm_mean": torch.tensor(latent.shift).double(), "edm_std": torch.tensor(spread).double()}
    if isinstance(process, EDM):
        bounds = {"sigma_min": process.sigma_min, "sigma_max": process.sigma_max}
        return {f"edm_vpred.{name}": torch.tensor(value, dtype=torch.float64) for name, value in bounds.items()}
    return {}


def _prefixed(piece: Piece, layout: str, prefix: str, path: Path, known: Mapping[str, str]) -> Weights:
    """A piece's tensors as a file keeps them; `known` are the fields of its spec that the family tells."""
    theirs = piece.named(layout)
    told = find_dialect(theirs)
    if told is None or told[0] is not piece.kind or replace(told[1].spec(theirs), **known) != piece.spec:
        raise MaquetteError(
            f"{path}: shapes alone do not tell its {piece.kind.name}, so that one file cannot hold it; "
            "keep it as a folder"
        )
    return prefixed(theirs, prefix)


def _without_identity(piece: Piece, path: Path) -> Piece:
    """The tower without its projection, which original files leave out: it must be the identity."""
    matrix = piece.weights["projection.weight"]
    if not torch.equal(matrix.float(), torch.eye(*matrix.shape)):
        raise MaquetteError(f"{path}: its first text encoder projects, which one file cannot say; keep it as a folder")
    names = {name: name for name in piece.weights if name != "projection.weight"}
    return Piece(piece.kind, replace(piece.spec, projection=None), Chosen(piece.weights, names))


def _with_spare_layers(piece: Piece, count: int) -> Piece:
    """The tower with `count` copies of its last layer behind it, which nobody reads."""
    last = piece.spec.layers - 1
    names = {name: name for name in piece.weights}
    for name in piece.weights:
        head, _, leaf = name.partition(f"layers.{last}.")
        if leaf and not head:
            names |= {f"layers.{last + extra}.{leaf}": name for extra in range(1, count + 1)}
    return Piece(piece.kind, replace(piece.spec, layers=last + 1 + count), Chosen(piece.weights, names))


def _without_spare_layers(piece: Piece, count: int) -> Piece:
    """The tower without its last layers, and without the projection that reads them."""
    spec = replace(piece.spec, layers=piece.spec.layers - count, projection=None)
    names = outline(piece.kind.network, spec).state_dict()
    return Piece(piece.kind, spec, Chosen(piece.weights, {name: name for name in names}))


def _with_identity(piece: Piece) -> Piece:
    """The tower with a projection that changes nothing, as diffusers expects one."""
    width = piece.spec.width
    names = {name: name for name in piece.weights if name != "projection.weight"}
    dtype = piece.weights.dtype("final_norm.weight")
    identity = InMemory({"projection.weight": torch.eye(width, dtype=dtype)})
    return Piece(piece.kind, replace(piece.spec, projection=width), union([Chosen(piece.weights, names), identity]))


def _metadata(family: Family) -> dict[str, str]:
    prediction = next(name for name, its in PREDICTIONS.items() if its is family.prediction)
    named = {FAMILY_METADATA: family.name} if family.by_name else {}
    return {"modelspec.sai_model_spec": "1.0.0", "modelspec.prediction_type": prediction, "format": "pt", **named}


def _write_folder(
    found: Recognition, family: Family, dtype: torch.dtype | None, folder: Path, tokenizers: list[Path]
) -> None:
    index: dict[str, Any] = {"_class_name": family.pipeline, "_diffusers_version": VERSION}
    if family.by_name:
        index[FAMILY_KEY] = family.name
    denoiser = _piece(found, "denoiser", dtype)
    name = "unet" if isinstance(denoiser.spec, UNetSpec) else "transformer"
    config = denoiser.kind.to_config(denoiser.spec)
    factor = found.parts["vae"].spec.factor if "vae" in found.parts else 1
    if config["_class_name"] in SIZED:
        config["sample_size"] = family.defaults.width // factor
    index[name] = write_network(folder / name, denoiser, "diffusers", config)
    if "vae" in found.parts:
        vae = _piece(found, "vae", dtype)
        config = _vae_config(vae, family)
        stage = "vqvae" if family.pipeline.startswith("LDM") else "vae"
        index[stage] = write_network(folder / stage, vae, "diffusers", config)
    for reading in _readings(found, family):
        piece = _folder_encoder(_piece(found, reading.part, dtype), reading, found)
        if reading.kind != "class":  # of which folders have no encoder, as its kind says
            tokenizer = find_tokenizer(reading, found.parts[reading.part].spec, found.path, tokenizers)
            piece = replace(piece, spec=ended(piece.spec, tokenizer))
        config = piece.kind.to_config(piece.spec)
        written = write_network(folder / reading.part, piece, TRANSFORMERS, config, ENCODER_FILE)
        index[reading.part] = LDM_BERT if reading.kind == "bert" else written
        words = tokenizer_folder(reading)
        tokenizer.write(folder / words)
        index[words] = [TRANSFORMERS, TOKENIZERS[reading.kind]]
    scheduler = scheduler_config(family.process, family.prediction, by_size=family.shift_by_size)
    write_json(folder / "scheduler/scheduler_config.json", scheduler)
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    if family.pipeline.startswith("StableDiffusionXL"):  # diffusers would take what is not said for true, and for false
        index["force_zeros_for_empty_prompt"] = family.zero_empty_negative
    if family.pipeline == REFINING:
        index["requires_aesthetics_score"] = True
    write_json(folder / INDEX, index)


def _folder_encoder(piece: Piece, reading: Reading, found: Recognition) -> Piece:
    """A text encoder as folders have it."""
    part = found.parts[reading.part]
    if reading.cut:
        return _without_spare_layers(piece, unread_layers(reading, part))
    if reading.pooled_in_files == "pooled" and not part.configured:
        return _with_identity(piece)
    return piece


def _vae_config(piece: Piece, family: Family) -> dict[str, Any]:
    latent = family.latent
    if isinstance(family.process, EDM):  # diffusers leaves latents EDM's spread
        latent = latent.divided(1.0 / family.process.sigma_data)
    if isinstance(piece.spec, VQSpec) and isinstance(latent.scale, float):
        return vq_config.to_config(vq_config.VQConfig(piece.spec, latent.scale))
    stage = VAEConfig(piece.spec, latent.scale, latent.shift, latent.overflows)
    return to_config(stage, sample_size=family.defaults.width)


def write_network(
    folder: Path, piece: Piece, layout: str, config: Mapping[str, Any], file: str = NETWORK_FILE
) -> list[str]:
    """Write a part of a folder, its weights and their config; the library and the class that the index names."""
    theirs = piece.named(layout)
    write_json(folder / "config.json", config)
    write_safetensors(folder / file, theirs, {"format": "pt"})
    if "architectures" in config:
        return [TRANSFORMERS, str(config["architectures"][0])]
    return ["diffusers", str(config["_class_name"])]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON for people to read too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
