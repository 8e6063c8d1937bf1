"""FreeU (Si et al. 2023, 2309.11497): on a U-Net's way up its own features are strengthened, and skips lose detail.

Nothing is trained, and no time is lost. It acts where the way up is widest: at the two largest widths.
"""

from typing import Any

import torch
from torch import Tensor, nn

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import Denoiser
from maquette.diffusion.process import Level
from maquette.errors import MaquetteError
from maquette.models.unet import UNet
from maquette.nn.network import Run, running

LOW = 1  # on each side of the middle of a spectrum: 2 x 2 numbers, as in the published code
Two = tuple[float, float]


def freeu(denoise: Denoiser, network: nn.Module, b: Two, s: Two) -> Denoiser:
    """The answers of `denoise` where features of a U-Net's way up count `b` times, low frequencies of skips `s` times.

    Of each pair, the first number is for the largest width, the second for the next.

    Raises:
        MaquetteError: the network is no U-Net.
    """
    if not isinstance(network, UNet):
        raise MaquetteError(f"freeu: only a U-Net has a way up with skips, not this {type(network).__name__}")
    widths = sorted(set(network.spec.widths), reverse=True)
    strengths = dict(zip(widths, zip(b, s, strict=True), strict=False))
    skips = dict(zip(network.up, reversed(network.skips), strict=True))

    def run_strengthened(run: Run, block: nn.Module, x: Tensor, *rest: Any) -> Any:
        if block not in skips:
            return run(block, x, *rest)
        own, skip = x.split([x.shape[1] - skips[block], skips[block]], dim=1)
        if own.shape[1] in strengths:
            feature, frequency = strengths[own.shape[1]]
            x = torch.cat([strengthened(own, feature), weakened(skip, frequency)], dim=1)
        return run(block, x, *rest)

    def answer(x: Tensor, level: Level, told: Conditioning) -> Tensor:
        with running(network, run_strengthened):
            return denoise(x, level, told)

    return answer


def strengthened(x: Tensor, b: float) -> Tensor:
    """Half of the channels (B, C, h, w), times 1 where their mean is least and times `b` where it is most (eq. 4)."""
    mean = x.float().mean(1, keepdim=True)
    least, most = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    factor = 1.0 + (b - 1.0) * (mean - least) / (most - least).clamp(min=1e-12)
    half = x.shape[1] // 2
    return torch.cat([x[:, :half] * factor.to(x.dtype), x[:, half:]], dim=1)


def weakened(x: Tensor, s: float) -> Tensor:
    """A feature map whose low frequencies, the middle of its spectrum, are multiplied by `s` (equations 5 to 7)."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(x.float()), dim=(2, 3))
    rows, columns = (slice(max(side // 2 - LOW, 0), side // 2 + LOW) for side in x.shape[2:])
    spectrum[:, :, rows, columns] *= s
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(2, 3))).real.to(x.dtype)
