"""Midjourney: a description that ends with flags and the job, in PNG, EXIF or XMP.

Its own files have ``<prompt> --ar 2:1 --stylize 80 --v 6 Job ID: <UUID>``. Command lines have
similar flags, so the name, the value and the position of a flag count (`_is_proof`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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
_SWITCHES = frozenset({"tile", "draft", "fast", "relax", "turbo", "stealth", "public", "hd"})
_OTHERS = _SWITCHES | {"stop", "profile", "p"}
"""Flags without a field of their own; they are in rawParameters."""
_DISTINCTIVE = frozenset(
    {"ar", "v", "niji", "chaos", "stylize", "weird", "exp"}
    | {"sref", "sw", "iw", "cref", "cw", "oref", "ow"}
)
"""Flags that usual command-line tools do not have with a value in the form of `_VALUES`."""
_USUAL = frozenset({"aspect", "version", "c", "s", "w", "q", "quality", "style"})
"""Flags that command-line tools have as well; two of them are needed."""

_REFERENCE = r"(?:https?://\S+|\d{1,12}|random)(?:::-?\d{1,4}(?:\.\d{1,3})?)?"
_VALUES: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.IGNORECASE)
    for name, pattern in {
        "aspect": r"\d{1,4}(?:\.\d{1,3})?:\d{1,4}(?:\.\d{1,3})?",
        "version": r"[1-9](?:\.\d)?",
        "niji": r"[4-9]",
        "chaos": r"100|\d{1,2}",
        "quality": r"[1-5]|[0-2]?\.\d{1,2}",
        "stylize": r"\d{1,5}",  # up to 60000 in version 3
        "style": r"raw|cute|expressive|scenic|original|4[abc]|raw-\w{1,60}",
        "weird": r"\d{1,4}",
        "exp": r"100|\d{1,2}",
        "sref": _REFERENCE,
        "sw": r"1000|\d{1,3}",
        "iw": r"[0-3]?\.\d{1,2}|[0-3]",
        "cref": _REFERENCE,
        "cw": r"100|\d{1,2}",
        "oref": _REFERENCE,
        "ow": r"1000|\d{1,3}",
        "seed": r"\d{1,10}",
    }.items()
}
"""Form of each word of a value."""
_LISTS = frozenset({"sref", "cref", "oref"})
"""Flags whose value is several words."""
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
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_PUNCTUATION = ".,;*\"'\u201d"
"""Written after a value by people, never a part of it."""


@dataclass(slots=True)
class _Reading:
    """Flags of a text with their values."""

    values: dict[str, list[str]] = field(default_factory=dict)
    """By the long name of the flag."""
    raw: dict[str, Any] = field(default_factory=dict)
    proven: dict[str, None] = field(default_factory=dict)
    """Flags with a valid value, as they are written."""
    is_tail: bool = True
    """Whether nothing but flags and their values follows the prompt."""

    def keep(self, name: str, written: str) -> None:
        """Keep what has no field; of a repeated flag, all values."""
        value = written or True
        known = self.raw.setdefault(name, value)
        if isinstance(known, list):
            known.append(value)
        elif known is not value:
            self.raw[name] = [known, value]


def parse(sources: Sources) -> ParserResult | None:
    """Read the first text that has a job, or the first description with Midjourney's flags."""
    entries = [(entry, True) for entry in _descriptions(sources)]
    # Midjourney writes into descriptions only. Flags in other texts are those of command lines.
    entries += [(entry, False) for entry in _comments(sources)]
    for entry, is_description in entries:
        if found := _finding(entry, is_description=is_description):
            for author in (
                *sources.named("author"),
                *sources.exif("Artist"),
                *sources.xmp("dc:creator"),
            ):
                found.set("mjAuthor", as_text(author.text))
            return found
    return None


def _descriptions(sources: Sources) -> Iterator[TextEntry]:
    yield from sources.named("description")
    yield from sources.exif("ImageDescription")
    yield from sources.xmp("dc:description", "tiff:ImageDescription")
    yield from (one for one in sources.walk.iptc if one.keyword == "Caption-Abstract")


def _comments(sources: Sources) -> Iterator[TextEntry]:
    yield from sources.named("comment", "title")
    yield from sources.exif("UserComment", "XPComment")
    yield from sources.xmp("exif:UserComment")


def _finding(entry: TextEntry, *, is_description: bool) -> ParserResult | None:
    job = _JOB.search(entry.text)
    text = _JOB.sub(" ", entry.text) if job else entry.text
    flags = [flag for flag in _FLAG.finditer(text) if _is_known(flag[1])]
    reading = _read_flags(text[flags[0].start() :] if flags else "")
    prompt = as_text(text[: flags[0].start()] if flags else text)
    if job and _is_midjourneys(job, reading):
        says = f"Job ID {job[1]}"
    elif is_description and prompt and _is_proof(reading):
        shown = (flag for flag in reading.proven if flag in _DISTINCTIVE | _USUAL)
        says = f"flag --{next(shown)}"
    else:
        return None
    found = ParserResult(Source.MIDJOURNEY, generator="Midjourney", raw=reading.raw)
    found.cite(entry, EvidenceClass.GENERATOR_BLOCK, says)
    found.set("prompt", prompt)
    found.set("mjJobId", job[1] if job else None)
    found.set("fullParametersText", entry.text)
    _set_fields(found, reading)
    return found


def _is_midjourneys(job: re.Match[str], reading: _Reading) -> bool:
    """Return whether a job is one of Midjourney: printers and clusters have jobs, too."""
    if not _UUID.fullmatch(job[1]):
        return False
    return bool(reading.proven) or not job.string[job.end() :].strip(_PUNCTUATION + " \r\n\t\0")


def _is_proof(reading: _Reading) -> bool:
    """Return whether flags without a job are those of Midjourney, and not of a command line."""
    distinctive = len(_DISTINCTIVE & reading.proven.keys())
    # A command goes on after its flags: `convert in.png --aspect 16:9 out.png`.
    if not reading.is_tail:
        return distinctive > 1
    usual = {_ALIASES[flag] for flag in _USUAL & reading.proven.keys()}
    return distinctive > 0 or len(usual) > 1


def _is_known(flag: str) -> bool:
    return flag.lower() in _ALIASES or flag.lower() in _OTHERS


def _read_flags(text: str) -> _Reading:
    """Read flags and their values, which end at the next flag, also at an unknown one."""
    reading = _Reading()
    flags = list(_FLAG.finditer(text))
    for flag, following in itertools.zip_longest(flags, flags[1:]):
        written = text[flag.end() : following.start() if following else len(text)].strip()
        _read_flag(reading, flag[1].lower(), written)
    return reading


def _read_flag(reading: _Reading, flag: str, written: str) -> None:
    name = _ALIASES.get(flag)
    words = written.split()
    if name is None:
        reading.keep(flag, written)
        reading.is_tail &= len(words) <= (0 if flag in _SWITCHES else 1) or flag in ("p", "profile")
    elif name == "no":
        reading.values.setdefault(name, []).extend([written] if written else [])
    elif name == "version" and words[:1] == ["niji"]:
        _read_value(reading, flag, "niji", words[1:])
    else:
        _read_value(reading, flag, name, words)


def _read_value(reading: _Reading, flag: str, name: str, words: list[str]) -> None:
    """Read the value of a flag that has a field; keep what is no value as it is written."""
    value, rest = _value(name, words)
    is_whole = value is not None and not rest
    reading.is_tail &= is_whole
    if value is not None:
        reading.proven[flag] = None
    elif words and name in _FIELDS and _FIELDS[name][1] is not as_text:
        # A number out of range is read, but proves nothing.
        value = words[0].rstrip(_PUNCTUATION)
    # Only the first value has a field, unless it is a list.
    is_read = value is not None and (name in _LISTS or name not in reading.values)
    if value is not None and is_read:
        reading.values.setdefault(name, []).extend(value.split() if name in _LISTS else [value])
    if not (is_whole and is_read):
        reading.keep(name, " ".join(words))


def _value(name: str, words: list[str]) -> tuple[str | None, list[str]]:
    """Return a valid value, or None, and the words that follow it."""
    if name == "raw":
        return "", words
    count = 0
    for word in words[: None if name in _LISTS else 1]:
        if not _VALUES[name].fullmatch(word.rstrip(_PUNCTUATION)):
            break
        count += 1
    value = " ".join(word.rstrip(_PUNCTUATION) for word in words[:count])
    # `--niji` without a number is the newest version.
    return value or ("" if name == "niji" else None), words[count:]


def _set_fields(found: ParserResult, reading: _Reading) -> None:
    values = reading.values
    for name, (key, convert) in _FIELDS.items():
        joined = (", " if name == "no" else " ").join(values.get(name, ()))
        found.set(key, convert(joined))
    if "niji" in values:
        found.set("mjVersion", f"niji {values['niji'][0]}".strip())
    if "raw" in values or "raw" in (one.lower() for one in values.get("style", ())):
        found.set("mjRaw", True)  # noqa: FBT003 - the value of a field
    if references := values.get("sref"):
        found.set("mjStyleReferences", references)
