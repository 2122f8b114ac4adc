"""Puts the facts for examiners together. There is no verdict, because no fact proves one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

from proxy.metadata.container.result import Walk
from proxy.metadata.forensics import consistency, jpeg
from proxy.metadata.forensics.privacy import privacy_of
from proxy.metadata.forensics.thumbnail import thumbnail_of
from proxy.metadata.forensics.timeline import moments
from proxy.metadata.forensics.validation import validation_of
from proxy.metadata.tags import Groups

MAX_TIMELINE = 500
_BEGINNING = 64


@dataclass(frozen=True, slots=True)
class Findings:
    """What other parts of the worker have found in the file."""

    credentials: Any
    hidden_text: str | None
    no_stealth: str
    """Why no text was searched in pixels; empty if it was."""
    validation: Groups | None
    """What exiftool printed for ``-validate``; None if it did not run."""


def advanced_of(
    file: BinaryIO, walk: Walk, groups: Groups, findings: Findings
) -> tuple[dict[str, Any], list[str]]:
    """Return the facts, without the hashes, and the paths of lists that were cut."""
    reasons: dict[str, str] = {}
    dates = moments(groups, (findings.credentials or {}).get("signed_at"))
    thumbnail, no_distance = thumbnail_of(file, walk, groups)
    if thumbnail["distance"] is None:
        reasons["thumbnail.distance"] = no_distance
    structure = jpeg.structure_of(file) if walk.format == "jpeg" else None
    end = walk.end if structure is None else structure.end
    trailing = None if end is None else max(0, walk.size - end)
    if end is None:
        reasons["trailing_bytes"] = (
            "the end of the image is missing"
            if walk.format in ("jpeg", "png", "gif", "webp")
            else "the format has no mark at its end"
        )
    if findings.validation is None:
        reasons["validation"] = "exiftool did not validate the file"
    if structure is None:
        reasons["jpeg"] = "the file is not a JPEG"
    if findings.no_stealth:
        reasons["stealth"] = findings.no_stealth
    agreed = [
        *consistency.consistency_of(walk, groups, dates),
        *consistency.thumbnail_differs(thumbnail["distance"]),
        *consistency.trailing_data(trailing, end or 0, _beginning(file, end)),
        *consistency.hidden_text(findings.hidden_text),
    ]
    facts = {
        "c2pa": findings.credentials,
        "validation": validation_of(findings.validation or {}),
        "timeline": [one.to_dict() for one in dates[:MAX_TIMELINE]],
        "consistency": agreed,
        "thumbnail": thumbnail,
        "jpeg": structure and jpeg.described(structure, progressive=walk.image.progressive),
        "trailing_bytes": trailing,
        "stealth": {
            "present": None if findings.no_stealth else findings.hidden_text is not None,
            "text": findings.hidden_text,
        },
        "privacy": privacy_of(groups),
        "reasons": reasons,
    }
    return facts, ["advanced.timeline"] if len(dates) > MAX_TIMELINE else []


def _beginning(file: BinaryIO, end: int | None) -> bytes:
    if end is None:
        return b""
    file.seek(end)
    return file.read(_BEGINNING)
