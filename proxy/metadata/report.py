"""Puts an extraction together in the confined worker: the metadata object and its quality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

from proxy.metadata import description, photograph, pillow_engine
from proxy.metadata.container.result import Walk
from proxy.metadata.exact_texts import add_xmp, with_exact_texts
from proxy.metadata.extraction import SCHEMA
from proxy.metadata.forensics.advanced import Findings, advanced_of
from proxy.metadata.formats import FORMATS, extension_matches, level_of, media_type_matches
from proxy.metadata.generation.detect import detect
from proxy.metadata.quality import ReadingFacts, quality_of
from proxy.metadata.tags import MAX_OUTPUT_BYTES, Cleaner, Groups, json_bytes

_MAX_WARNINGS, _MAX_WARNING = 200, 1000
_MAX_EXTENSION = 20
_ARCHIVE = "ZIP"
"""exiftool's group of a file that is compressed by gzip."""
_RESERVE_BYTES = 256 * 1024
"""For what the server adds to the output."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the worker sends to the server."""

    content: dict[str, Any]
    """``metadata``, ``quality``, ``fields`` (the number of tags) and ``advanced``."""
    fallback: bool


def report(  # noqa: PLR0913 - all that was read and declared
    file: BinaryIO,
    walk: Walk,
    tags: Groups | None,
    credentials: Any,
    *,
    file_name: str,
    media_type: str = "",
    stealth: bool = True,
    validation: Groups | None = None,
    advanced: bool = False,
) -> Report:
    """Describe a file; without ``tags`` of exiftool the fallback engine reads it.

    ``stealth`` also reads text that is hidden in pixels, ``advanced`` collects the facts for
    examiners, to which ``validation`` belongs.

    ``file_name`` and ``media_type`` are those that the client declared.

    Raises:
        NoEngineCouldRead: the fallback cannot read the file either.
    """
    fallback = tags is None
    groups = pillow_engine.read(file, walk) if tags is None else tags
    groups = with_exact_texts(groups, walk)
    if walk.format == "svg" and _ARCHIVE in groups:
        # exiftool describes the compression only.
        add_xmp(groups, walk.xmp)
    name = description.image_format(walk, groups)
    warnings, errors = description.warnings_of(walk, groups)
    hidden_text = pillow_engine.hidden_text(file, walk) if stealth else None
    generation, doubts = detect(
        walk,
        content_credentials=credentials,
        hidden_text=hidden_text,
        file_name=file_name,
    )
    warnings = [*warnings, *doubts]
    matches = extension_matches(name, file_name)
    other_type = "" if media_type_matches(name, media_type) else media_type
    completeness = description.completeness(walk, groups, has_credentials=bool(credentials))
    facts = ReadingFacts(
        warnings=sum(not description.is_minor(one) for one in warnings),
        minor_warnings=sum(map(description.is_minor, warnings)),
        errors=len(errors),
        fallback=fallback,
        disagreements=tuple(description.disagreements(walk, groups, name)),
        damaged=walk.damaged,
        extension=file_name.rpartition(".")[2][:_MAX_EXTENSION] if matches is False else "",
        format=name,
    )
    quality = quality_of(facts, completeness=completeness, level=level_of(name))
    metadata: dict[str, Any] = {
        "schema": SCHEMA,
        "format": name,
        "mime_type": FORMATS[name].media_types[0],
        "extension_matches": False if other_type else matches,
        "sha256": None,
        **description.image_of(walk, groups, name),
        "exif": photograph.exif_of(groups, description.orientation_of(walk, groups)),
        "gps": photograph.gps_of(groups),
        "groups": description.visible(groups),
        "text": description.texts_of(walk),
        "ai_generation": generation,
        "c2pa": credentials,
        "warnings": [one[:_MAX_WARNING] for one in (*errors, *warnings)][:_MAX_WARNINGS],
        "truncated": [],
        "withheld": None,
    }
    metadata["reasons"] = description.reasons_of(metadata, walk, quality, media_type=other_type)
    examined: dict[str, Any] | None = None
    if advanced:
        no_stealth = "metadata.stealth is off" if not stealth else pillow_engine.no_pixels(walk)
        findings = Findings(credentials, hidden_text, no_stealth, validation)
        examined, metadata["truncated"] = advanced_of(file, walk, groups, findings)
    metadata, examined = _bounded(metadata, examined)
    return Report(
        {
            "metadata": metadata,
            "advanced": examined,
            # An action quotes the extension, which a client has chosen.
            "quality": Cleaner().clean(quality, "quality"),
            "fields": description.field_count(groups),
        },
        fallback,
    )


def _bounded(
    metadata: dict[str, Any], advanced: dict[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return both parts without what is not safe in JSON, and within the limit of the output."""
    cleaner = Cleaner()
    # Paths are relative to the object: `groups.PNG.parameters`.
    clean = {key: cleaner.clean(value, key) for key, value in metadata.items()}
    examined = None if advanced is None else cleaner.clean(advanced, "advanced")
    rest = {key: value for key, value in clean.items() if key != "groups"}
    free = MAX_OUTPUT_BYTES - _RESERVE_BYTES - json_bytes([rest, examined])
    raw = clean["ai_generation"]
    empty: Any
    for part, key, empty in (
        (clean, "text", []),
        (raw, "rawParameters", {}),
        (raw, "evidence", []),
        *([(examined, "c2pa", None)] if examined else []),
        (clean, "c2pa", None),
    ):
        if free < 0:
            cleaner.cut(key)
            free += json_bytes(part[key])
            part[key] = empty
    cleaner.fit(clean["groups"], max_bytes=max(0, free))
    # A part may be in both, and be cut twice.
    clean["truncated"] = [*metadata["truncated"], *dict.fromkeys(cleaner.truncated)]
    return clean, examined
