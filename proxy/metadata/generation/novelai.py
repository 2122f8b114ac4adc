"""NovelAI: JSON in the text ``Comment``; also hidden in the pixels, or in EXIF."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    *("prompt", "uc", "seed", "steps", "scale", "sampler", "noise_schedule"),
    *("v4_prompt", "v4_negative_prompt", "signed_hash"),
)


def parse(sources: Sources) -> ParserResult | None:
    """Read the JSON of NovelAI, which the software tag or the JSON itself must name."""
    for entry, block, around in _blocks(sources):
        software = as_text(around.get("software")) or ""
        named = software.lower().startswith("novelai")
        if not named and not ("uc" in block and "sampler" in block and "scale" in block):
            continue
        # Draw Things writes uc, sampler and scale as well; its prompt is in "c".
        if not named and "c" in block:
            continue
        return _finding(entry, block, around)
    for entry in (*sources.named("software"), *sources.exif("Software")):
        if entry.text.lower().startswith("novelai"):
            found = ParserResult(Source.NOVELAI, generator="NovelAI")
            found.cite(entry, EvidenceClass.TOOL_STRING, entry.text)
            for description in sources.named("description"):
                found.set("prompt", as_text(description.text))
            return found
    return None


def _blocks(sources: Sources) -> Iterator[tuple[TextEntry, dict[str, Any], Mapping[str, Any]]]:
    """Yield blocks with the texts around them: Software, Source, Description."""
    around = {entry.keyword.lower(): entry.text for entry in sources.texts}
    exif = {entry.keyword.lower(): entry.text for entry in sources.exif()}
    for entry in sources.named("comment"):
        if block := load_object(entry.text):
            yield entry, block, around
    for entry in sources.exif("UserComment", "ImageDescription"):
        block = load_object(entry.text)
        if block and (inner := load_object(block.get("Comment"))):
            # One object with all text chunks of a PNG, as NovelAI also hides it in the pixels.
            yield entry, inner, {key.lower(): value for key, value in block.items()}
        elif block:
            yield entry, block, exif


def _finding(entry: TextEntry, block: dict[str, Any], around: Mapping[str, Any]) -> ParserResult:
    found = ParserResult(Source.NOVELAI, generator="NovelAI", raw=rest_of(block, _USED))
    found.cite(entry, EvidenceClass.GENERATOR_BLOCK, "JSON block of NovelAI")
    caption, characters = _caption(block.get("v4_prompt"))
    negative, negative_characters = _caption(block.get("v4_negative_prompt"))
    found.set("prompt", as_text(block.get("prompt")) or caption)
    found.set("prompt", as_text(around.get("description")))
    found.set("negativePrompt", as_text(block.get("uc")) or negative)
    found.set("seed", as_text(block.get("seed")))
    found.set("steps", as_int(block.get("steps")))
    found.set("cfgScale", as_float(block.get("scale")))
    found.set("sampler", as_text(block.get("sampler")))
    found.set("scheduler", as_text(block.get("noise_schedule")))
    found.set("fullParametersText", entry.text)
    found.set_model(around.get("source"))
    if characters:
        found.raw["characterPrompts"] = characters
    if negative_characters:
        found.raw["characterNegativePrompts"] = negative_characters
    return found


def _caption(value: Any) -> tuple[str | None, list[str]]:
    """Return the base caption and those of the characters of a version 4 prompt."""
    prompt = load_object(value) or {}
    caption = prompt.get("caption")
    if not isinstance(caption, dict):
        return None, []
    characters = caption.get("char_captions")
    texts = [
        text
        for one in (characters if isinstance(characters, list) else [])
        if isinstance(one, dict) and (text := as_text(one.get("char_caption")))
    ]
    return as_text(caption.get("base_caption")), texts
