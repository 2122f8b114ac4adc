"""InvokeAI: JSON of versions 3 to 5, JSON of version 2, and the command line of version 1."""

from __future__ import annotations

import re
import shlex
from typing import Any

from proxy.metadata.container.result import TextEntry
from proxy.metadata.generation.finding import (
    EvidenceClass,
    ParserResult,
    Source,
    Sources,
    as_float,
    as_int,
    as_text,
    load_object,
    rest_of,
)

_USED = (
    *("positive_prompt", "negative_prompt", "seed", "steps", "cfg_scale", "scheduler", "model"),
    *("vae", "loras", "clip_skip", "app_version"),
)
_BRACKETS = re.compile(r"\[([^\[\]]{1,20000})\]")
_MAX_COMMAND = 32_000
"""shlex takes a microsecond for each character."""
_FLAGS = {
    "-s": "steps",
    "--steps": "steps",
    "-S": "seed",
    "--seed": "seed",
    "-C": "cfg",
    "--cfg_scale": "cfg",
    "-A": "sampler",
    "-m": "sampler",
    "--sampler": "sampler",
}


def parse(sources: Sources) -> ParserResult | None:
    """Read the newest of the three forms."""
    for entry in sources.named("invokeai_metadata", "invokeai"):
        if block := load_object(entry.text):
            return _metadata(entry, block, sources)
    for entry in sources.named("sd-metadata"):
        if block := load_object(entry.text):
            return _sd_metadata(entry, block)
    for entry in sources.named("dream"):
        if found := _dream(entry):
            return found
    return None


def _start(entry: TextEntry, version: Any, says: str) -> ParserResult:
    found = ParserResult(Source.INVOKEAI, generator="InvokeAI")
    found.cite(entry, EvidenceClass.GENERATOR_BLOCK, says)
    found.set("version", as_text(version))
    found.set("fullParametersText", entry.text)
    return found


def _metadata(entry: TextEntry, block: dict[str, Any], sources: Sources) -> ParserResult:
    found = _start(entry, block.get("app_version"), "JSON block of InvokeAI")
    found.raw = rest_of(block, _USED)
    found.set("prompt", as_text(block.get("positive_prompt")))
    found.set("prompt", as_text(block.get("prompt")))
    found.set("negativePrompt", as_text(block.get("negative_prompt")))
    found.set("seed", as_text(block.get("seed")))
    found.set("steps", as_int(block.get("steps")))
    found.set("steps", as_int(block.get("num_steps")))
    found.set("cfgScale", as_float(block.get("cfg_scale")))
    # Flux has no CFG; its guidance has the same role.
    found.set("cfgScale", as_float(block.get("guidance")))
    # InvokeAI calls the sampler scheduler.
    found.set("sampler", as_text(block.get("scheduler")))
    found.set("scheduler", as_text(block.get("scheduler")))
    clip_skip = as_int(block.get("clip_skip"))
    found.set("clipSkip", clip_skip or None)
    model = block.get("model")
    found.set_model(_model(model))
    if isinstance(model, dict) and (
        digest := as_text(model.get("hash") or model.get("model_hash"))
    ):
        found.raw["modelHash"] = digest
    found.set("vae", _model(block.get("vae")))
    loras = block.get("loras")
    for lora in loras if isinstance(loras, list) else []:
        if isinstance(lora, dict):
            inner = lora.get("lora") or lora.get("model") or lora
            digest = inner.get("hash") if isinstance(inner, dict) else None
            found.add_lora(_model(inner), lora.get("weight"), digest)
    for graph in sources.named("invokeai_workflow"):
        if workflow := load_object(graph.text):
            found.raw["workflow"] = rest_of(workflow, ())
    return found


def _model(value: Any) -> str | None:
    """Return the name of a model, which is an object in most versions."""
    if isinstance(value, dict):
        return as_text(value.get("model_name") or value.get("name") or value.get("key"))
    return as_text(value)


def _sd_metadata(entry: TextEntry, block: dict[str, Any]) -> ParserResult:
    found = _start(entry, block.get("app_version"), "JSON block of InvokeAI 2")
    inner = block.get("image")
    image = inner if isinstance(inner, dict) else {}
    prompts = image.get("prompt")
    texts = [
        as_text(one.get("prompt")) if isinstance(one, dict) else as_text(one)
        for one in (prompts if isinstance(prompts, list) else [prompts])
    ]
    _split(found, ", ".join(text for text in texts if text))
    found.set("seed", as_text(image.get("seed")))
    found.set("steps", as_int(image.get("steps")))
    found.set("cfgScale", as_float(image.get("cfg_scale")))
    found.set("sampler", as_text(image.get("sampler")))
    found.set_model(block.get("model_weights"))
    found.raw = rest_of(image, ("prompt", "seed", "steps", "cfg_scale", "sampler"))
    if digest := as_text(block.get("model_hash")):
        found.raw["modelHash"] = digest
    return found


def _split(found: ParserResult, prompt: str) -> None:
    """Set the prompt without the parts in brackets, which are the negative prompt."""
    negative = ", ".join(part.strip() for part in _BRACKETS.findall(prompt))
    found.set("prompt", _BRACKETS.sub("", prompt).strip())
    found.set("negativePrompt", negative)


def _dream(entry: TextEntry) -> ParserResult | None:
    """Read a command line: the prompt in quotes, then flags."""
    command = entry.text[:_MAX_COMMAND]
    try:
        words = shlex.split(command)
    except ValueError:  # a quote is not closed
        words = command.split()
    flags = [index for index, word in enumerate(words) if word in _FLAGS]
    if not flags:
        return None
    found = _start(entry, None, "command line of InvokeAI")
    end = next((i for i, word in enumerate(words) if re.fullmatch(r"-{1,2}[A-Za-z]\w*", word)), 0)
    _split(found, " ".join(words[:end]))
    values = {_FLAGS[words[i]]: words[i + 1] for i in flags if i + 1 < len(words)}
    found.set("steps", as_int(values.get("steps")))
    found.set("seed", as_text(values.get("seed")))
    found.set("cfgScale", as_float(values.get("cfg")))
    found.set("sampler", as_text(values.get("sampler")))
    found.raw["dream"] = " ".join(words[end:])
    return found
