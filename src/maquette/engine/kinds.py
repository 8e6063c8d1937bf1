"""Every kind of network that a model is made of: its class, its published layouts, its config, its LoRA names."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from maquette.errors import MaquetteError
from maquette.families.family import Latent
from maquette.models import (
    bert_config,
    bert_names,
    class_embedder,
    clip_config,
    clip_names,
    controlnet_config,
    controlnet_names,
    dit_config,
    dit_names,
    flux_config,
    flux_names,
    ip_adapter_names,
    mmdit_config,
    mmdit_names,
    rrdb_names,
    t2i_adapter_config,
    t2i_adapter_names,
    t5_config,
    t5_names,
    transformer_controlnet_config,
    transformer_controlnet_names,
    unet2d_config,
    unet_config,
    unet_names,
    vae_config,
    vae_names,
    vq_config,
    vq_names,
)
from maquette.models.bert import Bert
from maquette.models.class_embedder import ClassEmbedder
from maquette.models.clip import CLIPImage, CLIPText
from maquette.models.controlnet import ControlNet
from maquette.models.dit import DiT
from maquette.models.flux import Flux
from maquette.models.ip_adapter import IPAdapter
from maquette.models.mmdit import MMDiT
from maquette.models.rrdb import RRDB
from maquette.models.t2i_adapter import T2IAdapter
from maquette.models.t5 import T5
from maquette.models.transformer_controlnet import FluxControlNet, MMDiTControlNet
from maquette.models.unet import UNet
from maquette.models.vae import VAE
from maquette.models.vq import VQ
from maquette.weights.dialect import Dialect, targets
from maquette.weights.lora import Target
from maquette.weights.view import Weights

Options = Mapping[str, Any]


class Configured(NamedTuple):
    """What a `config.json` says: the spec, and for a first stage how its latents are scaled."""

    spec: Any
    latent: Latent | None = None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of network."""

    name: str
    role: str
    """What it is in a model: "denoiser", "vae" (any first stage), one of `TEXTS`, or beside it: "control", "image",
    "upscaler"."""
    network: type[Any]
    dialects: tuple[Dialect[Any, Any], ...]
    classes: tuple[str, ...]
    """What `config.json` calls it: its `_class_name`, or one of its `architectures`."""
    from_config: Callable[[Options, str], Configured]
    to_config: Callable[[Any], dict[str, Any]]
    targets: Callable[[Any, int], list[Target]]
    """Where LoRA files speak of it; the number tells a model's first, second, ... text encoder."""


def _spec(from_config: Callable[[Options, str], Any]) -> Callable[[Options, str], Configured]:
    return lambda options, where: Configured(from_config(options, where))


def _vae_config(options: Options, where: str) -> Configured:
    found = vae_config.from_config(options, where)
    return Configured(found.spec, Latent(scale=found.scale, shift=found.shift, overflows=found.force_upcast))


def _vq_config(options: Options, where: str) -> Configured:
    found = vq_config.from_config(options, where)
    return Configured(found.spec, Latent(scale=found.scale))


def _unet_config(options: Options, where: str) -> Any:
    without_context = options.get("_class_name") == "UNet2DModel"
    return (unet2d_config if without_context else unet_config).from_config(options, where)


def _no_config(*_: Any) -> Any:
    raise MaquetteError("diffusers has no class embedder; keep the model as one file")


def _no_adapter_config(*_: Any) -> Any:
    raise MaquetteError("diffusers has no config for an IP-Adapter; keep it as one file")


def _no_upscaler_config(*_: Any) -> Any:
    raise MaquetteError("diffusers has no config for a network that enlarges; keep it as one file")


def _no_targets(network: Any, position: int) -> list[Target]:
    return []


def _transformer_targets(names: Any) -> Callable[[Any, int], list[Target]]:
    """The spellings of both layouts, as kohya's scripts and diffusers write them."""

    def of_network(network: Any, position: int) -> list[Target]:
        tables = (names.original(network), names.diffusers(network))
        roots = ("transformer", "diffusion_model", "")
        return targets(network, tables, roots=roots, kohya=("lora_unet", "lora_transformer", "lycoris"))

    return of_network


def _t5_targets(network: T5, position: int) -> list[Target]:
    table = t5_names.DIALECTS[0].table(network)
    roots = (f"text_encoder_{position}", "text_encoders.t5xxl.transformer")
    return targets(network, (table,), roots=roots, kohya=(f"lora_te{position}", "lora_te3"))


def _transformer(name: str, network: type[Any], names: Any, config: Any, *classes: str) -> Kind:
    """A transformer that denoises, by the modules of its names and of its config."""
    return Kind(
        name=name,
        role="denoiser",
        network=network,
        dialects=names.DIALECTS,
        classes=classes,
        from_config=_spec(config.from_config),
        to_config=config.to_config,
        targets=getattr(names, "lora_targets", None) or _transformer_targets(names),
    )


FLUX = _transformer("FLUX transformer", Flux, flux_names, flux_config, "FluxTransformer2DModel")
MMDIT = _transformer("MM-DiT", MMDiT, mmdit_names, mmdit_config, "SD3Transformer2DModel")
# The published folders still have the older of its two names; PixArt's, of the same name, have other norms.
DIT = _transformer("DiT", DiT, dit_names, dit_config, "DiTTransformer2DModel", "Transformer2DModel")
UNET = Kind(
    name="U-Net",
    role="denoiser",
    network=UNet,
    dialects=(unet_names.DIFFUSERS_OLD, *unet_names.DIALECTS),
    classes=("UNet2DConditionModel", "UNet2DModel"),
    from_config=_spec(_unet_config),
    to_config=lambda spec: (unet2d_config if spec.context is None else unet_config).to_config(spec),
    targets=lambda network, position: unet_names.lora_targets(network),
)
VQ_STAGE = Kind(
    name="VQ autoencoder",
    role="vae",
    network=VQ,
    dialects=vq_names.DIALECTS,
    classes=("VQModel",),
    from_config=_vq_config,
    to_config=lambda spec: vq_config.to_config(vq_config.VQConfig(spec)),
    targets=_no_targets,
)
KL_STAGE = Kind(
    name="KL autoencoder",
    role="vae",
    network=VAE,
    dialects=vae_names.DIALECTS,
    classes=("AutoencoderKL",),
    from_config=_vae_config,
    to_config=lambda spec: vae_config.to_config(vae_config.VAEConfig(spec)),
    targets=_no_targets,
)
CLIP = Kind(
    name="CLIP text tower",
    role="clip",
    network=CLIPText,
    dialects=clip_names.TEXT_DIALECTS,
    classes=("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"),
    from_config=_spec(clip_config.text_from_config),
    to_config=clip_config.text_to_config,
    targets=clip_names.text_lora_targets,
)
T5_ENCODER = Kind(
    name="T5 encoder",
    role="t5",
    network=T5,
    dialects=t5_names.DIALECTS,
    classes=("T5EncoderModel", "T5ForConditionalGeneration", "T5Model"),
    from_config=_spec(t5_config.from_config),
    to_config=t5_config.to_config,
    targets=_t5_targets,
)
CONTROLNET = Kind(
    name="ControlNet",
    role="control",
    network=ControlNet,
    dialects=controlnet_names.DIALECTS,
    classes=("ControlNetModel",),
    from_config=_spec(controlnet_config.from_config),
    to_config=controlnet_config.to_config,
    targets=_no_targets,
)
MMDIT_CONTROLNET = Kind(
    name="ControlNet for SD3",
    role="control",
    network=MMDiTControlNet,
    dialects=(transformer_controlnet_names.MMDIT,),
    classes=("SD3ControlNetModel",),
    from_config=_spec(transformer_controlnet_config.mmdit_from_config),
    to_config=transformer_controlnet_config.mmdit_to_config,
    targets=_no_targets,
)
FLUX_CONTROLNET = Kind(
    name="ControlNet for FLUX",
    role="control",
    network=FluxControlNet,
    dialects=(transformer_controlnet_names.FLUX,),
    classes=("FluxControlNetModel",),
    from_config=_spec(transformer_controlnet_config.flux_from_config),
    to_config=transformer_controlnet_config.flux_to_config,
    targets=_no_targets,
)
T2I_ADAPTER = Kind(
    name="T2I-Adapter",
    role="control",
    network=T2IAdapter,
    dialects=t2i_adapter_names.DIALECTS,
    classes=("T2IAdapter",),
    from_config=_spec(t2i_adapter_config.from_config),
    to_config=t2i_adapter_config.to_config,
    targets=_no_targets,
)
IP_ADAPTER = Kind(
    name="IP-Adapter",
    role="control",
    network=IPAdapter,
    dialects=ip_adapter_names.DIALECTS,
    classes=(),
    from_config=_spec(_no_adapter_config),
    to_config=_no_adapter_config,
    targets=_no_targets,
)
CLIP_IMAGE = Kind(
    name="CLIP image tower",
    role="image",
    network=CLIPImage,
    dialects=clip_names.IMAGE_DIALECTS,
    classes=("CLIPVisionModelWithProjection", "CLIPModel"),
    from_config=_spec(clip_config.image_from_config),
    to_config=clip_config.image_to_config,
    targets=_no_targets,
)
BERT = Kind(
    name="latent diffusion's BERT",
    role="bert",
    network=Bert,
    dialects=bert_names.DIALECTS,
    classes=("LDMBertModel",),
    from_config=_spec(bert_config.from_config),
    to_config=bert_config.to_config,
    targets=_no_targets,
)
CLASSES = Kind(
    name="class embedder",
    role="class",
    network=ClassEmbedder,
    dialects=class_embedder.DIALECTS,
    classes=(),
    from_config=_spec(_no_config),
    to_config=_no_config,
    targets=_no_targets,
)
UPSCALER = Kind(
    name="ESRGAN",
    role="upscaler",
    network=RRDB,
    dialects=rrdb_names.DIALECTS,
    classes=(),
    from_config=_spec(_no_upscaler_config),
    to_config=_no_upscaler_config,
    targets=_no_targets,
)
TEXTS = ("clip", "t5", "bert", "class")
"""The roles of what tells a denoiser about a prompt."""
# A first stage with a codebook bears the marks of one without, so it comes first, and so does a transformer's
# ControlNet; a class embedder's are common.
KINDS = (
    FLUX_CONTROLNET,
    MMDIT_CONTROLNET,
    FLUX,
    MMDIT,
    DIT,
    UNET,
    VQ_STAGE,
    KL_STAGE,
    CLIP,
    T5_ENCODER,
    CONTROLNET,
    T2I_ADAPTER,
    IP_ADAPTER,
    UPSCALER,
    CLIP_IMAGE,
    BERT,
    CLASSES,
)


def find_dialect(view: Weights, roles: tuple[str, ...] = ()) -> tuple[Kind, Dialect[Any, Any]] | None:
    """The kind and layout whose marks a view bears; of a file with both of CLIP's towers, that of `roles`."""
    pairs = [(kind, dialect) for kind in KINDS for dialect in kind.dialects]
    found = [pair for pair in pairs if all(mark in view for mark in pair[1].marks)]
    return next((pair for pair in found if pair[0].role in roles), found[0] if found else None)


def class_names(options: Options) -> Iterator[str]:
    """The names of classes that a `config.json` gives."""
    architectures = options.get("architectures")
    names = (options.get("_class_name"), *(architectures if isinstance(architectures, list) else ()))
    return (name for name in names if isinstance(name, str))


def kind_of_config(options: Options, roles: tuple[str, ...] = ()) -> Kind | None:
    """The kind that a `config.json` speaks of; of a class that has several, that of `roles`."""
    found = [kind for name in class_names(options) for kind in KINDS if name in kind.classes]
    return next((kind for kind in found if kind.role in roles), found[0] if found else None)
