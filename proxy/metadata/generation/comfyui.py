"""ComfyUI: the graph that was executed (``prompt``) and the graph of its editor (``workflow``)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from proxy.metadata.container.result import TextEntry
from proxy.metadata.generation.comfyui_graph import MAX_NODES, Graph, Node, from_workflow
from proxy.metadata.generation.finding import (
    EvidenceClass,
    ParserResult,
    Source,
    Sources,
    as_float,
    as_int,
    as_text,
    load_object,
    loras_of,
    plain,
)

_LORA_KEY = re.compile(r"lora(?:_name)?(?:_(\d+))?")
_LABEL = re.compile(r"\s*(prompt|workflow)\s*:\s*(?=[{\[])", re.IGNORECASE)
_MODEL_KEYS = ("ckpt_name", "unet_name", "model_name", "base_ckpt_name", "checkpoint", "model")
_MAX_SAMPLERS = 6
_SCALARS = ("seed", "noise_seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")


def parse(sources: Sources) -> ParserResult | None:
    """Read both graphs, wherever a node that saves images has put them."""
    graphs: dict[str, tuple[TextEntry, dict[str, Any]]] = {}
    extra: dict[str, Any] = {}
    for entry, name, block in _blocks(sources):
        if name == "extra":
            extra = extra or block
        else:
            graphs.setdefault(name, (entry, block))
    if not graphs:
        return None
    cited, _ = graphs.get("prompt") or graphs["workflow"]
    prompt, workflow = (
        graphs[name][1] if name in graphs else {} for name in ("prompt", "workflow")
    )
    found = ParserResult(Source.COMFYUI, generator="ComfyUI")
    found.cite(cited, EvidenceClass.GENERATOR_BLOCK, "graph of ComfyUI nodes")
    found.set("fullParametersText", cited.text)
    nodes = from_workflow(workflow)
    graph = Graph.of(prompt or nodes)
    total = len(prompt) if prompt else len(_nodes(workflow))
    if total > MAX_NODES:
        found.warnings.append(f"The graph has more than {MAX_NODES:,} nodes; the rest is not read")
    found.raw["comfyNodeCount"] = total
    found.raw["comfyWorkflowId"] = as_text(workflow.get("id"))
    found.raw["workflow"] = plain(workflow or prompt)
    found.set("version", _version(workflow))
    _read(found, graph)
    _civitai(found, extra)
    return found


def _blocks(sources: Sources) -> Iterator[tuple[TextEntry, str, dict[str, Any]]]:
    """Yield what looks like a graph: ``prompt``, ``workflow``, or parameters in ``extra``."""
    for entry in sources.named("prompt", "workflow", "comfyui_prompt", "comfyui_workflow"):
        yield from _classified(entry, entry.text)
    for entry in sources.xmp("comfy:prompt", "comfy:workflow"):
        yield from _classified(entry, entry.text)
    for entry in (*sources.exif(), *sources.comments(), *sources.named("generation_data")):
        label = _LABEL.match(entry.text)
        yield from _classified(entry, entry.text[label.end() :] if label else entry.text)


def _classified(entry: TextEntry, text: str) -> Iterator[tuple[TextEntry, str, dict[str, Any]]]:
    block = load_object(text)
    if block is None:
        return
    # One object with both graphs, and sometimes with the parameters of Civitai.
    for name in ("prompt", "workflow"):
        inner = load_object(block.get(name))
        if inner is not None and (kind := _kind(inner)):
            yield entry, kind, inner
    if kind := _kind(block):
        yield entry, kind, block
    if (extra := load_object(block.get("extraMetadata"))) and (kind or "workflow" in block):
        yield entry, "extra", extra


def _kind(block: dict[str, Any]) -> str | None:
    if any(isinstance(node, dict) and "class_type" in node for node in block.values()):
        return "prompt"
    if any(isinstance(node.get("type"), str) and "id" in node for node in _nodes(block)):
        return "workflow"
    return None


def _nodes(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    nodes = workflow.get("nodes")
    return [one for one in nodes if isinstance(one, dict)] if isinstance(nodes, list) else []


def _version(workflow: dict[str, Any]) -> str | None:
    for key in ("meta", "extra"):
        inner = workflow.get(key)
        if isinstance(inner, dict) and (version := as_text(inner.get("comfyui_version"))):
            return version
    return None


def _read(found: ParserResult, graph: Graph) -> None:
    samplers = graph.samplers()
    for sampler in samplers[:_MAX_SAMPLERS]:
        found.set("seed", as_text(graph.setting(sampler, "seed", "noise_seed", "rng_seed")))
        found.set("steps", as_int(graph.setting(sampler, "steps", "num_steps")))
        found.set("cfgScale", as_float(graph.setting(sampler, "cfg", "cfg_scale", "guidance")))
        found.set("sampler", as_text(graph.setting(sampler, "sampler_name", "sampler")))
        found.set("scheduler", as_text(graph.setting(sampler, "scheduler", "scheduler_name")))
        found.set("prompt", graph.prompt(sampler, "positive"))
        found.set("negativePrompt", graph.prompt(sampler, "negative"))
        _models(found, graph, sampler)
    if not samplers:
        # Graphs of services whose sampler has another form: texts are all that can be read.
        found.set("prompt", graph.only_text())
    _models(found, graph, None)
    for lora, weight in loras_of(found.fields.get("prompt")):
        found.add_lora(lora, weight)
    if samplers:
        denoise = as_float(graph.setting(samplers[0], "denoise"))
        if denoise is not None:
            found.raw["denoise"] = denoise
    if len(samplers) > 1:
        found.raw["samplers"] = [_summary(graph, one) for one in samplers[:_MAX_SAMPLERS]]


def _summary(graph: Graph, sampler: Node) -> dict[str, Any]:
    settings = {name: graph.setting(sampler, name) for name in _SCALARS}
    known = {name: as_text(value) for name, value in settings.items() if value is not None}
    return {"class_type": sampler.kind, **known}


def _models(found: ParserResult, graph: Graph, sampler: Node | None) -> None:
    """Set model, VAE, CLIP skip and LoRAs of one sampler, or of the whole graph."""
    nodes = graph.nodes_behind(sampler) if sampler else list(graph.nodes.values())
    # The node that is the nearest to the sampler is applied last.
    for node in reversed(nodes) if sampler else nodes:
        for name, weight in _loras(node):
            found.add_lora(name, weight)
    for node in nodes:
        kind = node.kind.lower()
        if "lora" not in kind and ("load" in kind or "checkpoint" in kind or "unet" in kind):
            for key in _MODEL_KEYS:
                if "upscale" not in kind and "control" not in kind and "clip" not in kind:
                    found.set_model(node.inputs.get(key))
            if digest := as_text(node.inputs.get("model_hash")):
                found.raw.setdefault("modelHash", digest)
        if "vae" in kind or "loader" in kind:
            vae = as_text(node.inputs.get("vae_name"))
            found.set("vae", None if vae in ("Baked VAE", "None") else vae)
        layer = as_int(node.inputs.get("stop_at_clip_layer", node.inputs.get("clip_skip")))
        if layer:
            found.set("clipSkip", abs(layer))


def _loras(node: Node) -> Iterator[tuple[str, Any]]:
    """Yield LoRAs of a node: of a loader, a stack with numbers, or a list of objects."""
    if not re.search(r"lora|loader", node.kind, re.IGNORECASE):
        return
    for key, value in node.inputs.items():
        match = _LORA_KEY.fullmatch(key)
        if match and isinstance(value, str) and value != "None":
            switch = str(node.inputs.get(f"switch_{match[1]}", "On"))
            if switch.lower() != "off":
                yield value, _weight(node, match[1])
        elif isinstance(value, dict) and isinstance(value.get("lora"), str):
            if value.get("on") is not False:
                yield value["lora"], value.get("strength")
        elif key == "loras":
            yield from _listed(value)
        elif key in ("text", "lora_syntax") and isinstance(value, str):
            yield from loras_of(value)


def _listed(value: Any) -> Iterator[tuple[str, Any]]:
    listed = value.get("__value__") if isinstance(value, dict) else value
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict) and one.get("active") is not False:
            yield as_text(one.get("name")) or "", one.get("strength")


def _weight(node: Node, number: str | None) -> Any:
    names = ["strength_model", "lora_model_strength", "strength", "weight", "model_str"]
    if number is not None:
        numbered = ("lora_wt", "model_weight", "model_str", "strength")
        names = [f"{name}_{number}" for name in numbered]
    return next((node.inputs[name] for name in names if name in node.inputs), None)


def _civitai(found: ParserResult, extra: dict[str, Any]) -> None:
    """Fill fields from the parameters that Civitai's own generator writes beside the graph."""
    found.set("prompt", as_text(extra.get("prompt")))
    found.set("negativePrompt", as_text(extra.get("negativePrompt")))
    found.set("seed", as_text(extra.get("seed")))
    found.set("steps", as_int(extra.get("steps")))
    found.set("cfgScale", as_float(extra.get("cfgScale")))
    found.set("sampler", as_text(extra.get("sampler")))
    if extra:
        found.raw["extraMetadata"] = plain(extra)
