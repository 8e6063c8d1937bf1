"""Published families made small, with random weights and trained tokenizers, as files and folders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

from maquette.engine import kinds
from maquette.engine.build import outline
from maquette.engine.kinds import Kind
from maquette.models.bert import BertSpec
from maquette.models.class_embedder import ClassEmbedderSpec
from maquette.models.clip import CLIPTextSpec
from maquette.models.dit import DiTSpec
from maquette.models.flux import FluxSpec
from maquette.models.mmdit import MMDiTSpec
from maquette.models.t5 import T5Spec
from maquette.models.unet import UNetSpec
from maquette.models.vae import VAESpec
from maquette.models.vq import VQSpec
from maquette.text.tokenizer import CLIPTokenizer
from maquette.weights.safetensors_file import write_safetensors
from maquette.weights.view import InMemory, Weights, prefixed, union

WORDS = ["a red apple on a table, green grass", "the blue cat sits under a small tree", "rain over the old town"]
LENGTH = 20  # tokens of a text
BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(" ".join(WORDS).replace(",", " ,").split())]
PIECES = [*"abcdefghijklmnopqrstuvwxyz,", "▁", "▁the", "▁a", "▁red"]


@cache
def clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.train(WORDS * 4, 560, length=LENGTH)


def write_clip_tokenizer(folder: Path) -> Path:
    clip_tokenizer().write(folder)
    return folder


def write_t5_tokenizer(folder: Path) -> Path:
    """A unigram model with T5's marks."""
    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((piece, -(len(piece) ** -0.5)) for piece in PIECES)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_bert_tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n", "utf-8")
    return folder


VOCABULARY = len(clip_tokenizer())
CLIP = CLIPTextSpec(
    vocabulary=VOCABULARY, positions=LENGTH, width=64, layers=3, heads=1, hidden=128, end=VOCABULARY - 1
)
LARGE = replace(CLIP, width=128, heads=2, activation="gelu", projection=128)
HUGE = replace(LARGE, projection=None)
T5 = T5Spec(vocabulary=len(PIECES) + 3, width=256, layers=2, heads=2, head_width=64, hidden=128)
VAE = VAESpec(widths=(32, 32, 32, 32), res_blocks=1)
VAE_16 = replace(VAE, channels=16, quant_conv=False)
SD1 = UNetSpec(
    widths=(32, 64),
    down=((1, 1), (0, 0)),
    up=((0, 0, 0), (1, 1, 1)),
    context=64,
)
SD2 = replace(SD1, widths=(64, 64), context=128, heads=None, head_width=64, linear_projection=True)
SDXL = replace(SD2, down=((0, 0), (2, 2)), middle=2, up=((2, 2, 2), (0, 0, 0)), context=192, vector=128 + 6 * 256)
REFINER = replace(SD2, down=((0, 0), (1, 1), (0, 0)), up=((0,) * 3, (1,) * 3, (0,) * 3), widths=(64,) * 3)
REFINER = replace(REFINER, vector=128 + 5 * 256)
SD3 = MMDiTSpec(width=128, layers=2, heads=2, context=256, vector=64 + 128, grid=16)
SD35 = replace(SD3, qk_norm=True, dual=(0,))
FLUX = FluxSpec(width=128, heads=1, double=2, single=1, context=256, vector=64)
LDM = UNetSpec(
    in_channels=3, out_channels=3, widths=(32, 64), down=((0,), (1,)), up=((1, 1), (0, 0)), context=None, head_width=32
)
CHURCHES = replace(LDM, in_channels=4, out_channels=4, head_width=None, heads=8, details="adm")
LDM_CLASS = replace(SD1, in_channels=3, out_channels=3)
LDM_TEXT = replace(SD1, context=96)
VQ = VQSpec(widths=(32, 32), res_blocks=1, codes=50)
CLASSES = ClassEmbedderSpec(rows=11, width=64)
BERT = BertSpec(vocabulary=len(BERT_WORDS), positions=LENGTH, width=96, layers=2, heads=1, hidden=64)
DIT = DiTSpec(size=8, width=64, layers=2, heads=1, classes=10)

Placed = tuple[Kind, Any, str, str]  # kind, spec, prefix and layout in original files


@dataclass(frozen=True)
class Small:
    """A small model: its parts by name, as original files keep them."""

    family: str
    parts: Mapping[str, Placed]


def _sd(denoiser: Any, *texts: Placed, vae: Any = VAE, prefix: str = "first_stage_model.") -> dict[str, Placed]:
    stage = kinds.VQ_STAGE if isinstance(vae, VQSpec) else kinds.KL_STAGE
    kind = next(kind for kind in kinds.KINDS if kind.network.__name__ == NETWORKS[type(denoiser)])
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    if len(texts) == 1 and texts[0][2].endswith("embedders.0.model."):
        names = names[1:]
    if texts and texts[0][0].role in OWN_PARTS:
        names = (OWN_PARTS[texts[0][0].role],)
    return {
        "denoiser": (kind, denoiser, "model.diffusion_model.", "original"),
        "vae": (stage, vae, prefix, "original"),
        **dict(zip(names, texts, strict=False)),
    }


OWN_PARTS = {"class": "class_embedder", "bert": "bert"}
NETWORKS = {UNetSpec: "UNet", MMDiTSpec: "MMDiT", FluxSpec: "Flux", DiTSpec: "DiT"}
SD3_TEXTS: tuple[Placed, ...] = (
    (kinds.CLIP, CLIP, "text_encoders.clip_l.transformer.", "transformers"),
    (kinds.CLIP, LARGE, "text_encoders.clip_g.transformer.", "transformers"),
    (kinds.T5_ENCODER, T5, "text_encoders.t5xxl.transformer.", "transformers"),
)
FLUX_TEXTS = (SD3_TEXTS[0], SD3_TEXTS[2])
SD1_TEXT: Placed = (kinds.CLIP, CLIP, "cond_stage_model.transformer.", "transformers")
SD2_TEXT: Placed = (kinds.CLIP, HUGE, "cond_stage_model.model.", "OpenCLIP")
SDXL_TEXTS: tuple[Placed, ...] = (
    (kinds.CLIP, CLIP, "conditioner.embedders.0.transformer.", "transformers"),
    (kinds.CLIP, LARGE, "conditioner.embedders.1.model.", "OpenCLIP"),
)
CLASS_TEXT: Placed = (kinds.CLASSES, CLASSES, "cond_stage_model.", "original")
BERT_TEXT: Placed = (kinds.BERT, BERT, "cond_stage_model.transformer.", "original")
REFINER_TEXT: Placed = (kinds.CLIP, LARGE, "conditioner.embedders.0.model.", "OpenCLIP")
SMALL = {
    small.family: small
    for small in (
        Small("sd1", _sd(SD1, SD1_TEXT)),
        Small("sd1-lcm", _sd(replace(SD1, guidance=256), SD1_TEXT)),
        Small("sdxl-lcm", _sd(replace(SDXL, guidance=256), *SDXL_TEXTS)),
        Small("sd1-inpaint", _sd(replace(SD1, in_channels=9), SD1_TEXT)),
        Small("sd1-edit", _sd(replace(SD1, in_channels=8), SD1_TEXT)),
        Small("sd2-v", _sd(SD2, SD2_TEXT)),
        Small("sd2-inpaint", _sd(replace(SD2, in_channels=9), SD2_TEXT)),
        Small("sd2-depth", _sd(replace(SD2, in_channels=5), SD2_TEXT)),
        Small("sdxl", _sd(SDXL, *SDXL_TEXTS)),
        Small("sdxl-inpaint", _sd(replace(SDXL, in_channels=9), *SDXL_TEXTS)),
        Small("sdxl-refiner", _sd(REFINER, REFINER_TEXT)),
        Small("sd3", _sd(SD3, *SD3_TEXTS, vae=VAE_16)),
        Small("sd3.5-medium", _sd(SD35, *SD3_TEXTS, vae=VAE_16)),
        Small("sd3.5-large", _sd(replace(SD35, dual=()), *SD3_TEXTS, vae=VAE_16)),
        Small("flux-dev", _sd(FLUX, *FLUX_TEXTS, vae=VAE_16, prefix="vae.")),
        Small("flux-schnell", _sd(replace(FLUX, guidance=False), *FLUX_TEXTS, vae=VAE_16, prefix="vae.")),
        Small("flux-fill", _sd(replace(FLUX, in_channels=96), *FLUX_TEXTS, vae=VAE_16, prefix="vae.")),
        Small("flux-control", _sd(replace(FLUX, in_channels=32), *FLUX_TEXTS, vae=VAE_16, prefix="vae.")),
        Small("ldm", _sd(LDM, vae=VQ)),
        Small("ldm-churches", _sd(CHURCHES)),
        Small("ldm-class", _sd(LDM_CLASS, CLASS_TEXT, vae=VQ)),
        Small("ldm-text", _sd(LDM_TEXT, BERT_TEXT)),
        Small("dit", _sd(DIT)),
    )
}


def random_state(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Numbers for an outlined network, of a size that keeps its activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in network.state_dict().items():
        numbers = torch.randn(tensor.shape, generator=generator)
        layer = name.split(".")[-2] if "." in name else name
        if tensor.ndim == 1:
            state[name] = 0.1 * numbers + ("norm" in layer and name.endswith("weight"))
        else:
            rows = ("embedding" in name) or layer in ("position_bias", "class_embed")
            state[name] = numbers * (0.3 if rows else tensor[0].numel() ** -0.5)
    return state


def original(small: Small, *, only: tuple[str, ...] = ()) -> Weights:
    """The parts of a small model (or only some) in one view, with the names of original files."""
    return union(
        prefixed(named(kind, spec, layout, seed), prefix)
        for seed, (name, (kind, spec, prefix, layout)) in enumerate(small.parts.items())
        if not only or name in only
    )


def named(kind: Kind, spec: Any, layout: str, seed: int = 0) -> Weights:
    """A network with random weights in the names of a layout."""
    network = outline(kind.network, spec)
    dialect = next(each for each in kind.dialects if each.name == layout)
    return dialect.write(InMemory(random_state(network, seed)), network)


def write_original(family: str, folder: Path, *, only: tuple[str, ...] = (), tokenizers: bool = True) -> Path:
    """A small model as one file, and tokenizers beside it."""
    path = folder / f"{family}.safetensors"
    write_safetensors(path, original(SMALL[family], only=only))
    if tokenizers:
        write_tokenizers(family, folder)
    return path


def write_tokenizers(family: str, folder: Path) -> None:
    for name, (kind, *_) in SMALL[family].parts.items():
        write: dict[str, Callable[[Path], Path]] = {
            "clip": write_clip_tokenizer,
            "t5": write_t5_tokenizer,
            "bert": write_bert_tokenizer,
        }
        if kind.role in write:
            write[kind.role](folder / name.replace("text_encoder", "tokenizer").replace("bert", "tokenizer"))
