"""File names as generators choose them: evidence only, as anyone can choose a name."""

from __future__ import annotations

import re

from proxy.metadata.generation.finding import (
    Evidence,
    EvidenceClass,
    Involvement,
    ParserResult,
    Sources,
)

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_PATTERNS = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (rf".+_{_UUID}(?:_\d)?(?:\.\w+)?", "Midjourney"),
        (r".*comfyui.*", "ComfyUI"),
        (r"dall[\s\-·]?e[\s_\-].+", "DALL-E"),
        (r"chatgpt[\s_]image.*", "ChatGPT"),
        (r"gemini_generated_image.*", "Google Gemini"),
        (r"(?:adobe\s?)?firefly[\s_].+", "Adobe Firefly"),
        (r"(?:default|leonardo)_.+_[0-9a-f\-]{8,}.*|leonardo[\s_].+", "Leonardo.Ai"),
        (r"ideogram.*", "Ideogram"),
    )
)


def generator_of(file_name: str) -> str | None:
    """Return the generator that names its files like this one, or None."""
    name = re.split(r"[\\/]", file_name)[-1][:300]
    return next((generator for pattern, generator in _PATTERNS if pattern.fullmatch(name)), None)


def parse(sources: Sources) -> ParserResult | None:
    """Return evidence from the file name; it never sets the source."""
    generator = generator_of(sources.file_name)
    if generator is None:
        return None
    says = f"named as files of {generator}"
    evidence = Evidence(EvidenceClass.FILE_NAME, "file name", "name", says)
    return ParserResult(involvement=Involvement.NONE_FOUND, evidence=[evidence])
