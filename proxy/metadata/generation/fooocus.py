"""Fooocus and RuinedFooocus: JSON in ``parameters`` or EXIF UserComment."""

from __future__ import annotations

import re
from collections.abc import Mapping
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

_MODELS = ("base_model", "base_model_name")
_USED = frozenset(
    {
        *("prompt", "negative_prompt", "negative", "seed", "steps", "guidance_scale", "cfg"),
        *("sampler", "sampler_name", "scheduler", "vae", "clip_skip", "version", "loras"),
        *("base_model", "base_model_name"),
    }
)


def parse(sources: Sources) -> ParserResult | None:
    """Read the block; keys such as ``Base Model`` are those of the log."""
    for entry in sources.comments():
        if not (block := load_object(entry.text)):
            continue
        known = {re.sub(r"\s+", "_", key.strip().lower()): value for key, value in block.items()}
        model = next((known[key] for key in _MODELS if key in known), None)
        if model is None or not ({"guidance_scale", "sampler", "sampler_name", "cfg"} & set(known)):
            continue
        return _finding(entry, known, model)
    return None


def _finding(entry: TextEntry, known: Mapping[str, Any], model: Any) -> ParserResult:
    software = as_text(known.get("software")) or "Fooocus"
    found = ParserResult(Source.FOOOCUS, generator=software, raw=rest_of(known, _USED))
    found.cite(entry, EvidenceClass.GENERATOR_BLOCK, f"JSON block of {software}")
    found.set("prompt", as_text(known.get("prompt")))
    found.set("negativePrompt", as_text(known.get("negative_prompt")))
    found.set("negativePrompt", as_text(known.get("negative")))
    found.set("seed", as_text(known.get("seed")))
    found.set("steps", as_int(known.get("steps")))
    found.set("cfgScale", as_float(known.get("guidance_scale")))
    found.set("cfgScale", as_float(known.get("cfg")))
    found.set("sampler", as_text(known.get("sampler") or known.get("sampler_name")))
    found.set("scheduler", as_text(known.get("scheduler")))
    found.set("clipSkip", as_int(known.get("clip_skip")))
    found.set("version", as_text(known.get("version")))
    vae = as_text(known.get("vae"))
    found.set("vae", None if vae == "Default (model)" else vae)
    found.set("fullParametersText", entry.text)
    found.set_model(model)
    _add_loras(found, known)
    return found


def _add_loras(found: ParserResult, known: Mapping[str, Any]) -> None:
    loras = known.get("loras")
    for lora in loras if isinstance(loras, list) else []:
        if isinstance(lora, list) and lora:
            # Name, weight, hash; RuinedFooocus writes the hash or the weight first.
            weight = lora[1] if len(lora) > 1 else None
            digest = lora[2] if len(lora) > 2 else None  # noqa: PLR2004
            found.add_lora(lora[0], weight, digest)
        elif isinstance(lora, dict):
            found.add_lora(lora.get("name"), lora.get("weight"), lora.get("hash"))
    for key, value in known.items():
        # Of the log: "LoRA 1": "name : weight".
        if re.fullmatch(r"(?:combined_)?lora_\d+", key) and isinstance(value, str):
            name, _, weight = value.rpartition(" : ")
            found.add_lora(name, weight)
