"""The options of every command that opens a model: what `maquette.open` takes, said once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maquette.errors import MaquetteError
from maquette.weights.place import existing

if TYPE_CHECKING:
    from maquette.engine.model import Model


RETOLD: Mapping[str, type] = {
    **dict.fromkeys(("family", "prediction", "vae", "variant", "dtype", "storage"), str),
    **{"averaged": bool, "text": list, "tokenizer": list, "lora": list},
}
"""What pictures tell of how their model was opened."""


@dataclass(frozen=True)
class Opening:
    """How a model is to be opened; what is None or empty is left to the model."""

    family: Annotated[str | None, typer.Option(help="What the model is, where its weights do not tell.")] = None
    prediction: Annotated[str | None, typer.Option(help="epsilon or v, where the weights do not tell.")] = None
    vae: Annotated[Path | None, typer.Option(metavar="PATH", help="Another first stage.")] = None
    text: Annotated[list[Path] | None, typer.Option(metavar="PATH", help="A text encoder; several times.")] = None
    tokenizer: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Tokenizers, for a file that carries none; several times.")
    ] = None
    lora: Annotated[list[str] | None, typer.Option(metavar="FILE[:SCALE]", help="Merge this LoRA; several times.")] = (
        None
    )
    embedding: Annotated[
        list[str] | None, typer.Option(metavar="WORD=FILE", help="A learned word for prompts; several times.")
    ] = None
    lora_folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", envvar="MAQUETTE_LORA_FOLDER", help="Where <lora:name:0.8> finds its file."),
    ] = None
    variant: Annotated[str | None, typer.Option(help="Such as fp16: files named model.fp16.safetensors.")] = None
    averaged: Annotated[bool, typer.Option("--averaged", help="The moving average in a training checkpoint.")] = False
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps. [default: the fastest here]")] = None
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: the device's]")] = None
    storage: Annotated[str | None, typer.Option(help="Keep large matrices in 8 bits: float8 or int8.")] = None
    stream: Annotated[bool, typer.Option("--stream", help="Read weights as they are used: little memory.")] = False
    compile: Annotated[bool, typer.Option("--compile", help="Compile the denoiser's blocks; nothing won on a CPU.")] = (
        False
    )

    def like(self, told: Mapping[str, Any]) -> "Opening":
        """These options; where one is left out, as a picture tells it."""
        kept = {name: told[name] for name, kind in RETOLD.items() if isinstance(told.get(name), kind)}
        return replace(self, **{name: value for name, value in kept.items() if not getattr(self, name)})

    def arguments(self) -> dict[str, Any]:
        """What was asked for, as `maquette.open` takes it.

        Raises:
            MaquetteError: a LoRA's scale is no number, or an embedding has no word.
        """
        given = {each.name: getattr(self, each.name) for each in fields(self) if getattr(self, each.name)}
        if self.lora:
            given["loras"] = [read_lora_option(each) for each in given.pop("lora")]
        if self.embedding:
            given["embeddings"] = dict(read_embedding_option(each) for each in given.pop("embedding"))
        return given


def read_lora_option(text: str) -> tuple[str, float]:
    """The file and the scale of "FILE" or "FILE:SCALE"; a colon may also belong to the file's name."""
    file, colon, scale = text.rpartition(":")
    if not colon or not file or existing(text):
        return text, 1.0
    try:
        return file, float(scale)
    except ValueError:
        if Path(file).suffix:
            raise MaquetteError(f"--lora {text}: {scale!r} is no number; give FILE or FILE:SCALE") from None
        return text, 1.0  # C:\lora.safetensors


def read_embedding_option(text: str) -> tuple[str, str]:
    """The word and the file of "WORD=FILE"."""
    word, equals, file = text.partition("=")
    if not (word and equals and file):
        raise MaquetteError(f"--embedding {text}: give WORD=FILE, such as sks=concept.safetensors")
    return word, file


def open_from_options(name: str, opening: Opening) -> "Model":
    """Open a model as the options say."""
    import maquette

    return maquette.open(name, **opening.arguments())
