"""For each word of the prompt, where the model looked: cross- and joint attention, by layer and step.

Of every attention from the picture to the text the probabilities are kept, as a mean over the heads (Tang et al. 2022,
"What the DAAM"). They are computed beside the attention itself, whose output stays as it is, bit for bit.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Denoiser
from maquette.diffusion.process import Level
from maquette.engine.words import Words, find_words, missing
from maquette.errors import MaquetteError
from maquette.models.flux import SingleBlock
from maquette.nn.attention import Attend, CrossAttention, attending
from maquette.nn.joint import JointBlock

if TYPE_CHECKING:
    from maquette.engine.model import Model

MEMORY = 2**28  # bytes of maps kept; where they become more, the finest are halved
AT_ONCE = 2**22  # probabilities computed at a time


@dataclass
class Seen:
    """The sum of what a layer saw at one step, (pictures, tokens, h, w), and how often it was asked there."""

    total: Tensor
    times: int = 1

    @property
    def mean(self) -> Tensor:
        return self.total / self.times


class AttentionMaps:
    """Where the model looked for each word of a prompt, while pictures are painted from it.

    `maps["apple"]` is a picture's heat map; `maps.at("apple", step=3, layer="up")` are probabilities. Maps of several
    pictures are taken apart by `of`.
    """

    def __init__(self, pictures: int = 1, *, memory: int = MEMORY) -> None:
        """Maps of so many pictures that are painted together, in at most so many bytes."""
        self._pictures, self._memory = pictures, memory
        self._told: list[tuple[Words, Tensor | None]] = []
        self.times: list[float] = []
        """The time of each step: of each noise level at which the network was asked."""
        self._sizes: list[tuple[int, int]] = []  # of the latent at each step
        self._seen: dict[tuple[int, str, int], Seen] = {}  # by prompt, layer and step
        self._numbers = 0  # kept so far
        self._side: float = math.inf  # finer maps are halved

    @property
    def layers(self) -> list[str]:
        """The attention layers that looked at the text, by their names in the network."""
        return list(dict.fromkeys(layer for _, layer, _ in self._seen))

    @property
    def words(self) -> list[str]:
        """Each word of the prompts once, in order; Chinese, which has no blanks, up to the next mark."""
        return list(dict.fromkeys(name for words, _ in self._told for name in words.names))

    def __len__(self) -> int:
        """Of how many pictures these are the maps."""
        return self._pictures

    def __getitem__(self, word: str) -> Tensor:
        """Where the model looked for a word, (h, w): all steps and layers together, 0 where least and 1 where most.

        Raises:
            MaquetteError: as `at`.
        """
        heat = self.at(word)
        heat = heat - heat.min()
        return heat / heat.max().clamp(min=1e-12)

    def at(self, word: str, *, step: int | None = None, layer: str | None = None) -> Tensor:
        """How much of the attention each place (h, w) gave to a word, from 0 to 1.

        It is a mean over the steps and layers that are left open, in the finest of their resolutions. `step` counts
        from 0, or from -1 backwards; `layer` is the name of one, or the beginning of several ("up", "blocks").

        Raises:
            MaquetteError: the word is not in the prompt, nothing was seen, or these are the maps of several pictures.
        """
        if len(self) != 1:
            raise MaquetteError(f"these are the attention maps of {len(self)} pictures; take those of one by .of(k)")
        columns = {k: [words.positions.index(each) for each in words.find(word)] for k, words in self._prompts()}
        if not any(columns.values()):
            raise missing(word, [words for words, _ in self._told])
        maps = [seen.mean[:, columns[k]].sum(1, keepdim=True) for k, seen in self._chosen(step, layer) if columns[k]]
        if not maps:
            raise MaquetteError(f"{word!r} was not told at step {step}; leave out the step")
        size = max((each.shape[2:] for each in maps), key=math.prod)
        resized = [F.interpolate(each, size, mode="bilinear", align_corners=False) for each in maps]
        return torch.stack(resized).mean(0)[0, 0]

    def _prompts(self) -> Iterator[tuple[int, Words]]:
        yield from ((k, words) for k, (words, _) in enumerate(self._told))

    def _chosen(self, step: int | None, layer: str | None) -> list[tuple[int, Seen]]:
        """What was seen of each prompt at a step, or at all, in a layer, or in all."""
        number = step if step is None or step >= 0 else step + len(self.times)
        chosen = [
            (prompt, seen)
            for (prompt, name, when), seen in self._seen.items()
            if number in (None, when) and (layer is None or f"{name}.".startswith(f"{layer}."))
        ]
        if not chosen and not self._seen:
            raise MaquetteError("nothing was painted while attention was recorded, or the network reads no words")
        if not chosen:
            raise MaquetteError(
                f"no attention was recorded at step {step} in layer {layer}; there are {len(self.times)} steps from 0, "
                f"and the layers {', '.join(self.layers)}"
            )
        return chosen

    def of(self, picture: int) -> "AttentionMaps":
        """The maps of one of the pictures."""
        if not 0 <= picture < len(self):
            raise MaquetteError(f"there are attention maps of {len(self)} pictures, numbered from 0; got {picture}")
        return self._with(1, {key: Seen(seen.total[picture, None], seen.times) for key, seen in self._seen.items()})

    @staticmethod
    def join(parts: "Sequence[AttentionMaps]") -> "AttentionMaps":
        """The maps of all pictures of several batches that were painted alike."""
        keys, least = parts[0]._seen, min(part._side for part in parts)
        return parts[0]._with(
            sum(map(len, parts)),
            {
                key: Seen(torch.cat([_at_most(part._seen[key].total, least) for part in parts]), seen.times)
                for key, seen in keys.items()
            },
        )

    def _with(self, pictures: int, seen: dict[tuple[int, str, int], Seen]) -> "AttentionMaps":
        other = AttentionMaps(pictures, memory=self._memory)
        other._told, other.times, other._sizes, other._seen = self._told, self.times, self._sizes, seen
        return other

    def tell(self, words: Words, tokens: Tensor | None = None) -> None:
        """Watch out for the words of a prompt, in those rows of a batch that are told these `tokens` (B or 1, L, C).

        Without tokens, they are the first rows, one for each picture, as guidance asks. A prompt may be told again.
        """
        if words.positions and all(words != known for known, _ in self._told):
            self._told.append((words, None if tokens is None else tokens.expand(len(self), -1, -1)))

    def watch(self, denoise: Denoiser, network: nn.Module) -> Denoiser:
        """The same answers, and what `network` looked at on the way to them is recorded."""

        def watched(x: Tensor, level: Level, conditioning: Conditioning) -> Tensor:
            tokens = conditioning.tokens
            rows = {} if tokens is None else {k: self._rows(told, tokens) for k, (_, told) in enumerate(self._told)}
            told = {k: found for k, found in rows.items() if found is not None}
            if tokens is None or not told:
                return denoise(x, level, conditioning)
            step = self._step(level, x)

            def see(layer: str, q: Tensor, k: Tensor) -> None:
                for prompt, found in told.items():
                    self._see((prompt, layer, step), q[found], k[found])

            with watching(network, tokens.shape[1], see):
                return denoise(x, level, conditioning)

        return watched

    def _rows(self, told: Tensor | None, tokens: Tensor) -> slice | None:
        """Those of the tokens (B, L, C) that are what was told for each picture; None if it is not among them."""
        blocks = [slice(first, first + len(self)) for first in range(0, len(tokens), len(self))]
        if told is None:
            return blocks[0]
        return next((rows for rows in blocks if torch.equal(tokens[rows], told.to(tokens))), None)

    def _step(self, level: Level, x: Tensor) -> int:
        """The number of this noise level; that of the step before, if it was asked there already."""
        now = float(level.t), (x.shape[2], x.shape[3])
        if not self.times or now != (self.times[-1], self._sizes[-1]):
            self.times.append(now[0])
            self._sizes.append(now[1])
        return len(self.times) - 1

    @torch.no_grad()
    def _see(self, key: tuple[int, str, int], q: Tensor, k: Tensor) -> None:
        """Record queries of the picture and all keys, (pictures, heads, L, d), by prompt, layer and step."""
        prompt, _, step = key
        shares = probabilities(q, k, self._told[prompt][0].positions).transpose(1, 2)
        maps = _at_most(shares.unflatten(2, grid(shares.shape[2], *self._sizes[step])).cpu(), self._side)
        known = self._seen.get(key)
        if known is None:
            self._seen[key] = Seen(maps)
            self._numbers += maps.numel()
        else:
            known.total, known.times = known.total + maps, known.times + 1
        while self._side > 1 and maps.element_size() * self._numbers > self._memory:
            self._side = max(max(seen.total.shape[2:]) for seen in self._seen.values()) // 2
            for seen in self._seen.values():
                seen.total = _at_most(seen.total, self._side)
            self._numbers = sum(seen.total.numel() for seen in self._seen.values())


@contextmanager
def recorded(model: "Model", prompt: str, *, pictures: int = 1) -> Iterator[AttentionMaps]:
    """Record where a model looks for the words of a prompt, while so many pictures are painted from it together.

    with recorded(model, "a cat and a dog") as maps:
        model.txt2img("a cat and a dog")
    maps["cat"]
    """
    maps, plain = AttentionMaps(pictures), model.denoiser
    maps.tell(find_words(model, prompt))
    model.denoiser = maps.watch(plain, model.network)
    try:
        yield maps
    finally:
        model.denoiser = plain


@contextmanager
def watching(network: nn.Module, text: int, see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Show `see` each attention from the picture to `text` tokens: the layer's name, queries of the picture, all keys.

    Both are (B, heads, L, d). In blocks that attend jointly, queries and keys are of the text, then of the picture.
    """

    def shown(name: str, attend: Attend, first: int) -> Attend:
        def attend_and_show(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            see(name, q[:, :, first:], k)
            return attend(q, k, v)

        return attend_and_show

    changes = {
        module: shown(name, module.attend, 0 if isinstance(module, CrossAttention) else text)
        for name, module in network.named_modules()
        if isinstance(module, CrossAttention | JointBlock | SingleBlock)
    }
    with attending(changes):
        yield


def probabilities(q: Tensor, k: Tensor, keys: Sequence[int]) -> Tensor:
    """softmax(q k^T / sqrt(d)) at some of the keys, as a mean over the heads: (B, queries, len(keys)), float32.

    q, k: (B, heads, L, d). As many heads, or else queries, are taken at a time as memory allows.
    """
    batch, heads, queries, width = q.shape
    room = max(AT_ONCE // (batch * k.shape[2]), 1)
    total = torch.zeros(batch, queries, len(keys), device=q.device)
    wanted = torch.tensor(keys, device=q.device)
    heads_at_once, queries_at_once = max(room // queries, 1), min(room, queries)
    for q_heads, k_heads in zip(q.split(heads_at_once, 1), k.split(heads_at_once, 1), strict=True):
        sums = total.split(queries_at_once, 1)
        for part, out in zip(q_heads.split(queries_at_once, 2), sums, strict=True):
            scores = part.float() @ k_heads.float().mT * width**-0.5
            out += scores.softmax(dim=-1)[..., wanted].sum(1)
    return total / heads


def grid(count: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of `count` places on a latent, whose sides are halved, rounding up, until there are so many."""
    rows, columns = height, width
    while rows * columns > count:
        rows, columns = -(-rows // 2), -(-columns // 2)
    if rows * columns != count:
        raise MaquetteError(
            f"attention over {count} places is no grid on a latent of {height} x {width}; it cannot be drawn as a map"
        )
    return rows, columns


def _at_most(maps: Tensor, side: float) -> Tensor:
    """Maps (..., h, w) halved until no side is longer."""
    while max(maps.shape[-2:]) > side:
        height, width = maps.shape[-2:]
        maps = F.adaptive_avg_pool2d(maps, (-(-height // 2), -(-width // 2)))
    return maps
