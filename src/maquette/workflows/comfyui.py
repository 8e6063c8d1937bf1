"""What the graph in a picture of ComfyUI's says, as far as it is a way from words to a picture.

The way is walked backwards: from what is saved to the sampler, from there to the model, the words and the empty latent.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from maquette.errors import MaquetteError
from maquette.workflows.foreign import BEGAN_WITH_PICTURE, NOT_HERE, Settings, number, second_pass
from maquette.workflows.node_graph import NEXT, Graph, Node
from maquette.workflows.peer_names import (
    COMFYUI_SAMPLER_NODES,
    COMFYUI_SAMPLERS,
    COMFYUI_SCHEDULE_NODES,
    COMFYUI_SCHEDULES,
)
from maquette.workflows.peer_words import STRONGER, read_embeddings, read_plain
from maquette.workflows.settings import MAX_SEED

CUSTOM = ("SamplerCustom", "SamplerCustomAdvanced")
LATENT = ("latent_image", "latent", "samples", "pixels", "image", "images", "upscale_model")
CONDITIONING = ("conditioning", "conditioning_1", "conditioning_2", "conditioning_to", "conditioning_from")
TEXTS = ("text", "t5xxl", "text_g", "clip_g", "text_l", "clip_l", "prompt")
MODEL = ("model",)
SIZES = (("width", "height"), ("empty_latent_width", "empty_latent_height"))  # of the node itself, or of loaders
PUSHES = {"PerturbedAttentionGuidance": ("pag", ("scale",)), "FreeU_V2": ("freeu", ("b1", "b2", "s1", "s2"))}
MEANINGS: Mapping[str, Mapping[str, Any]] = {
    "CFGZeroStar": {"cfg_zero": True},
    "DifferentialDiffusion": {"mask_grey": "strength"},
}
NETWORK = re.compile(r"(?<![0-9a-z])([2-8])x|x([2-8])(?![0-9])", re.IGNORECASE)  # in the names of networks that enlarge
OTHER_SHAPE = 1.02  # times as wide or as high
LOADED = ("ckpt_name", "unet_name", "model_path", "model_name")


def read_graph(text: str) -> Settings:
    """What a graph says.

    Raises:
        MaquetteError: it is damaged, or has no node that samples.
    """
    graph = Graph(text)
    settings = Settings(program="ComfyUI", noise="comfyui")
    saving = [node for node in graph.nodes.values() if "Save" in node.kind or node.kind == "PreviewImage"]
    passes = _passes(graph, settings, saving)
    first = passes[0]
    guide = graph.linked(first, "guider") or first
    _read_sampling(graph, settings, first, guide)
    _read_words(graph, settings, guide)
    _read_model(graph, settings, guide)
    _read_latent(graph, settings, first)
    if len(passes) == 2:
        _read_second_pass(graph, settings, *passes)
    for late in passes[2:]:
        settings.leave(late.kind, len(passes), "more than two passes cannot be told in a request")
    _leave_what_follows(graph, settings, saving, passes[-1])
    for node in graph.nodes.values():
        if node.kind == "VAELoader":
            settings.leave("VAE", graph.value(node, "vae_name"), "open the model with it: --vae FILE")
    return settings


def _samples(node: Node) -> bool:
    return node.kind in CUSTOM or {"positive", "negative", "steps", "cfg"} <= node.inputs.keys()


def _passes(graph: Graph, settings: Settings, saving: Sequence[Node]) -> list[Node]:
    """The samplers that the picture went through, the first one first."""
    before = {node: graph.find(node, LATENT, _samples)[0] for node in graph.nodes.values() if _samples(node)}
    if not before:
        raise MaquetteError(f"the graph in the picture has no node that samples; {NEXT}")
    last = list(dict.fromkeys(found for node in saving if (found := graph.find(node, LATENT, _samples)[0])))
    last = [node for node in last or before if node not in before.values()] or list(before)
    if len(last) > 1:
        settings.leave("pictures", len(last), "the graph makes several; the first one's settings are taken")
    passes, at = [last[0]], before[last[0]]
    while at is not None and at not in passes:
        passes.insert(0, at)
        at = before[at]
    return passes


def _read_sampling(graph: Graph, settings: Settings, node: Node, guide: Node) -> None:
    """Seed, steps, guidance, sampler and schedule."""
    noise, sigmas = graph.linked(node, "noise") or node, graph.linked(node, "sigmas") or node
    told = {
        "seed": graph.value(noise, "seed", "noise_seed"),
        "steps": graph.value(sigmas, "steps"),
        "guidance": graph.value(guide, "cfg") if guide.kind != "BasicGuider" else 1.0,
    }
    for name, value in told.items():
        if (known := number(value)) is None or (name == "seed" and not 0 <= known <= MAX_SEED):
            settings.leave(name, value, f"it is no number that can be taken; seeds are at most {MAX_SEED}")
        else:
            settings.fields[name] = float(known) if name == "guidance" else known
    settings.cfg_alone = "guidance" in settings.fields
    _read_names(graph, settings, node, sigmas)
    denoise = number(graph.value(sigmas, "denoise"))
    if denoise is not None and denoise < 1:
        settings.leave("denoise", denoise, BEGAN_WITH_PICTURE)
    start, end = (number(graph.value(node, name)) for name in ("start_at_step", "end_at_step"))
    if start or (end is not None and end < settings.fields.get("steps", 0)):
        settings.leave(node.kind, f"steps {start} to {end}", "a part of the steps cannot be told in a request")


def _read_names(graph: Graph, settings: Settings, node: Node, sigmas: Node) -> None:
    chosen = graph.linked(node, "sampler") or node
    name = COMFYUI_SAMPLER_NODES.get(chosen.kind) or graph.value(chosen, "sampler_name")
    settings.translate("sampler", "sampler_name", str(name or chosen.kind), COMFYUI_SAMPLERS)
    if sigmas.kind in COMFYUI_SCHEDULE_NODES:
        settings.translate("schedule", "scheduler", sigmas.kind, COMFYUI_SCHEDULE_NODES)
    else:
        name = graph.value(sigmas, "scheduler")
        settings.translate("schedule", "scheduler", str(name or sigmas.kind), COMFYUI_SCHEDULES)


def _read_words(graph: Graph, settings: Settings, guide: Node) -> None:
    """The words of both sides, what guidance-distilled models are told, and the text encoder's skipped layers."""
    for side, name in (("positive", "prompt"), ("negative", "negative")):
        settings.fields[name] = ""
        if side == "negative" and side not in guide.inputs:
            continue
        reached = list(graph.upstream(guide, (side, *CONDITIONING)))
        encoders = [node for node in reached if "clip" in node.inputs or isinstance(node.inputs.get(side), str)]
        between = [node for node in reached if node not in encoders]
        zeros = side == "negative" and any(node.kind == "ConditioningZeroOut" for node in between)
        texts = [] if zeros else [_text(graph, settings, node, side) for node in encoders]
        settings.fields[name] = texts[0] if texts else ""
        if side == "negative" and not settings.fields[name]:
            settings.zeros = zeros
        for text in texts[1:]:
            settings.leave(name, text, "words that are put together by nodes are not; only the first are taken")
        for node in between:
            if "guidance" not in node.inputs and node.kind != "ConditioningZeroOut":
                settings.leave(node.kind, graph.value(node, "strength", "control_net_name") or "", NOT_HERE)
        if side == "positive":
            _read_encoder(graph, settings, reached)


def _read_encoder(graph: Graph, settings: Settings, reached: list[Node]) -> None:
    for node in reached:
        if (strength := number(graph.value(node, "guidance"))) is not None:
            if (true := settings.fields.get("guidance", 1.0)) > 1.0:
                settings.fields["true_guidance"] = true
            settings.fields["guidance"], settings.cfg_alone = float(strength), False
        last = graph.find(node, ("clip",), lambda at: "stop_at_clip_layer" in at.inputs)[0]
        if (layer := number(graph.value(last, "stop_at_clip_layer"))) is not None:
            settings.fields["clip_skip"] = settings.layer = -int(layer)


def _text(graph: Graph, settings: Settings, node: Node, side: str) -> str:
    """The words of a node that encodes them; of several texts for several encoders, the first."""
    texts = [graph.value(node, name) for name in (side, *TEXTS)]
    told = [text for text in texts if isinstance(text, str)]
    if not told:
        settings.leave(node.kind, "", "its words are computed by other nodes")
        return ""
    for other in dict.fromkeys(told[1:]):
        if other != told[0]:
            settings.leave(node.kind, other, "all text encoders are given the same words here")
    if STRONGER.search(told[0]):
        settings.leave("(", told[0], "weights count from the empty prompt there; here the mean of the words is kept")
    return read_embeddings(settings, read_plain(settings, told[0], negative=side == "negative"))


def _read_model(graph: Graph, settings: Settings, guide: Node) -> None:
    """The model's file, and what is done to it on the way."""
    loader, way = graph.find(guide, MODEL, lambda node: any(name in node.inputs for name in LOADED))
    name = graph.value(loader, *LOADED)
    if isinstance(name, str):
        settings.fields["model"] = name
    else:
        settings.leave("model", name, "it is loaded by a node that is not known")
    for node in way:
        rescale = number(graph.value(node, "multiplier"))
        if "lora_name" in node.inputs:
            text = graph.value(node, "strength_clip") if "clip" in node.inputs else 0.0
            settings.add_lora(graph.value(node, "lora_name"), graph.value(node, "strength_model"), text)
        elif node.kind == "RescaleCFG" and rescale is not None:
            settings.fields["rescale"] = float(rescale)
            settings.leave(
                node.kind, rescale, "there v is measured; here what the model predicts, which may be epsilon"
            )
        elif node.kind in MEANINGS:
            settings.fields.update(MEANINGS[node.kind])
        elif (push := _push(graph, node)) is not None:
            settings.fields[push[0]] = push[1]
        else:
            values = {name: value for name, value in node.inputs.items() if not isinstance(value, list | dict)}
            settings.leave(node.kind, values, "it changes the model in a way that is not here")


def _push(graph: Graph, node: Node) -> tuple[str, dict[str, float]] | None:
    """The field of a request that a node is, with its numbers."""
    field, names = PUSHES.get(node.kind, ("", ()))
    numbers = {name: float(value) for name in names if (value := number(graph.value(node, name))) is not None}
    return (field, numbers) if names and len(numbers) == len(names) else None


def _read_latent(graph: Graph, settings: Settings, node: Node) -> None:
    """The size, and whether it began with a picture."""
    source, way = graph.find(node, LATENT, lambda at: "Empty" in at.kind or SIZES[1][0] in at.inputs)
    if source is None:
        settings.leave("latent_image", way[0].kind if way else "", BEGAN_WITH_PICTURE)
        return
    for names in zip(*SIZES, strict=True):
        if (side := number(graph.value(source, *names))) is not None:
            settings.fields[names[0]] = side
    batch = number(graph.value(source, "batch_size"))
    if batch is not None and batch > 1:
        settings.leave(
            "batch_size", batch, "the file does not say which picture of the batch it is; the first is taken"
        )


def _read_second_pass(graph: Graph, settings: Settings, first: Node, second: Node) -> None:
    """An enlargement and a second pass; two passes of one size are another model's last steps, or more of the same."""
    _, way = graph.find(second, LATENT, lambda node: node is first)
    scale = _scale(graph, settings, way[::-1])
    sigmas = graph.linked(second, "sigmas") or second
    denoise, steps = number(graph.value(sigmas, "denoise")), number(graph.value(sigmas, "steps"))
    if scale is None or scale <= 1 or denoise is None or not 0.001 <= denoise <= 1 or not steps:
        settings.leave(
            second.kind, f"steps {steps}, denoise {denoise}", "a second pass is only known as an enlargement"
        )
        return
    by = "pixel" if any("pixels" in node.inputs for node in way) else "latent"
    settings.fields["hires"] = {"scale": scale, "by": by, **second_pass(int(steps), float(denoise))}
    for name in ("cfg", "sampler_name", "scheduler", "seed", "noise_seed"):
        here, there = graph.value(first, name), graph.value(second, name)
        if there is not None and there != here:
            settings.leave(f"{name} of the second pass", there, "it is that of the first here")


def _scale(graph: Graph, settings: Settings, way: Sequence[Node]) -> float | None:
    """By how much the nodes on a way, the first one first, enlarge together; None where that is not told."""
    scale: float | None = None
    unknown = False  # after a network that does not tell by how much it enlarges, until something tells the size
    for node in way:
        if "upscale_model" in node.inputs:
            name = graph.value(graph.linked(node, "upscale_model"), "model_name")
            told = NETWORK.search(str(name))
            settings.leave(node.kind, name, "its network is not in the file; give it with --upscaler")
            scale, unknown = (scale or 1.0) * float(told[1] or told[2]) if told else scale, unknown or told is None
        elif (by := number(graph.value(node, "scale_by"))) is not None:
            scale = (scale or 1.0) * float(by)
        elif "upscale_method" in node.inputs and (sides := _sides(graph, settings, node)):
            scale, unknown = sides, False
        else:
            continue
        method = graph.value(node, "upscale_method")
        if method not in (None, "bilinear"):
            settings.leave(node.kind, method, "another way to enlarge is taken")
    return None if unknown else scale


def _sides(graph: Graph, settings: Settings, node: Node) -> float | None:
    """By how much an enlargement to a told size enlarges; a side of 0 follows the other one."""
    told = {name: number(graph.value(node, name)) for name in SIZES[0]}
    scales = [side / settings.fields[name] for name, side in told.items() if side and name in settings.fields]
    if not scales:
        return None
    if max(scales) > OTHER_SHAPE * min(scales):
        sides = "x".join(map(str, told.values()))
        settings.leave(node.kind, sides, "a second pass keeps the shape of the first: the width is taken")
    return scales[0]


def _leave_what_follows(graph: Graph, settings: Settings, saving: Sequence[Node], last: Node) -> None:
    """Name what was done to the picture after the last pass, and is not done again."""
    ways = [graph.find(node, LATENT, lambda at: at is last) for node in saving]
    for node in dict.fromkeys(node for found, way in ways if found for node in way):
        if not node.kind.startswith("VAEDecode") and node not in saving:
            settings.leave(node.kind, "", "what was done to the picture after it was painted is not done again")
