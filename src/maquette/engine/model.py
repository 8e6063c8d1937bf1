"""An opened model: everything a workflow needs, whatever the family."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Denoiser, denoiser
from maquette.diffusion.process import Process, RectifiedFlow
from maquette.diffusion.schedules import flux_shift
from maquette.engine.adapt import Added, Change, LoRAFile, Origin, apply, merge, open_loras, read_words
from maquette.engine.companions import Companions
from maquette.engine.image import to_images
from maquette.engine.memory import SHORT, or_else
from maquette.engine.preview import approximate, fit
from maquette.engine.recognise import Recognition
from maquette.engine.streaming import Streamed
from maquette.engine.text import Encoder, TextEncoder, prepare
from maquette.engine.tiling import in_tiles
from maquette.errors import MaquetteError
from maquette.families.family import Encoding, Latent, Told
from maquette.models.pixels import Pixels
from maquette.models.vae import VAE
from maquette.models.vq import VQ
from maquette.text.chunks import common_length
from maquette.weights.lora import Report
from maquette.weights.place import look

if TYPE_CHECKING:
    from PIL.Image import Image

    from maquette.workflows.loop import Result

LOW_AESTHETIC = 2.5  # what the refiner is told of what is not wanted
IN_FILES = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}  # what embedding files call the towers


@dataclass
class FirstStage:
    """The autoencoder and how its latents are brought to unit variance: (z - shift) * scale."""

    vae: VAE | VQ | Pixels
    latent: Latent
    tile_from: int | None = None
    """Pictures of more pixels are computed by tiles; None: only where memory runs out."""

    def encode(self, image: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w), a posterior's means, of pictures in [-1, 1]."""
        return self._sized(image.shape[-2] * image.shape[-1], lambda: self._encode(image))

    def decode(self, latent: Tensor) -> Tensor:
        """The pictures (B, 3, H, W) of scaled latents."""
        pixels = latent.shape[-2] * latent.shape[-1] * self.vae.spec.factor**2
        return self._sized(pixels, lambda: self.vae.decode(self.latent.unscaled(latent)).float())

    def _encode(self, image: Tensor) -> Tensor:
        z = self.vae.encode(image).mean if isinstance(self.vae, VAE) else self.vae.encode(image)
        return self.latent.scaled(z.float())

    def _sized(self, pixels: int, call: Callable[[], Tensor]) -> Tensor:
        """What is computed for pictures of so many pixels: by tiles, if they are large or if memory runs out."""

        def compute() -> Tensor:
            with in_tiles(self.vae) if self._tiles(pixels) else nullcontext():
                return call()

        def smaller() -> bool:
            if self._tiles(pixels) or isinstance(self.vae, Pixels):
                return False
            warnings.warn(f"{SHORT}; from now on the first stage computes such pictures by tiles", stacklevel=2)
            self.tile_from = pixels - 1
            return True

        return or_else(compute, smaller)

    def _tiles(self, pixels: int) -> bool:
        return not isinstance(self.vae, Pixels) and self.tile_from is not None and pixels > self.tile_from


MODELS, CONTROLS = 2, 4  # that stay open beside a model


class Model:
    """A model that paints. Latents are scaled and float32; pictures are (B, 3, H, W) in [-1, 1].

    `recognition` says what it is and why; `loras` which keys of its LoRAs were used; `companions` are refiners and
    other models that work beside this one, `controls` control networks and adapters. `added` are the LoRAs and learned
    words that it was given; `lora_folder` is where requests find LoRAs by their names; `opened_as` and `opened_with`
    are what `maquette.open` was asked for, without what changes no picture. Who works with it holds `turn`: workflows
    for each of their steps, so that threads may paint with one model in turns.
    """

    def __init__(
        self,
        recognition: Recognition,
        *,
        name: str,
        encoders: Sequence[Encoder | None],
        network: Any,
        first_stage: FirstStage,
        origins: Mapping[str, Origin],
    ) -> None:
        assert recognition.family is not None
        self.recognition = recognition
        self.name, self.family = name, recognition.family
        self.opened_as = name
        self.opened_with: dict[str, str | bool | list[str]] = {}
        self.process, self.prediction = self.family.process, self.family.prediction
        self.encoders, self.network, self.first_stage = tuple(encoders), network, first_stage
        self._origins, self._change = origins, Change(None, ())
        self.added, self._worn = Added(), (Added(), Added())  # the LoRAs that are merged, the words that are known
        self.lora_folder: Path | None = None
        self.companions, self.controls = Companions(MODELS), Companions(CONTROLS)
        self.turn = RLock()
        self._file = _file_of(recognition)
        self._seen = None if self._file is None else look(self._file)

    @property
    def device(self) -> torch.device:
        place: torch.device = self.network.device
        return place

    @property
    def dtype(self) -> torch.dtype:
        precision: torch.dtype = self.network.dtype
        return precision

    @property
    def multiple(self) -> int:
        """Sides of pictures must be multiples of this many pixels."""
        patch = 2 if isinstance(self.process, RectifiedFlow) else getattr(self.network.spec, "patch", 1)
        return self.first_stage.vae.spec.factor * int(patch)

    @cached_property
    def hash(self) -> str:
        """The first ten digits of the denoiser file's SHA-256, as A1111 names models.

        With a warning none, if that file has been changed, moved or removed since it was opened.
        """
        if self._file is None:
            raise MaquetteError(f"{self.recognition.path}: its weights are in no file, so that they have no hash")
        if look(self._file) == self._seen:
            with self._file.open("rb") as file:
                return file_digest(file, sha256).hexdigest()[:10]
        message = f"{self._file}: is not the file any more that was opened; pictures do not tell the model's hash"
        warnings.warn(message, stacklevel=2)
        return ""

    @cached_property
    def whole_hash(self) -> str:
        """The same over the files of all parts, any of which may have learned on."""
        parts, digest = self.recognition.parts.values(), sha256()
        sources = {part.weights.source(name) for part in parts for name in part.weights}
        for path in sorted(path for path in sources if path is not None):
            with path.open("rb") as file:
                digest.update(file_digest(file, sha256).digest())
        return digest.hexdigest()[:10]

    @cached_property
    def denoiser(self) -> Denoiser:
        """The network as the answer to a sampler's question."""
        answer = denoiser(self.network, self.prediction, self.dtype)
        return (lambda *asked: answer(*asked).clamp(-1, 1)) if self.family.pixels else answer

    def process_for(self, width: int, height: int) -> Process:
        """The process with the shift that suits pictures of this size, where a family's depends on it."""
        if not self.family.shift_by_size:
            return self.process
        _, rows, columns = self.latent_shape(width, height)
        return RectifiedFlow(flux_shift(rows * columns // 4))

    def chunks(self, *prompts: str) -> int:
        """In how many chunks some prompts are told together."""
        encoders = [each for each in self.encoders if each]
        longest = [max((len(each.chunks(prompt)) for each in encoders), default=1) for prompt in prompts]
        return common_length(longest)

    @torch.no_grad()
    def condition(
        self,
        prompts: Sequence[str],
        *,
        negative: bool = False,
        width: int | None = None,
        height: int | None = None,
        original: tuple[int, int] | None = None,
        crop: tuple[int, int] = (0, 0),
        aesthetic: float | None = None,
        guidance: float | None = None,
        clip_skip: int = 1,
        chunks: int = 1,
        concat: Tensor | None = None,
    ) -> Conditioning:
        """What the network is told for these prompts, one row for each.

        `negative` says that they are what is not wanted. Sizes are pixels, (width, height) of the picture, by default
        the family's; `original` its size before it was scaled, `crop` the (top, left) of the wanted part. `clip_skip`
        counts as A1111 does, from 1. Rows are at least `chunks` chunks long, so that two calls can be put together.
        `concat` (B, C, h, w) is what networks for inpainting read beside the latent.

        Raises:
            MaquetteError: the network reads more channels than there are, or a prompt does not suit the family.
        """
        defaults = self.family.defaults
        width, height = width or defaults.width, height or defaults.height
        told = Told(
            prompts=tuple(prompts),
            spec=self.network.spec,
            width=width,
            height=height,
            original=original or (width, height),
            crop=crop,
            aesthetic=aesthetic if aesthetic is not None else LOW_AESTHETIC if negative else Told.aesthetic,
            guidance=defaults.guidance if guidance is None else guidance,
        )
        chunks = max(chunks, self.chunks(*prompts))
        texts = or_else(
            lambda: [e if e is None else e(prompts, chunks=chunks, clip_skip=clip_skip) for e in self.encoders],
            lambda: self.stream(*self._origins, why=SHORT),
        )
        if negative and self.family.zero_empty_negative:
            texts = [None if text is None else _zero_where_empty(text, prompts) for text in texts]
        unwanted = torch.full((len(prompts),), float(negative), device=self.device)
        return replace(self.family.condition(texts, told).to(self.device), concat=concat, unwanted=unwanted)

    def contrast(self, prompt: str, negative: str = "", **told: Any) -> tuple[Conditioning, Conditioning]:
        """What is wanted and what is not, as long as each other; `told` are the options of `condition`."""
        chunks = self.chunks(prompt, negative)
        return (
            self.condition([prompt], chunks=chunks, **told),
            self.condition([negative], chunks=chunks, negative=True, **told),
        )

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of the latent of a picture."""
        factor = self.first_stage.vae.spec.factor
        return self.first_stage.vae.spec.channels, height // factor, width // factor

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """The scaled latents (the posterior's means) of pictures."""
        return self.first_stage.encode(image)

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """The pictures of scaled latents."""
        return self.first_stage.decode(latent).clamp(-1, 1)

    @cached_property
    def preview_matrix(self) -> Tensor:
        """What takes latents to about the mean colours of their pictures; found when it is first asked for."""
        with self.turn:  # other threads may be decoding by tiles, or streaming the first stage
            return fit(self)

    def preview(self, x0: Tensor) -> "list[Image]":
        """Small pictures, one for each place of the latents (B, C, h, w), of about what `decode` makes of them.

        for step in paint(model, request):
            model.preview(step.x0)[0].show()
        """
        return to_images(approximate(self.preview_matrix, x0))

    @property
    def loras(self) -> tuple[Report, ...]:
        """For each LoRA, which of its keys were used and which were not."""
        return self._change.reports

    def set_loras(self, loras: Iterable[tuple[Path | str, float]]) -> tuple[Report, ...]:
        """Merge LoRA files, each with its scale, instead of those merged before; none takes them all out.

        Raises:
            MaquetteError: a file matches nothing in the model, or was made for another; the model is unchanged then.
        """
        files = tuple(LoRAFile(*each) for each in loras)
        files = tuple(each._replace(path=str(each.path)) for each in files)  # as requests name them
        self._merge(Added(loras=files))
        self.added = self.added._replace(loras=files)
        return self.loras

    def wear(self, added: Added) -> None:
        """Work with these LoRAs and learned words from now on, as a request may ask; `added` stays what it was given.

        Costs nothing where they are the present ones, of the same files. Raises as `set_loras` and `set_embeddings`.
        """
        if added.loras != self._worn[0].loras or self._worn[0].reads_others(added):
            self._merge(added)
        if added.words != self._worn[1].words or self._worn[1].reads_others(added):
            self._teach(added)

    @torch.no_grad()
    def _merge(self, wanted: Added) -> None:
        worn = Added(loras=wanted.loras).read_for(wanted)
        change = merge(self._origins, open_loras(worn.loras))
        or_else(
            lambda: apply(self._origins, self._change, change),
            lambda: self.stream(*self._origins, why=SHORT),
        )
        self._change, self._worn = change, (worn, self._worn[1])

    @torch.no_grad()
    def stream(self, *parts: str, why: str) -> bool:
        """Let go of the blocks of some parts and read them whenever they run, with a warning that says why.

        False if that is what they do already.
        """
        new = [name for name in parts if self._origins[name].streamed is None]
        for name in new:
            origin = self._origins[name]
            first = next(origin.network.parameters())
            weights = origin.kept(self._change.of(name, origin.weights))
            origin.streamed = Streamed(origin.network, weights, first.device, first.dtype)
        if new:
            warnings.warn(f"{why}; from now on weights are read as they are used: {', '.join(new)}", stacklevel=2)
        return bool(new)

    def set_embeddings(self, files: Mapping[str, Path | str]) -> None:
        """Let prompts use learned words, each from the file of its textual inversion, instead of those known before.

        Raises:
            MaquetteError: a file is no embedding, or was made for another family.
        """
        words = tuple((word, str(file)) for word, file in files.items())
        self._teach(Added(words=words))
        self.added = self.added._replace(words=words)

    def _teach(self, wanted: Added) -> None:
        worn = Added(words=wanted.words).read_for(wanted)
        towers = {
            IN_FILES.get(each.reading.part, each.reading.part): each
            for each in self.encoders
            if isinstance(each, TextEncoder)
        }
        words = read_words(dict(worn.words), {name: each.tower.spec.width for name, each in towers.items()})
        for lesson in [prepare(encoder, words[name]) for name, encoder in towers.items()]:
            lesson.learn()
        self._worn = (self._worn[0], worn)

    def paint(self, **fields: Any) -> "Result":
        """Paint what a request asks for; `fields` are those of `maquette.workflows.request.Request`."""
        from maquette.workflows.loop import run
        from maquette.workflows.paint import paint
        from maquette.workflows.request import Request

        return run(paint(self, Request.read({"model": self.opened_as, **fields})))

    def txt2img(self, prompt: str, **fields: Any) -> "Result":
        """Paint words; `fields` are those of `paint`."""
        return self.paint(prompt=prompt, **fields)


def _zero_where_empty(text: Encoding, prompts: Sequence[str]) -> Encoding:
    said = torch.tensor([float(bool(prompt)) for prompt in prompts], device=text.tokens.device).to(text.tokens)
    return Encoding(text.tokens * said[:, None, None], text.pooled * said[:, None])


def _file_of(recognition: Recognition) -> Path | None:
    """The denoiser's (first) file; None if it is in none."""
    weights = recognition.parts["denoiser"].weights
    return weights.source(next(iter(weights)))
