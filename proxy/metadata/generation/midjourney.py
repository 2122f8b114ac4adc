"""Midjourney: a description that ends with flags and the job, in PNG, EXIF or XMP."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
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
)

_ALIASES: Mapping[str, str] = {
    "ar": "aspect",
    "aspect": "aspect",
    "v": "version",
    "version": "version",
    "niji": "niji",
    "chaos": "chaos",
    "c": "chaos",
    "quality": "quality",
    "q": "quality",
    "stylize": "stylize",
    "s": "stylize",
    "style": "style",
    "raw": "raw",
    "weird": "weird",
    "w": "weird",
    "exp": "exp",
    "sref": "sref",
    "sw": "sw",
    "iw": "iw",
    "cref": "cref",
    "cw": "cw",
    "oref": "oref",
    "ow": "ow",
    "no": "no",
    "seed": "seed",
}
_OTHERS = frozenset(
    {"tile", "stop", "profile", "p", "draft", "fast", "relax", "turbo", "stealth", "public", "hd"}
)
"""Flags without a field of their own; they are in rawParameters."""
_DISTINCTIVE = frozenset({"aspect", "version", "niji", "chaos", "stylize", "sref", "weird", "oref"})
_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "aspect": ("mjAspectRatio", as_text),
    "version": ("mjVersion", as_text),
    "chaos": ("mjChaos", as_int),
    "quality": ("mjQuality", as_float),
    "stylize": ("mjStylize", as_int),
    "style": ("mjStyle", as_text),
    "weird": ("mjWeirdness", as_int),
    "exp": ("mjExperimental", as_int),
    "sw": ("mjStyleWeight", as_int),
    "iw": ("mjImageWeight", as_float),
    "cref": ("mjCharacterReference", as_text),
    "cw": ("mjCharacterWeight", as_int),
    "oref": ("mjOmniReference", as_text),
    "ow": ("mjOmniWeight", as_int),
    "no": ("negativePrompt", as_text),
    "seed": ("seed", as_text),
}
# Phones turn two hyphens into a dash.
_FLAG = re.compile(r"(?:^|(?<=\s))(?:--|\u2014|\u2013)([A-Za-z][A-Za-z0-9_]{0,30})(?=\s|$)")
_JOB = re.compile(r"\bJob ID:\s{0,9}([0-9a-fA-F-]{8,64})")


def parse(sources: Sources) -> ParserResult | None:
    """Read the first description that has a job or a flag that only Midjourney has."""
    for entry in _descriptions(sources):
        if found := _finding(entry):
            for author in (
                *sources.named("author"),
                *sources.exif("Artist"),
                *sources.xmp("dc:creator"),
            ):
                found.set("mjAuthor", as_text(author.text))
            return found
    return None


def _descriptions(sources: Sources) -> Iterator[TextEntry]:
    yield from sources.named("description", "comment", "title")
    yield from sources.exif("ImageDescription", "UserComment", "XPComment")
    yield from sources.xmp("dc:description", "exif:UserComment", "tiff:ImageDescription")
    yield from (one for one in sources.walk.iptc if one.keyword == "Caption-Abstract")


def _finding(entry: TextEntry) -> ParserResult | None:
    job = _JOB.search(entry.text)
    text = _JOB.sub(" ", entry.text) if job else entry.text
    flags = [flag for flag in _FLAG.finditer(text) if _is_known(flag[1])]
    values: dict[str, str] = {}
    raw: dict[str, Any] = {}
    if flags:
        _read_flags(text[flags[0].start() :], values, raw)
    if not job and not _DISTINCTIVE & set(values):
        return None
    found = ParserResult(Source.MIDJOURNEY, generator="Midjourney", raw=raw)
    says = f"Job ID {job[1]}" if job else f"flag --{next(iter(values))}"
    found.cite(entry, EvidenceClass.GENERATOR_BLOCK, says)
    found.set("prompt", as_text(text[: flags[0].start()] if flags else text))
    found.set("mjJobId", job[1] if job else None)
    found.set("fullParametersText", entry.text)
    for name, value in values.items():
        if name in _FIELDS:
            key, convert = _FIELDS[name]
            found.set(key, convert(value))
    _set_special(found, values)
    return found


def _set_special(found: ParserResult, values: Mapping[str, str]) -> None:
    if "niji" in values:
        found.set("mjVersion", f"niji {values['niji']}".strip())
    if "raw" in values or values.get("style", "").lower() == "raw":
        found.set("mjRaw", True)  # noqa: FBT003 - the value of a field
    if references := values.get("sref", "").split():
        found.set("mjStyleReferences", references)


def _is_known(flag: str) -> bool:
    return flag.lower() in _ALIASES or flag.lower() in _OTHERS


def _read_flags(text: str, values: dict[str, str], raw: dict[str, Any]) -> None:
    """Read flags and their values; a value ends at the next flag, also at an unknown one."""
    flags = list(_FLAG.finditer(text))
    for flag, following in zip(flags, [*flags[1:], None], strict=True):
        value = text[flag.end() : following.start() if following else len(text)].strip()
        name = _ALIASES.get(flag[1].lower())
        if name is None:
            raw[flag[1].lower()] = value or True
        else:
            values.setdefault(name, value)
