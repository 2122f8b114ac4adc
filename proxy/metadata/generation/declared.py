"""Declarations: IPTC source types, IPTC 2025.1 properties, and names of tools."""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.metadata.container.result import TextEntry
from proxy.metadata.generation.credentials import COMPOSITE, GENERATED, source_type
from proxy.metadata.generation.finding import (
    EvidenceClass,
    Involvement,
    ParserResult,
    Source,
    Sources,
    as_text,
)
from proxy.metadata.generation.tools import tool_of

_SOURCE_TYPES = (
    "Iptc4xmpExt:DigitalSourceType",
    "Iptc4xmpExt:DigitalSourcefileType",  # its name in IPTC Extension 1.0
)
_SYSTEMS = ("Iptc4xmpExt:AISystemUsed",)
_PROMPTS = ("Iptc4xmpExt:AIPromptInformation",)
_GROK = re.compile(r"Signature:\s*[A-Za-z0-9+/=]{40,}")
_MADE_WITH = re.compile(r"\b(?:made|created|generated|imagined) (?:with|by|using)\b", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_MAX_TOOL = 300
"""Longer texts are not names of tools."""


def parse(sources: Sources) -> ParserResult | None:
    """Read declarations of the image's origin; each is evidence of its own class."""
    found = ParserResult(involvement=Involvement.NONE_FOUND)
    _source_type(found, sources)
    _system(found, sources)
    for entry in _software(sources):
        tool = tool_of(entry.text) if len(entry.text) <= _MAX_TOOL else None
        if tool and (tool.only_generates or found.involvement is Involvement.GENERATED):
            found.cite(entry, EvidenceClass.TOOL_STRING, entry.text)
            _name(found, tool.source, tool.name)
    _grok(found, sources)
    return found if found.evidence else None


def _name(found: ParserResult, source: Source, generator: str) -> None:
    """Set the source, unless the image is declared as a composite."""
    found.generator = found.generator or generator
    if found.involvement is Involvement.COMPOSITE:
        return
    found.involvement = Involvement.GENERATED
    if found.source in (Source.UNKNOWN, Source.OTHER):
        found.source = source


def _source_type(found: ParserResult, sources: Sources) -> None:
    for entry in sources.xmp(*_SOURCE_TYPES):
        token = source_type(entry.text)
        if token not in (GENERATED, COMPOSITE):
            continue
        found.cite(entry, EvidenceClass.SOURCE_TYPE, token)
        found.set("digital_source_type", token)
        if token == COMPOSITE:
            found.involvement = Involvement.COMPOSITE
        else:
            _name(found, Source.OTHER, "")


def _system(found: ParserResult, sources: Sources) -> None:
    for entry in sources.xmp(*_SYSTEMS):
        found.cite(entry, EvidenceClass.SOURCE_TYPE, entry.text)
        tool = tool_of(entry.text)
        _name(found, tool.source if tool else Source.OTHER, entry.text)
        found.generator = as_text(entry.text)
        found.set("model", as_text(entry.text))
    for entry in sources.xmp("Iptc4xmpExt:AISystemVersionUsed"):
        found.set("version", as_text(entry.text))
    for entry in sources.xmp(*_PROMPTS):
        found.cite(entry, EvidenceClass.SOURCE_TYPE, "a prompt is declared")
        _name(found, Source.OTHER, "")
        found.set("prompt", as_text(entry.text))


def _software(sources: Sources) -> Iterator[TextEntry]:
    """Yield the fields that name the software or the service that made the image."""
    yield from sources.named("software", "generator", "creator tool", "creatortool")
    yield from sources.exif("Software")
    yield from sources.xmp("xmp:CreatorTool", "tiff:Software")
    yield from (one for one in sources.walk.iptc if one.keyword == "OriginatingProgram")
    # A credit may be the name of a person or an agency.
    named = [*sources.xmp("photoshop:Credit")]
    named += [one for one in sources.walk.iptc if one.keyword == "Credit"]
    yield from (one for one in named if _MADE_WITH.search(one.text))


def _grok(found: ParserResult, sources: Sources) -> None:
    """Recognise Grok: a signature as description, and a UUID as artist."""
    artist = any(_UUID.fullmatch(entry.text.strip()) for entry in sources.exif("Artist"))
    for entry in sources.exif("ImageDescription", "UserComment"):
        if artist and _GROK.fullmatch(entry.text.strip()):
            found.cite(entry, EvidenceClass.TOOL_STRING, "signature and artist as Grok writes them")
            _name(found, Source.OTHER, "Grok")
            return
