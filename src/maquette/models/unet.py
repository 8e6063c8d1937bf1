"""The U-Net with cross-attention (Ho et al. 2020; Dhariwal & Nichol 2021; Rombach et al. 2022, section 3.3).

One class serves SD 1.x, SD 2.x, SDXL, its refiner and every small or pruned relative: they differ in a `UNetSpec`.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.errors import MaquetteError
from maquette.nn.attention import CrossAttention, SelfAttention
from maquette.nn.conv import Conv2d
from maquette.nn.embed import sinusoids
from maquette.nn.joint import needed
from maquette.nn.mlp import GEGLU, MLP
from maquette.nn.network import Network, zero
from maquette.nn.norm import GroupNorm
from maquette.nn.pyramid import SpatialAttention
from maquette.nn.resnet import Downsample, ResBlock, Upsample, silu

RES_EPS, TRANSFORMER_EPS = 1e-5, 1e-6  # two different epsilons, as the published weights were trained
DDPM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class UNetSpec:
    """Shape of a U-Net; the defaults are those of SD 1.x (v1-inference.yaml).

    `down[level]` gives, for each residual block of a level, the depth of the transformer behind it (0: none);
    `up` is given in the order of computation, lowest resolution first. `middle` is the depth of the transformer between
    the two middle residual blocks; 0 leaves transformer and second block out (SSD-1B), None the whole middle (KOALA).
    `heads` holds everywhere, unless `head_width` is given. Without a `context` there are no transformers but single
    self-attentions. `guidance` is the width of the sinusoids of a guidance scale that the network was distilled for
    (Luo et al. 2023, LCM). `details` are those of a paper's code: "ddpm" (Ho et al. 2020) embeds time by sines first,
    pads right and bottom, and has another epsilon; in "adm" (Dhariwal & Nichol 2021) time scales and shifts norms, and
    residual blocks change the resolution.
    """

    in_channels: int = 4
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    down: tuple[tuple[int, ...], ...] = ((1, 1), (1, 1), (1, 1), (0, 0))
    middle: int | None = 1
    up: tuple[tuple[int, ...], ...] = ((0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1))
    context: int | None = 768
    heads: int | None = 8
    head_width: int | None = None
    vector: int | None = None
    guidance: int | None = None
    linear_projection: bool = False
    groups: int = 32
    details: Literal["ldm", "ddpm", "adm"] = "ldm"

    def __post_init__(self) -> None:
        if self.head_width is not None:
            object.__setattr__(self, "heads", None)

    @property
    def embedding(self) -> int:
        """Width of the time embedding after its perceptron."""
        return 4 * self.widths[0]

    @property
    def eps(self) -> float:
        """Of the residual blocks' norms."""
        return DDPM_EPS if self.details == "ddpm" else RES_EPS

    def heads_at(self, width: int) -> int:
        if self.head_width is not None:
            return width // self.head_width
        assert self.heads is not None
        return self.heads


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the context, gated feed-forward; each normed before and added after."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = CrossAttention(width, context, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = GEGLU(width, 4 * width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = repeated(x + self.attn1(self.norm1(x)), len(context))
        x = x + self.attn2(self.norm2(x), context)
        x = x + self.ff(self.norm3(x))
        return x


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map (B, width, H, W), added to it."""

    def __init__(self, width: int, depth: int, spec: UNetSpec) -> None:
        super().__init__()
        self.norm = GroupNorm(spec.groups, width, eps=TRANSFORMER_EPS)
        self.proj_in = nn.Linear(width, width)
        heads = spec.heads_at(width)
        assert spec.context is not None
        self.blocks = nn.ModuleList([TransformerBlock(width, heads, spec.context) for _ in range(depth)])
        self.proj_out = zero(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            h = block(h, context)
        return repeated(x, len(h)) + self.proj_out(h).transpose(1, 2).unflatten(2, x.shape[2:])


def repeated(x: Tensor, rows: int) -> Tensor:
    """So many rows: all those of `x`, as often as needed."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


class Stage(nn.Module):
    """One entry of the U-Net's list: a residual block, perhaps a transformer, perhaps a change of resolution."""

    def __init__(
        self,
        res: ResBlock | None = None,
        transformer: SpatialTransformer | SpatialAttention | None = None,
        resample: Downsample | Upsample | ResBlock | None = None,
    ) -> None:
        super().__init__()
        self.res = res
        self.transformer = transformer
        self.resample = resample

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None, size: tuple[int, int] | None = None) -> Tensor:
        if self.res is not None:
            x = self.res(x, emb[: len(x)])
        if self.transformer is not None:
            x = self.transformer(x) if context is None else self.transformer(x, context)
        match self.resample:
            case Upsample():
                x = self.resample(x, size)
            case Downsample():
                x = self.resample(x)
            case ResBlock():
                x = self.resample(x, emb[: len(x)], size)
        return x


class Encoded(NamedTuple):
    """What the way down and the middle give, and what the way up reads beside it."""

    x: Tensor
    skips: list[Tensor]
    """The stream behind the first convolution and behind each stage of the way down."""
    emb: Tensor
    context: Tensor | None


class UNetEncoder(Network):
    """The way down and the middle of a U-Net: what a ControlNet is a copy of."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.spec = spec
        emb, widths = spec.embedding, spec.widths
        self.time_embed = MLP(widths[0], emb, "silu", out=emb)
        self.vector_embed = MLP(spec.vector, emb, "silu", out=emb) if spec.vector is not None else None
        self.guidance_embed = nn.Linear(spec.guidance, widths[0], bias=False) if spec.guidance is not None else None
        self.conv_in = Conv2d(spec.in_channels, widths[0], 3, padding=1)

        skips = [widths[0]]
        self.down = nn.ModuleList()
        previous = widths[0]
        for level, width in enumerate(widths):
            for depth in spec.down[level]:
                self.down.append(Stage(self._res(previous, width), self._transformer(width, depth)))
                skips.append(previous := width)
            if level + 1 < len(widths):
                self.down.append(Stage(resample=self._downsample(width)))
                skips.append(width)
        self.skips = tuple(skips)  # their widths

        self.middle = nn.ModuleList()
        if spec.middle is not None:
            self.middle.append(Stage(self._res(previous, previous), self._transformer(previous, spec.middle)))
        if spec.middle:
            self.middle.append(Stage(self._res(previous, previous)))
        self.up = nn.ModuleList()  # a whole U-Net's

    def _res(self, width_in: int, width_out: int, resample: Literal["down", "up"] | None = None) -> ResBlock:
        spec = self.spec
        adaptive = spec.details == "adm"
        options: dict[str, Any] = {"groups": spec.groups, "eps": spec.eps, "emb": spec.embedding}
        return ResBlock(width_in, width_out, **options, adaptive=adaptive, resample=resample)

    def _downsample(self, width: int) -> Downsample | ResBlock:
        if self.spec.details == "adm":
            return self._res(width, width, "down")
        return Downsample(width, symmetric=self.spec.details != "ddpm")

    def _transformer(self, width: int, depth: int) -> SpatialTransformer | SpatialAttention | None:
        if depth and self.spec.context is None:
            return SpatialAttention(width, self.spec.groups, heads=self.spec.heads_at(width), eps=self.spec.eps)
        return SpatialTransformer(width, depth, self.spec) if depth else None

    def embed(self, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The embedding (B, 4 widths[0]) of time, guidance and vector, after its SiLU: what residual blocks read."""
        time = sinusoids(t, self.spec.widths[0], ddpm=self.spec.details == "ddpm").to(self.dtype)
        if self.guidance_embed is not None:
            scale = needed(conditioning.guidance, "guidance", "U-Net").to(t.device).float()
            angles = sinusoids(1000.0 * (scale - 1.0), self.guidance_embed.in_features, ddpm=True)
            time = time + self.guidance_embed(angles.to(self.dtype))
        emb = self.time_embed(time)
        if self.vector_embed is not None:
            if conditioning.vector is None:
                raise MaquetteError(f"U-Net: got no conditioning vector; it needs one of width {self.spec.vector}")
            emb = emb + self.vector_embed(conditioning.vector.to(self.dtype))
        return F.silu(emb)

    def encode(self, x: Tensor, t: Tensor | float, conditioning: Conditioning, hint: Tensor | None = None) -> Encoded:
        """Go down, and through the middle; a ControlNet's `hint` (B, widths[0], h, w) is added where the way begins."""
        if conditioning.concat is not None:
            x = torch.cat([x, conditioning.concat.to(x.dtype)], dim=1)
        x = self.to_input(x)
        emb = self.embed(torch.as_tensor(t, device=x.device).expand(len(x)), conditioning)
        context = None
        if self.spec.context is not None:
            tokens = conditioning.tokens
            context = x.new_zeros(len(x), 1, self.spec.context) if tokens is None else tokens.to(x)
        features = [feature.to(x) for feature in conditioning.features]
        places = dict(zip(self.feature_places(), features, strict=False))

        x = x[: len(x) // self._repeats(conditioning, hint)]
        x = self.conv_in(x) if hint is None else self.conv_in(x) + hint
        skips = [x]
        for index, stage in enumerate(self.down):
            x = self.run(stage, x, emb, context)
            if index in places:
                x = x + places[index]
            skips.append(x)
        for stage in self.middle:
            x = self.run(stage, x, emb, context)
        if len(features) > len(places):
            x = x + features[-1]
        return Encoded(x, [repeated(skip, len(emb)) for skip in skips], emb, context)

    def _repeats(self, conditioning: Conditioning, hint: Tensor | None) -> int:
        """How often the same rows come again, if nothing but the tokens tells them apart.

        Then all before the first cross-attention is computed once: of SD 1.x two convolutions and one of the five
        largest self-attentions.
        """
        told_apart = (hint, conditioning.concat, self.vector_embed, conditioning.features or None)
        attends = any(isinstance(stage.transformer, SpatialTransformer) for stage in self.down)
        return conditioning.repeats if attends and all(each is None for each in told_apart) else 1

    def feature_places(self) -> list[int]:
        """The stages of the way down behind which features of a T2I-Adapter are added, one on each level.

        That is the last residual block where the level attends, else the change of resolution, as adapters were trained
        for SD 1.x and SDXL; a feature that is left over is for the middle.
        """
        places, first = [], 0
        for level, depths in enumerate(self.spec.down):
            resamples = level + 1 < len(self.spec.down)
            first += len(depths)
            places.append(first - 1 if any(depths) or not resamples else first)
            first += resamples
        return places


class UNet(UNetEncoder):
    """(x (B, C, h, w), t (B,) or a number, Conditioning) -> the prediction (B, C_out, h, w)."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__(spec)
        skips, previous = list(self.skips), self.skips[-1]
        for level, width in enumerate(reversed(spec.widths)):
            for index, depth in enumerate(spec.up[level]):
                last = index + 1 == len(spec.up[level]) and level + 1 < len(spec.widths)
                res = self._res(previous + skips.pop(), width)
                self.up.append(Stage(res, self._transformer(width, depth), self._upsample(width) if last else None))
                previous = width

        self.norm_out = GroupNorm(spec.groups, previous, eps=spec.eps)
        self.conv_out = zero(Conv2d(previous, spec.out_channels, 3, padding=1))

    def _upsample(self, width: int) -> Upsample | ResBlock:
        return self._res(width, width, "up") if self.spec.details == "adm" else Upsample(width)

    def forward(self, x: Tensor, t: Tensor | float, conditioning: Conditioning) -> Tensor:
        x, skips, emb, context = self.encode(x, t, conditioning)
        control = [residual.to(x) for residual in conditioning.control]
        if control:  # one residual for each skip, the last for the middle (Zhang et al. 2023)
            x = x + control[-1]
            skips = [skip + residual for skip, residual in zip(skips, control[:-1], strict=True)]
        for stage in self.up:
            x = torch.cat([x, skips.pop()], dim=1)
            size = (skips[-1].shape[2], skips[-1].shape[3]) if skips else None
            x = self.run(stage, x, emb, context, size)
        return self.conv_out(silu(self.norm_out(x)))
