"""From a request to the answer that a sampler asks for: words, guidance, regions, control and refiner put together.

Each of these wraps the one question, *what is x0?* (`maquette.diffusion`); here is only what wraps what.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maquette.diffusion.compose import blend, by_step, handover, tiled
from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Denoiser, Guided, translated
from maquette.diffusion.guidance import Pair, apg, cfg, during, perturbed, rescaled, zero_star
from maquette.diffusion.schedules import Schedule
from maquette.engine.attention_maps import AttentionMaps
from maquette.engine.cache import cached
from maquette.engine.control import Control as Following
from maquette.engine.control import Mode, controlled, open_control
from maquette.engine.freeu import freeu
from maquette.engine.memory import SHORT
from maquette.engine.merge import merging
from maquette.engine.model import Model
from maquette.engine.open import companion
from maquette.engine.perturb import leaving_out, looking_nowhere
from maquette.engine.sparing import sparing
from maquette.engine.words import Words, find_words
from maquette.errors import MaquetteError
from maquette.text.script import by_step as read_by_step
from maquette.text.script import split_together
from maquette.workflows.canvas import Fit, fit, read_mask, to_pixels
from maquette.workflows.preprocessors import preprocess
from maquette.workflows.request import Resolved
from maquette.workflows.settings import Control, Picture, Region

Wanted = Sequence[tuple[Conditioning, float]]


class Guide:
    """What a request tells a model, for all of its pictures.

    `concat` (B or 1, C, h, w) is read beside the latent; in `attention` is recorded where the model looks. Of
    the `levels` only the last ones may be `walked`; words that change do so from the first walked one on, as in A1111.
    Levels that are `foreign` are those of another model's process. A region's mask of another size
    than is painted is cropped to its middle, as a whole picture is.
    """

    def __init__(
        self,
        model: Model,
        request: Resolved,
        levels: Schedule,
        *,
        concat: Tensor | None = None,
        attention: AttentionMaps | None = None,
        walked: Schedule | None = None,
        foreign: bool = False,
    ) -> None:
        self.model, self.request, self.levels, self.foreign = model, request, levels, foreign
        self.walked = levels if walked is None else walked
        self.concat, self.attention = concat, attention
        self._told: dict[tuple[str, bool], Conditioning] = {}

    def guided(self) -> Guided:
        """The answer, with everything that the request asks for."""
        painted = self._at_every_step(self.request.prompt)
        if self.request.regions:
            size = self.model.latent_shape(self.request.width, self.request.height)[1:]
            everywhere = torch.ones(1, 1, *size, device=self.model.device)
            parts = [(self._at_every_step(region.prompt), self._mask(region)) for region in self.request.regions]
            painted = blend([(painted, everywhere), *parts])
        if self.request.refiner is None:
            return painted
        refined = self._refined()
        return handover(painted, refined, self._time(self.request.refiner.at))

    def _at_every_step(self, prompt: str) -> Guided:
        """The guided answer to a prompt whose words may change from step to step."""
        together = [[(text, weight) for text in self._said(part)] for part, weight in split_together(prompt)]
        wanted = list(zip(*together, strict=True))
        unwanted, other = self._said(self.request.negative), self._said(self._other)
        made: dict[tuple[object, str, str], Guided] = {}
        for told in zip(wanted, unwanted, other, strict=True):
            if told not in made:
                made[told] = self._strengthened(*self._conditionings(*told))
        return by_step([made[told] for told in zip(wanted, unwanted, other, strict=True)], list(self.walked)[:-1])

    def _said(self, prompt: str) -> list[str]:
        """What a prompt says in each step that is walked; with A1111's noise, steps are counted as there, too."""
        late = self.request.noise.startswith("a1111-")
        return read_by_step(prompt, len(self.levels) - 1, late=late)[: len(self.walked) - 1]

    @property
    def _other(self) -> str:
        """The words that a variation goes towards; nothing where there are none."""
        variation = self.request.variation
        words = None if variation is None else variation.prompt
        if len(split_together(words or "")) > 1:
            raise MaquetteError("a variation goes towards one prompt; leave out AND")
        return words or ""

    def _conditionings(
        self, wanted: Sequence[tuple[str, float]], unwanted: str, other: str
    ) -> tuple[Wanted, Conditioning]:
        """What the model is told of what is wanted, each with its weight, and of what is not."""
        positives = [(self._vary(self._tell(text), other), weight) for text, weight in wanted]
        if self.attention is not None:
            for (text, _), (told, _) in zip(wanted, positives, strict=True):
                self.attention.tell(self._words(text, told), told.tokens)
        negative = self._tell(unwanted, negative=True)
        return positives, negative

    def _words(self, text: str, told: Conditioning) -> Words:
        """The words of a text, and all places where they are told: shorter texts are repeated."""
        words, own = find_words(self.model, text), self.model.chunks(text)
        if told.tokens is None or self._chunks % own:
            return words
        count = told.tokens.shape[1]
        again = range(0, count, count * own // self._chunks)
        return Words(tuple(replace(each, position=each.position + first) for first in again for each in words.tokens))

    def _instructed(self, positives: Wanted, negative: Conditioning) -> Guided:
        """Away from neither words nor picture, to each by a scale of its own (Brooks et al. 2023, equation 3)."""
        request = self.request
        assert negative.concat is not None and request.image_guidance is not None
        blind = replace(negative, concat=torch.zeros_like(negative.concat))
        by_words = [(told, weight * request.guidance) for told, weight in positives]
        by_picture = request.image_guidance - sum(weight for _, weight in by_words)
        return Pair(self._denoise, [*by_words, (negative, by_picture)], blind).positive

    def _strengthened(self, positives: Wanted, negative: Conditioning) -> Guided:
        """Guidance of the kind, as strong, as long and as rescaled as the request says."""
        request, family, pair = self.request, self.model.family, Pair(self._denoise, positives, negative)
        scale = request.true_guidance if family.distilled else request.guidance
        if family.instructed:
            guided = self._instructed(positives, negative)
        elif request.apg is not None:
            guided = apg(pair, scale, **request.apg.model_dump())
        elif request.cfg_zero:
            guided = zero_star(pair, scale, self.model.prediction)
        else:
            guided = cfg(pair, scale)
        for worse, push, share in self._worse:
            pushed = perturbed(guided, pair.positive, pair.of(worse).positive, push)
            guided = self._during(pushed, guided, share)
        if request.rescale:
            guided = rescaled(guided, pair.positive, request.rescale, self.model.prediction)
        return guided if request.interval is None else self._during(guided, pair.positive, request.interval)

    def _during(self, inside: Guided, outside: Guided, shares: tuple[float, float]) -> Guided:
        """One answer in a part of the steps, which may be shorter than a step and hold none, another in the others."""
        first, last = map(self._time, shares)
        return during(inside, outside, first=first, last=last) if first > last else outside

    def _time(self, share: float) -> float:
        """The time at a share of the steps; after all of them no time is left, whatever the process calls its last."""
        place, end = round(share * (len(self.levels) - 1)), len(self.levels) - 1
        return float(self.levels[place].t) if place < end else -math.inf

    def _tell(self, text: str, *, negative: bool = False) -> Conditioning:
        """What the model is told for one text, for each picture; every text is read once."""
        if (text, negative) not in self._told:
            request = self.request
            told = self.model.condition(
                [text],
                negative=negative,
                chunks=self._chunks,
                width=request.width,
                height=request.height,
                guidance=request.guidance,
                clip_skip=request.clip_skip,
            ).repeat(request.count)
            if self.concat is not None:
                told = replace(told, concat=self.concat.expand(request.count, -1, -1, -1))
            self._told[text, negative] = told
        return self._told[text, negative]

    @cached_property
    def _chunks(self) -> int:
        """As many chunks of tokens as all texts are told in."""
        prompts = [self.request.prompt, *(region.prompt for region in self.request.regions)]
        texts = {text for prompt in prompts for part, _ in split_together(prompt) for text in self._said(part)}
        texts |= {*self._said(self.request.negative), *self._said(self._other)}
        return self.model.chunks(*texts)

    def _vary(self, told: Conditioning, other: str) -> Conditioning:
        variation = self.request.variation
        if variation is None or variation.prompt is None:
            return told
        return told.lerp(self._tell(other), variation.amount)

    @cached_property
    def _denoise(self) -> Denoiser:
        return self._asked()

    @cached_property
    def _worse(self) -> list[tuple[Denoiser, float, tuple[float, float]]]:
        """What guidance also pushes away from, how strongly, and in which part of the steps."""
        model, pag, slg = self.model, self.request.pag, self.request.slg
        found = []
        if pag is not None:
            nowhere = self._asked(lambda denoise: looking_nowhere(denoise, model.network, pag.layers))
            found.append((nowhere, pag.scale, (0.0, 1.0)))
        if slg is not None:
            shorter = self._asked(lambda denoise: leaving_out(denoise, model.network, slg.layers))
            found.append((shorter, slg.scale, (slg.start, slg.end)))
        return found

    def _asked(self, worse: Callable[[Denoiser], Denoiser] | None = None) -> Denoiser:
        """The model's answers, or `worse` ones, of which nothing is cached or recorded."""
        model, request, denoise = self.model, self.request, self.model.denoiser
        speed, factor = request.speed, model.first_stage.vae.spec.factor
        if self.foreign:
            denoise = translated(denoise, model.process)
        if request.freeu is not None:
            b1, b2, s1, s2 = (getattr(request.freeu, name) for name in ("b1", "b2", "s1", "s2"))
            denoise = freeu(denoise, model.network, (b1, b2), (s1, s2))
        if worse is not None:
            denoise = worse(denoise)
        if speed is not None and speed.merge:
            denoise = merging(denoise, model.network, speed.merge)
        if speed is not None and speed.cache and worse is None:
            denoise = cached(denoise, model.network, speed.cache, outer=speed.outer)
        if request.controls:
            denoise = controlled(denoise, self._followed)
        if request.tiles is not None and max(request.width, request.height) > request.tiles.size:
            side = request.tiles.size // factor
            denoise = tiled(denoise, (side, side), request.tiles.overlap // factor)
        if self.attention is not None and worse is None:
            denoise = self.attention.watch(denoise, model.network)
        apart = self.attention is None
        return sparing(denoise, request.count, lambda: model.stream("denoiser", why=SHORT), apart=apart)

    @cached_property
    def _followed(self) -> list[Following]:
        return [self._follow(control) for control in self.request.controls]

    def _follow(self, control: Control) -> Following:
        """What a control's picture says to its network."""
        assert control.image is not None
        name = " with ".join(filter(None, (control.model, control.tower)))
        opened = self.model.controls.get(name, lambda: open_control(control.model, self.model, tower=control.tower))
        following: Following = opened.follow(
            self._pixels(control.image, control, control.preprocessor),
            scale=control.scale,
            start=control.start,
            end=control.end,
            mode=cast(Mode, control.mode),
            against=None if control.negative is None else self._pixels(control.negative, control),
            kind=control.kind,
        )
        return following

    def _pixels(self, picture: Picture, control: Control, preprocessor: str | None = None) -> Tensor:
        """A control's picture (1, 3, H, W) in [0, 1], at the size that is painted."""
        image = fit(picture.rgb, self.request.width, self.request.height, cast(Fit, control.resize))
        return (to_pixels([image if preprocessor is None else preprocess(preprocessor, image)]) + 1) / 2

    def _mask(self, region: Region) -> Tensor:
        """A region's weight at every place of the latent."""
        width, height = self.request.width, self.request.height
        if region.mask is not None:
            white = fit(read_mask(region.mask.image, region.mask.image.size), width, height)
            mask = torch.from_numpy(np.asarray(white, np.float32) / 255)
        else:
            assert region.box is not None
            mask = _inside(region.box, width, height, region.feather)
        size = self.model.latent_shape(width, height)[1:]
        return region.weight * F.interpolate(mask[None, None], size, mode="area").to(self.model.device)

    def _refined(self) -> Guided:
        assert self.request.refiner is not None
        refiner = companion(self.model, self.request.refiner.model)
        beside, own = refiner.family.beside, self.model.family.beside
        size = self.request.width, self.request.height
        if beside and beside != own:
            raise MaquetteError(f"{refiner.name} reads {', '.join(beside)} beside the latent; give another refiner")
        if refiner.latent_shape(*size) != self.model.latent_shape(*size):
            raise MaquetteError(f"{refiner.name} does not paint the latents of {self.model.name}; give another refiner")
        plain = self.request.model_copy(update={"refiner": None, "controls": ()})  # made for the first model
        foreign, concat = refiner.process != self.model.process, self.concat if beside else None
        return Guide(refiner, plain, self.levels, walked=self.walked, foreign=foreign, concat=concat).guided()


def _inside(box: Sequence[int], width: int, height: int, feather: int) -> Tensor:
    """1 inside of a box, falling to 0 over so many pixels beyond it, (height, width)."""
    left, top, right, bottom = box
    y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    beyond = [
        torch.maximum(low - place, place - high).clamp(min=0)
        for low, place, high in ((top, y, bottom), (left, x, right))
    ]
    reach = feather or 1e-6
    return (1 - beyond[0][:, None] / reach).clamp(min=0) * (1 - beyond[1][None] / reach).clamp(min=0)
