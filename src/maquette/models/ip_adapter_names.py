"""The published layout of IP-Adapter, that of Ye et al.'s code; diffusers and others read the same files.

Attention layers are counted through as diffusers lists them, on the way down, on the way up, in the middle, each
self-attention before its cross-attention: the odd numbers are ours.
"""

from dataclasses import replace

from maquette.errors import MaquetteError
from maquette.models.ip_adapter import IPAdapter, IPAdapterSpec, PatchProjection, Resampler, ResamplerSpec
from maquette.weights.dialect import Dialect, Names, Source, Table, counted, layers, size
from maquette.weights.view import Weights, describe

HEAD = 64  # width of the resampler's heads
VECTOR: Names = {"linear": "proj", "norm": "norm"}
PATCHES: Names = {"mlp.up": "proj.0", "mlp.down": "proj.2", "norm": "proj.3"}
OUTER: Names = {"proj_in": "proj_in", "proj_out": "proj_out", "norm": "norm_out"}
LAYER: Names = {
    "norm_states": "0.norm1",
    "norm_latents": "0.norm2",
    "attention.q": "0.to_q",
    "attention.kv": "0.to_kv",
    "attention.out": "0.to_out",
    "norm": "1.0",
    "mlp.up": "1.1",
    "mlp.down": "1.3",
}


def original(network: IPAdapter) -> Table:
    """The sources in the original layout."""
    projection, table = network.projection, Table()
    if isinstance(projection, Resampler):
        table["projection.latents"] = Source(("image_proj.latents",))
        table |= layers(projection, "projection", "image_proj", OUTER)
        for index, layer in enumerate(projection.layers):
            table |= layers(layer, f"projection.layers.{index}", f"image_proj.layers.{index}", LAYER)
    else:
        names = PATCHES if isinstance(projection, PatchProjection) else VECTOR
        table |= layers(projection, "projection", "image_proj", names)
    for index in range(len(network.layers)):
        both = tuple(f"ip_adapter.{2 * index + 1}.to_{part}_ip.weight" for part in "kv")
        table[f"layers.{index}.weight"] = Source(both)
    return table


def spec_from_original(view: Weights) -> IPAdapterSpec:
    """Read the spec off names and shapes; heads of the resampler are 64 wide, as in every published one.

    Raises:
        MaquetteError: it reads something else than CLIP's image tower, as those for faces do.
    """
    numbers = (2 * index + 1 for index in range(len(view)))
    keys = [name for number in numbers if (name := f"ip_adapter.{number}.to_k_ip.weight") in view]
    spec = IPAdapterSpec(widths=tuple(size(view, name, 0) for name in keys), context=size(view, keys[0], 1))
    if "image_proj.proj.weight" in view:
        rows, image = (size(view, "image_proj.proj.weight", axis) for axis in (0, 1))
        return replace(spec, image=image, tokens=rows // spec.context)
    if "image_proj.proj.3.weight" in view:
        return replace(spec, image=size(view, "image_proj.proj.0.weight", 1), tokens=0, reads="patches")
    if "image_proj.latents" not in view or "image_proj.layers.0.0.to_q.weight" not in view:
        raise MaquetteError(
            f"{describe(view)}: this IP-Adapter reads something else than CLIP's image tower (faces?), which is not "
            "supported; use one of another kind"
        )
    resampler = ResamplerSpec(
        width=size(view, "image_proj.latents", 2),
        depth=len(counted(view, "image_proj.layers.{}.0.to_q.weight")),
        heads=size(view, "image_proj.layers.0.0.to_q.weight", 0) // HEAD,
        hidden=size(view, "image_proj.layers.0.1.1.weight", 0),
    )
    image, tokens = size(view, "image_proj.proj_in.weight", 1), size(view, "image_proj.latents", 1)
    return replace(spec, image=image, tokens=tokens, reads="patches", resampler=resampler)


ORIGINAL = Dialect("original", ("ip_adapter.1.to_k_ip.weight",), original, spec_from_original)
DIALECTS = (ORIGINAL,)
