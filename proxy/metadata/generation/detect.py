"""Runs the parsers in the order of the table, and joins their findings into ``ai_generation``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from proxy.metadata.container.result import TextEntry, Walk
from proxy.metadata.generation import (
    comfyui,
    credentials,
    declared,
    file_name,
    fooocus,
    invokeai,
    midjourney,
    ml_lib,
    novelai,
    stable_diffusion,
)
from proxy.metadata.generation.finding import (
    CONFIDENCE,
    Involvement,
    ParserResult,
    Source,
    Sources,
    load_object,
)

FIELDS = (
    *("prompt", "negativePrompt", "steps", "cfgScale", "sampler", "scheduler", "seed"),
    *("checkpoint", "model", "vae", "clipSkip", "mjVersion", "mjAspectRatio", "mjChaos"),
    *("mjQuality", "mjStylize", "mjStyle", "mjRaw", "mjWeirdness", "mjExperimental", "mjJobId"),
    *("mjStyleWeight", "mjImageWeight", "mjCharacterReference", "mjCharacterWeight"),
    *("mjOmniReference", "mjOmniWeight", "mjAuthor", "version", "fullParametersText"),
    "digital_source_type",
)
"""Fields that a parser may set, besides lists and those that `detect` computes."""

MAX_RAW_BYTES = 1 << 20
"""Of rawParameters as JSON; the graph of an editor may be larger than all other metadata."""

_TABLE = (
    ml_lib.parse,
    comfyui.parse,
    novelai.parse,
    invokeai.parse,
    fooocus.parse,
    stable_diffusion.parse,
    midjourney.parse,
    credentials.parse,
    declared.parse,
    file_name.parse,
)
"""The first parser that finds a source sets it; the others fill fields and add evidence."""


def detect(
    walk: Walk,
    *,
    content_credentials: Mapping[str, Any] | None = None,
    hidden_text: str | None = None,
    file_name: str = "",
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the object ``ai_generation``, with all its fields, and warnings.

    Args:
        walk: what the file contains.
        content_credentials: the object ``c2pa``; None if it was not read or there is none.
        hidden_text: the text in the pixels (`proxy.metadata.generation.stealth`).
        file_name: the name that the client gave, for evidence only.
    """
    texts = (*walk.texts, *_hidden(hidden_text))
    sources = Sources(walk, texts, content_credentials, file_name)
    findings = [found for parse in _TABLE if (found := parse(sources)) is not None]
    warnings = dict.fromkeys(text for found in findings for text in found.warnings)
    joined = _joined(findings)
    for name in _too_large(joined["rawParameters"]):
        joined["rawParameters"][name] = None
        warnings[f"rawParameters.{name} is larger than 1 MiB and is left out"] = None
    return joined, tuple(warnings)


def _too_large(raw: Mapping[str, Any]) -> list[str]:
    """Return the parameters that do not fit into the limit, the largest first."""
    sizes = {name: len(json.dumps(value)) for name, value in raw.items()}
    left_out: list[str] = []
    while sum(sizes.values()) > MAX_RAW_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        del sizes[largest]
        left_out.append(largest)
    return left_out


def _hidden(text: str | None) -> tuple[TextEntry, ...]:
    """Return hidden text as texts: NovelAI hides the chunks of a PNG as one object."""
    if not text:
        return ()
    where = "pixels"
    block = load_object(text) or {}
    if "Comment" in block or "Software" in block:
        return tuple(
            TextEntry(str(key), where, value)
            for key, value in block.items()
            if isinstance(value, str)
        )
    return (TextEntry("parameters", where, text),)


def _joined(findings: list[ParserResult]) -> dict[str, Any]:
    first = next((one for one in findings if one.source is not Source.UNKNOWN), None)
    source = first.source if first else Source.UNKNOWN
    fields: dict[str, Any] = {}
    raw: dict[str, Any] = {}
    loras: list[dict[str, Any]] = []
    references: list[str] = []
    # Fields of the source come first, also if a parser before it found a composite.
    ordered = sorted(findings, key=lambda one: one is not first)
    for one in ordered:
        fields = {**one.fields, **fields}
        raw = {**one.raw, **raw}
        loras = loras or one.loras
        references = references or list(one.fields.get("mjStyleReferences", ()))
    evidence = [fact for one in findings for fact in one.evidence]
    raw.setdefault("comfyNodeCount", None)
    raw.setdefault("comfyWorkflowId", None)
    raw.setdefault("workflow", None)
    return {
        "source": source.value,
        "generator": next((one.generator for one in ordered if one.generator), None),
        "involvement": _involvement(source, findings).value,
        **{name: fields.get(name) for name in FIELDS},
        "loras": loras,
        "mjStyleReferences": references,
        "rawParameters": raw,
        "confidence": max((CONFIDENCE[fact.kind] for fact in evidence), default=None),
        "evidence": [fact.to_dict() for fact in evidence],
    }


def _involvement(source: Source, findings: list[ParserResult]) -> Involvement:
    if source is not Source.UNKNOWN:
        return Involvement.GENERATED
    if any(one.involvement is Involvement.COMPOSITE for one in findings):
        return Involvement.COMPOSITE
    return Involvement.NONE_FOUND


def is_generated(generation: Mapping[str, Any]) -> bool:
    """Return whether a source was found; False does not mean that the image is not generated."""
    return bool(generation.get("source", Source.UNKNOWN.value) != Source.UNKNOWN.value)
