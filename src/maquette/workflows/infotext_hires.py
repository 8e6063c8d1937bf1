"""A1111's second pass in its infotext: written, and read; its sides are rounded down, ours to the nearest."""

import re
from collections.abc import Mapping
from pathlib import Path

from maquette.diffusion.schedules import kept_steps
from maquette.workflows.foreign import BEGAN_WITH_PICTURE, Settings, second_pass
from maquette.workflows.request import SIZE_MULTIPLE, Resolved, enlarged_side
from maquette.workflows.settings import Hires

UPSCALERS = {"latent": "Latent", "pixel": "Lanczos"}
"""A1111's names for our ways to enlarge."""


def write_hires(request: Resolved, hires: Hires) -> dict[str, object]:
    """What is said of a second pass."""
    return {
        "Hires upscale": hires.scale,
        "Hires resize": _resized(request, hires.scale),
        "Hires steps": kept_steps(hires.steps or request.steps, hires.strength),
        "Hires upscaler": _upscaler(hires),
        "Hires schedule steps": hires.steps,
    }


def _upscaler(hires: Hires) -> str:
    """What A1111 calls a way to enlarge: its own by their names, networks by that of their file."""
    return UPSCALERS[hires.by] if hires.upscaler is None else Path(hires.upscaler).stem


def _resized(request: Resolved, scale: float) -> str | None:
    """The size of the second pass, where A1111 would make another one of the scale."""
    sides = request.width, request.height
    ours = [enlarged_side(side, scale) for side in sides]
    return None if ours == [_rounded_down(side, scale) for side in sides] else f"{ours[0]}x{ours[1]}"


def read_hires(settings: Settings, told: Mapping[str, str]) -> None:
    """The second pass; a strength without one belongs to a picture that was begun with."""
    strength = told.get("Denoising strength")
    if "Hires upscale" not in told and "Hires resize" not in told:
        if strength is not None:
            settings.leave("Denoising strength", strength, BEGAN_WITH_PICTURE)
        return
    ours = settings.program == "Maquette"
    resized = "Hires resize" in told and not (ours and "Hires upscale" in told)
    scale = _grown(settings, told["Hires resize"]) if resized else float(told["Hires upscale"])
    if scale is None:
        settings.leave("Hires resize", told["Hires resize"], "it is no size of the same shape; there is no second pass")
        return
    upscaler = told.get("Hires upscaler", "Latent")
    by = "latent" if upscaler.startswith("Latent") else "pixel"
    walked = int(told.get("Hires steps", 0)) or settings.fields.get("steps", 0)
    passed = second_pass(walked, float(strength or 0.7))
    if not ours and not resized:
        scale = _landing(settings, scale)
    if ours:
        whole = {"steps": int(told["Hires schedule steps"])} if "Hires schedule steps" in told else {}
        passed = {"strength": float(strength or 0.7), **whole}
    settings.fields["hires"] = {"scale": scale, "by": by, **passed}
    if upscaler not in UPSCALERS.values():
        settings.leave("Hires upscaler", upscaler, f"another way to enlarge the {by}s is taken")


def _landing(settings: Settings, scale: float) -> float:
    """A scale by which our sides are A1111's, which rounds them down where we take the nearest; or it is left."""
    sides = [settings.fields.get(name, 0) for name in ("width", "height")]
    wanted = [_rounded_down(side, scale) for side in sides]
    if min(sides) <= 0:
        return scale
    half = SIZE_MULTIPLE / 2
    least, most = (
        [(side + reach) / before for side, before in zip(wanted, sides, strict=True)] for reach in (-half, half)
    )
    for each in (scale, (max(least) + min(most)) / 2):
        if [enlarged_side(side, each) for side in sides] == wanted:
            return each
    settings.leave("Hires upscale", scale, f"its sides are {wanted[0]} and {wanted[1]} there")
    return scale


def _rounded_down(side: int, scale: float) -> int:
    """A side of A1111's second pass."""
    return int(side * scale) // SIZE_MULTIPLE * SIZE_MULTIPLE


def _grown(settings: Settings, size: str) -> float | None:
    """By how much both sides grow to a size, one of whose sides may be 0: whatever the other asks; None if unlike."""
    told = re.fullmatch(r"(\d{1,6})x(\d{1,6})", size)
    before = [settings.fields.get(name, 0) for name in ("width", "height")]
    if told is None or min(before) <= 0:
        return None
    asked = [(int(side), old) for side, old in zip(told.groups(), before, strict=True) if int(side)]
    scale = asked[0][0] / asked[0][1] if asked else 0.0
    return scale if asked and all(abs(old * scale - side) < SIZE_MULTIPLE for side, old in asked) else None
